"""Labels for what has none: the token that a direction of an SAE fits best, and a run around it for every command."""

import json
from types import SimpleNamespace

import pytest
import torch

import itda
from itda import Site
from itda.bridges.decoders import from_sae
from itda.bridges.labelled_run import labelled_run
from itda.bridges.labelling import label
from itda.cli import main
from itda.errors import CorpusError, SettingError

TEXTS = [f"for line in open(path{i}): print(line, end={i})" for i in range(40)]


@pytest.fixture(scope="module")
def lm():
    return itda.load_model("tiny")


@pytest.fixture(scope="module")
def sae():
    """Directions of any length at a site, with a bias, as an object of SAELens has them."""
    generator = torch.Generator().manual_seed(0)
    about = SimpleNamespace(hook_name="blocks.3.hook_resid_post", model_name="tiny", context_size=32)
    config = SimpleNamespace(k=4, normalize_activations="none", metadata=about)
    weights = [torch.randn(size, generator=generator) for size in ((20, 192), (192,))]
    return SimpleNamespace(cfg=config, W_dec=3 * weights[0], b_dec=weights[1])


def test_a_direction_is_labelled_by_the_token_of_the_largest_cosine(lm, sae):
    model = label(from_sae(sae), lm, TEXTS, tokens=150)
    with itda.harvest(lm, TEXTS, layers=3, window=32, tokens=150) as batches:
        parts = [batch[Site(3)] for batch in batches]
    x = torch.cat([part.activations for part in parts]).double() - sae.b_dec.double()
    cosines = torch.nn.functional.normalize(x, dim=1) @ model.atoms.double().T
    best = cosines.max(dim=0)
    labels = itda.Labels.concatenate([part.labels for part in parts])
    assert model.labels.keys() == labels[best.indices].keys()
    torch.testing.assert_close(model.fidelity.double(), best.values, rtol=0, atol=1e-6)


def test_a_run_around_an_sae_is_evaluated_saved_and_indexed(lm, sae, tmp_path, capsys):
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    run = labelled_run(from_sae(sae), lm, str(corpus), tokens=150)
    assert len(run.tokens()) == 150
    assert itda.evaluate(run, tokens=20, progress=False)["layer_3"].fvu > 0
    run.save(tmp_path / "run")
    opened = itda.open_run(tmp_path / "run")
    assert torch.equal(opened["layer_3"].atoms, from_sae(sae).atoms)
    assert opened["layer_3"].labels.keys() == run["layer_3"].labels.keys()
    main(["index", str(tmp_path / "run"), "--tokens", "100", "--quiet"])
    main(["export", str(tmp_path / "run"), "--to", "json", "--quiet"])
    rows = [json.loads(line) for line in (tmp_path / "run-json" / "layer_3" / "atoms.jsonl").read_text().splitlines()]
    assert [row["token"] for row in rows] == [each.token for each in run["layer_3"].labels]
    main(["info", str(tmp_path / "run")])
    assert "mode sae" in capsys.readouterr().out


def test_bad_input_is_one_line(lm, sae):
    nowhere = SimpleNamespace(W_dec=sae.W_dec)
    with pytest.raises(SettingError, match=r"^SimpleNamespace has no k of its own: give k, such as its l0$"):
        from_sae(nowhere)
    with pytest.raises(SettingError, match=r"^the dictionary does not say of which site it is: say so with"):
        labelled_run(from_sae(nowhere, k=3), lm, TEXTS)
    with pytest.raises(CorpusError, match="tokens to label atoms with"):
        label(from_sae(sae), lm, [""])
