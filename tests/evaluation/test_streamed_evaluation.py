"""A dictionary spliced into a streamed model: the measures of one that is in memory."""

from dataclasses import asdict

import pytest
import torch
from sources.models.families import FAMILIES, TOKENIZERS, build

from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.evaluation.evaluate import evaluate_groups
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed import model as streaming
from itda.sources.streamed.model import StreamedModel

CORPUS = Corpus.from_texts(["the cat sat on the mat. " * 9, "a dog ran to be or not to be", "x", "the dog"])
SITES = [Site(0), Site(1), Site(1, "mlp_out"), Site(1, "attn_out"), Site(2)]
WINDOW, BATCH = 12, 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {}

    def of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            build(name).save_pretrained(folders[name], max_shard_size="20KB")
            TOKENIZERS[FAMILIES[name].tokenizer]().save_pretrained(folders[name])
        return str(folders[name])

    return of


def dictionaries(model, sites):
    """Every ninth activation of each site as an atom."""
    found = {site: [] for site in sites}
    for batches in ModelSource(model, CORPUS, sites, window=WINDOW, batch_size=BATCH):
        for site, batch in batches.items():
            found[site].append(batch)
    made = {}
    for site, batches in found.items():
        x = torch.cat([batch.activations for batch in batches])[::9].float()
        labels = [label for batch in batches for label in batch.labels][::9]
        made[site] = ITDA(x / x.norm(dim=1, keepdim=True), type(batches[0].labels).of(*labels), k=3)
    return made


def measured(model, made):
    windower, counted = model.windower(WINDOW), []
    results = evaluate_groups(model, lambda: windower.groups(CORPUS, BATCH), made, progress=counted.append)
    return results, sum(counted)


def alike(found, expected, *, exactly=()):
    assert found.keys() == expected.keys()
    for site, result in found.items():
        other = asdict(expected[site])
        for name, value in asdict(result).items():
            if name == "encode_per_second":
                continue
            if name in exactly or not isinstance(value, float):
                if name != "intervals":
                    assert value == other[name], (site, name)
            else:
                assert value == pytest.approx(other[name], rel=1e-5, abs=1e-7), (site, name)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma-2", "gemma-3", "gpt-j", "bert"])
def test_measures_are_those_of_the_model_in_memory(saved, name):
    ordinary = LanguageModel.load(saved(name))
    made = dictionaries(ordinary, SITES)
    expected, tokens = measured(ordinary, made)
    streamed = StreamedModel.load(saved(name), head=True)
    found, counted = measured(streamed, made)
    assert counted == tokens
    # What needs no logits is the same to the bit: its activations are.
    alike(found, expected, exactly=("fvu", "l0", "tokens", "predicted", "unused_atoms"))
    assert (expected[SITES[0]].ce_clean is None) == (name == "bert")
    assert streamed.replayable == (name != "gpt-j")


def test_each_weight_is_read_once_for_the_means_and_once_for_all_branches(saved):
    ordinary = LanguageModel.load(saved("llama"))
    made = dictionaries(ordinary, [Site(0), Site(1)])
    streamed = StreamedModel.load(saved("llama"), head=True)
    measured(streamed, made)
    sizes = [sum(each.bytes for each in stored) for stored in streamed.weights.of_block]
    assert streamed.weights.bytes_read == sum(sizes[:2]) + sum(sizes)


def test_states_on_disk_and_logits_of_few_windows_change_nothing(saved, tmp_path, monkeypatch):
    ordinary = LanguageModel.load(saved("llama"))
    made = dictionaries(ordinary, SITES)
    expected, _ = measured(ordinary, made)
    monkeypatch.setattr(streaming, "LOGITS", 1)  # one window at a time
    streamed = StreamedModel.load(saved("llama"), head=True, memory=1, scratch=tmp_path)
    alike(measured(streamed, made)[0], expected)


def test_small_flights_change_nothing(saved):
    ordinary = LanguageModel.load(saved("llama"))
    made = dictionaries(ordinary, [Site(1)])
    expected, _ = measured(ordinary, made)
    streamed = StreamedModel.load(saved("llama"), head=True, memory=1)
    assert streamed.flight(WINDOW * BATCH, 4) == 1
    alike(measured(streamed, made)[0], expected)
