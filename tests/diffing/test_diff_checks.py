"""What is refused before a model is loaded, in one line; and the noise of one model."""

import numpy as np
import pytest
import torch
from changed_models import CORPUS, another_width, of, saved
from sources.models.families import byte_tokenizer, shared

from itda.core.batch import Site
from itda.diffing import checks
from itda.diffing.batches import PairedBatch
from itda.diffing.checks import Outline, check_enough, check_outlines, outlines
from itda.diffing.noise import in_other_dtype, noise_of, norm_quantiles
from itda.errors import CorpusError, ModelError, SettingError
from itda.sources.corpora.corpus import Corpus


def test_outlines_are_known_without_weights(tmp_path):
    base, deep = saved(shared("llama"), tmp_path / "base"), saved(another_width(layers=4), tmp_path / "deep")
    for file in tmp_path.glob("*/*.safetensors"):
        file.unlink()
    found = outlines(base, deep, [shared("gpt2")])
    assert [each.layers for each in found] == [3, 4, 3]
    check_outlines(found[:2], [Site(2)])
    with pytest.raises(ModelError, match=r"^no layer 3: \S+ has layers 0 to 2$"):
        check_outlines(found[:2], [Site(3)])
    with pytest.raises(ModelError, match=r"have different vocabularies \(265 and 263 tokens\).*itda fingerprint"):
        check_outlines(found, [Site(0)])


def test_added_tokens_and_another_dressing_cut_text_alike():
    plain, chat = byte_tokenizer(), byte_tokenizer()
    chat.add_special_tokens({"additional_special_tokens": ["<user>"]})
    check_outlines([Outline("a", 3, plain), Outline("b", 3, chat)], [Site(0)])
    other = byte_tokenizer()
    other.add_special_tokens({"additional_special_tokens": ["<system>"]})
    with pytest.raises(ModelError, match="different vocabularies, so"):
        check_outlines([Outline("a", 3, chat), Outline("b", 3, other)], [Site(0)])


def enough(corpus, tokens=None, **options):
    check_enough(byte_tokenizer(), corpus, window=16, tokens=tokens, **options)


def test_corpora_that_say_nothing_are_refused_with_what_would_be_enough(monkeypatch):
    enough(Corpus.from_texts(["to be or not to be " * 20] * 8))
    enough(Corpus.from_texts(["to be or not to be " * 20] * 8), 2500)
    need = r"a diff needs at least 2,000 tokens of 8 documents to say anything"
    with pytest.raises(CorpusError, match=rf"text has [\d,]+ tokens of 7 documents: {need}; add more text$"):
        enough(Corpus.from_texts(["to be or not to be " * 40] * 7))
    with pytest.raises(CorpusError, match=rf"text has 14 tokens of 2 documents: {need}"):
        enough(Corpus.from_texts(["to be or"] * 2 + ["x"] * 9))
    with pytest.raises(SettingError, match=rf"^100 tokens: {need}$"):
        enough(Corpus.from_texts(["to be"]), 100)
    with pytest.raises(SettingError) as error:
        enough(Corpus.from_texts(["to be or not to be " * 100] * 9), 2000)
    assert "the first 2,000 tokens of text are of 2 documents" in str(error.value)
    said = int(str(error.value).split("read ")[1].split()[0].replace(",", ""))
    enough(Corpus.from_texts(["to be or not to be " * 100] * 9), said)
    with pytest.raises(SettingError):
        enough(Corpus.from_texts(["to be or not to be " * 100] * 9), said - 15)


def test_what_is_enough_is_counted_as_it_is_read(monkeypatch):
    """The tokens that the check counts are those that a pair reads."""
    model, corpus = shared("llama"), CORPUS
    for first in (True, False):
        monkeypatch.setattr(checks, "LEAST_DOCUMENTS", 1)
        source = of(model, model, first_tokens=first, predictions=False)
        list(source)
        for least in (source.read, source.read + 1):
            monkeypatch.setattr(checks, "LEAST_TOKENS", least)
            try:
                check_enough(model.tokenizer, corpus, window=12, tokens=None, first_tokens=first)
                assert least == source.read
            except CorpusError:
                assert least == source.read + 1


def test_the_noise_of_a_model_is_its_distance_from_itself():
    model, site = shared("llama"), Site(2)
    found = list(
        noise_of(model, CORPUS, [site], window=12, batch_size=4, tokens=60, in_other_dtype=in_other_dtype(model))
    )
    assert {each.kind for each in found} == {"batch_size 2", "dtype bfloat16"}
    pairs = {kind: [each.found for each in found if each.kind == kind] for kind in ("batch_size 2", "dtype bfloat16")}
    (regrouped,) = [each for each in pairs["batch_size 2"] if isinstance(each, PairedBatch)]
    assert regrouped.tokens.tolist() == list(range(60))
    assert norm_quantiles(regrouped)[1.0] < 1e-5
    other = [each for each in pairs["dtype bfloat16"] if isinstance(each, PairedBatch)]
    assert sum(map(len, other)) == 60
    assert torch.equal(torch.cat([each.base for each in other]), regrouped.base)
    assert 1e-4 < norm_quantiles(other[0])[0.5] < 0.1
    kl = np.concatenate([each.found.kl for each in found if not isinstance(each.found, PairedBatch)])
    assert 0 < np.nanmean(kl) < 0.1
    assert model.dtype == "float32"
    assert in_other_dtype(in_other_dtype(model)).dtype == "float32"
