"""Delphi's own loader reads our cache: the latents, their tokens and their activations are those of the index."""

import json
import shutil
import sys
from importlib.metadata import version
from types import ModuleType

import numpy as np
import pytest
from made_up_run import make_run
from page_blocks import run_blocks

import itda
from itda import Site
from itda.api import commands
from itda.bridges.indexed import Indexed
from itda.store.records import open_record

sys.modules["vllm"] = ModuleType("vllm")  # what runs Delphi's own explainer; reading a cache needs none of it

from delphi.config import ConstructorConfig, SamplerConfig  # noqa: E402
from delphi.latents import LatentDataset  # noqa: E402

SITES = (Site(1), Site(3, "mlp_out"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    make_run(folder, sites=SITES, atoms=64, tokens=40_000, k=8, window=127)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["positive", "both_signs"])
def exported(request, run):
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "remarks", lambda _quiet: said.append)
        out = run.parent / f"out-{request.param}"
        itda.export(run, to="delphi", out=out, both_signs=request.param, progress=False)
    return out, request.param, said


class Words:
    """A tokenizer that shows ids: the made-up run's tokens are of no real one."""

    @staticmethod
    def batch_decode(tokens):
        return [str(int(token)) for token in tokens]


def records_of(out, module, **given):
    sampler = SamplerConfig(n_examples_train=10, n_examples_test=10, n_quantiles=5)
    dataset = LatentDataset(out / "latents", sampler, ConstructorConfig(**given), tokenizer=Words(), modules=[module])
    return dataset, {record.latent.latent_index: record for record in dataset}


def test_the_version_is_that_of_the_list():
    assert version("eai-delphi") == "0.1.3"


def test_each_latent_has_the_uses_of_its_atom(run, exported):
    out, both, _ = exported
    record = open_record(run)
    for site, module in zip(SITES, ("layers.1", "layers.3.mlp"), strict=True):
        index = Indexed.open(record, site).index
        dataset, _ = records_of(out, module)
        found = {}
        for buffer in dataset.buffers:
            for each in buffer:
                data = each.activation_data
                ids = dataset.tokens[data.locations[:, 0], data.locations[:, 1]]
                found[each.latent.latent_index] = list(zip(ids.tolist(), data.activations.tolist(), strict=True))
        expected = {}
        for atom in range(index.atoms):
            tokens, values = index.uses(atom)
            for sign, latent in ((1, atom), (-1, atom + index.atoms))[: 1 + both]:
                own = np.sort(tokens[sign * values > 1e-5])
                weight = dict(zip(tokens.tolist(), np.abs(values).astype(np.float16).tolist(), strict=True))
                if len(own):
                    expected[latent] = [(index.text.token_id[token], weight[token]) for token in own.tolist()]
        assert found == expected


def test_the_latents_that_it_keeps_are_all_but_those_that_we_told(exported):
    out, both, said = exported
    dropped = json.loads((out / "delphi.json").read_text())["dropped"]
    for module in ("layers.1", "layers.3.mlp"):
        _, records = records_of(out, module)
        assert sorted(records) == [i for i in range(64 * (1 + both)) if i not in dropped[module]]
        assert records
        assert dropped[module]
        assert any(f"latents of {module}" in line for line in said)


def test_the_first_example_of_a_latent_is_its_largest_use(run, exported):
    index = Indexed.open(open_record(run), SITES[0]).index
    _, records = records_of(exported[0], "layers.1")
    for latent, record in records.items():
        values = index.uses(latent % index.atoms)[1] * (1 if latent < index.atoms else -1)
        assert float(record.examples[0].activations.max()) == float(np.float16(values.max()))
        for example in record.examples:
            assert len(example.tokens) == 32
            assert float(example.activations.min()) >= 0


def test_non_activating_examples_are_there(exported):
    _, records = records_of(exported[0], "layers.1", n_non_activating=5)
    assert any(len(record.not_active) == 5 for record in records.values())


def test_the_block_of_the_page_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    names = run_blocks("bridges.md", "Delphi", {})
    assert len(names["records"]) > 10
    assert names["records"][0].train[0].str_tokens
