"""The Python API on runs: whatever a command does is one or two calls that return objects."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sources.models.families import language_model

import itda
from itda.cli import main
from itda.errors import CorpusError, ModelError, SettingError

SETTINGS = {"layers": [2, 4], "k": 4, "atoms": 48, "tokens": 1500, "window": 32, "refine": 2, "progress": False}


@pytest.fixture(scope="module")
def lm():
    return itda.load_model("tiny")


@pytest.fixture(scope="module")
def run(lm):
    return itda.train(lm, "python-docs", **SETTINGS)


def test_a_run_in_memory_has_the_bits_of_the_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--layers", "2,4", "--k", "4", "--atoms", "48", "--tokens", "1500", "--window", "32", "--refine", "2"]
    main(["train", "tiny", "--corpus", "python-docs", *arguments, "--out", "run", "--quiet"])
    for name in ("layer_2", "layer_4"):
        made = load_file(tmp_path / "run" / name / "atoms.safetensors")
        assert torch.equal(made["atoms"], run[name].atoms)
        assert itda.ITDA.from_pretrained(tmp_path / "run" / name).labels.keys() == run[name].labels.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # the run in memory wrote nothing here


def test_with_a_folder_a_run_is_what_the_command_writes(lm, run, tmp_path):
    made = itda.train(lm, "python-docs", **SETTINGS, out=tmp_path / "run")
    assert made.folder == tmp_path / "run"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == "tiny"
    assert torch.equal(made["layer_4"].atoms, run["layer_4"].atoms)
    assert torch.equal(itda.open_run(str(tmp_path / "run"))[4].atoms, run[itda.Site(4)].atoms)


def test_a_saved_run_is_opened_by_the_commands(run, tmp_path, capsys):
    saved = run.save(tmp_path / "run")
    main(["info", str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out)["tokens"] == 1500
    main(["decompose", str(tmp_path / "run"), "import os", "--quiet"])
    assert "import" in capsys.readouterr().out
    with pytest.raises(itda.ItdaError, match="exists already"):
        run.save(tmp_path / "run")
    assert itda.compare(run, saved)["layer_2", "layer_2"] == 1.0


def test_a_decomposition_shows_itself_and_becomes_a_table(lm, run):
    found = itda.decompose(lm, run["layer_4"], "for line in open(path):")
    lines = repr(found).splitlines()
    assert lines[0] == f"{len(found)} tokens at layer_4"
    assert len(lines) == 2 + len(found)
    assert max(map(len, lines)) <= 80
    table = found.to_pandas()
    assert list(table.token.unique()) == [token.label.token for token in found]
    assert len(table) == sum(len(token.atoms) for token in found)
    assert "for" in found._repr_html_()


def test_an_evaluation_is_by_site_and_is_that_of_the_command(run, tmp_path, capsys):
    found = itda.evaluate(run, tokens=500, progress=False)
    assert list(map(str, found)) == ["layer_2", "layer_4"]
    run.save(tmp_path / "run")
    main(["evaluate", str(tmp_path / "run"), "--tokens", "500", "--json", "--quiet"])
    told = json.loads(capsys.readouterr().out)["sites"]
    for site in ("layer_2", "layer_4"):
        assert found[site].fvu == told[site]["fvu"]
        assert found[site].ce_loss_score == told[site]["ce_loss_score"]
    assert "fvu" in repr(found)
    assert found.to_pandas().loc["layer_4", "fvu"] == found[4].fvu
    with pytest.raises(SettingError, match="no layer 3: use one of 2, 4"):
        found[3]


def test_uses_are_those_of_the_largest_coefficients(lm, run):
    found = itda.uses(run, 17, site=4, top=5, tokens=1500, progress=False)
    assert found.atom.index == 17
    values = [use.coefficient for use in found]
    assert values == sorted(values, reverse=True)
    # The atom's own activation is among the tokens, and uses it.
    assert any(use.label.key == found.atom.label.key for use in found)
    assert len(found.to_pandas()) == len(found)
    assert "atom 17" in repr(found)
    with pytest.raises(SettingError, match="no atom 48"):
        itda.uses(run, 48, progress=False)


def test_a_comparison_is_a_labelled_matrix(lm, run):
    other = itda.train(lm, "python-docs", **{**SETTINGS, "mode": "paper", "refine": 0})
    found = itda.compare(run, other)
    assert found.matrix.shape == (2, 2)
    assert (found.rows, found.columns) == (["layer_2", "layer_4"], ["layer_2", "layer_4"])
    assert found["layer_2", 4] == found.matrix[0, 1] == found.to_pandas().loc["layer_2", "layer_4"]
    assert np.array_equal(found.with_index("jaccard").matrix, found.indices["jaccard"])
    assert np.allclose(np.diag(itda.compare(run).matrix), 1.0)
    assert "layer_4" in repr(found)
    with pytest.raises(SettingError, match="no similarity index 'cka': use one of"):
        itda.compare(run, other, index="cka")


def test_harvested_batches_have_the_activations_and_labels_of_the_model(lm):
    with itda.harvest(lm, ["import os", "def f(x): return x"], layers=[3], window=16) as batches:
        found = [batch[itda.Site(3)] for batch in batches]
    assert [label.document for batch in found for label in batch.labels][:2] == ["text:0", "text:0"]
    assert all(batch.activations.shape[1] == lm.d_model for batch in found)
    with itda.harvest(lm, "python-docs", layers=2, streams=["mlp_out", "resid_post"], tokens=300, seed=1) as batches:
        assert sum(len(batch[itda.Site(2, "mlp_out")]) for batch in batches) == 300


def test_a_transformers_model_of_ones_own_and_texts_of_ones_own():
    made = language_model("llama")
    lm = itda.load_model(made.model, made.tokenizer, name="mine")
    texts = [f"text {i} says {i * i} and no more" for i in range(40)]
    run = itda.train(lm, texts, layers=1, k=3, atoms=12, window=16, progress=False)
    assert len(run[1]) == 12
    assert (run.record["model"], run.record["model_fingerprint"]) == ("mine", None)
    found = itda.evaluate(run, tokens=60, progress=False)
    assert 0 < found[1].fvu < 1.5
    assert itda.decompose(lm, run[1], "text 7")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda lm: itda.train(lm, "python-docs", layers=[2], kk=3), SettingError, "no setting 'kk': use one of"),
        (lambda lm: itda.train(lm, "python-docs", layers=[]), SettingError, "give one number, or a list"),
        (lambda lm: itda.train(lm, [], layers=2), CorpusError, "a corpus of no texts"),
        (lambda lm: itda.train(lm, "python-docs", layers=2, streams="mlp"), SettingError, "no stream 'mlp'"),
        (
            lambda lm: itda.train(lm, "python-docs", layers=2, atoms=9, threshold=0.1),
            SettingError,
            "exclude each other",
        ),
        (lambda lm: itda.train(lm, "python-docs", layers=99), ModelError, "99"),
        (lambda lm: itda.train(lm, "python-docs", layers=2, workers=2), SettingError, "workers says how a model is"),
        (lambda lm: itda.load_model("tiny", object()), SettingError, "leave out yours"),
        (lambda lm: itda.load_model(torch.nn.Linear(2, 2), object()), ModelError, "give a transformers model"),
        (lambda lm: itda.open_run("nowhere"), itda.ItdaError, "no run folder nowhere"),
        (
            lambda lm: itda.decompose(lm, itda.fit(torch.eye(8), atoms=4, k=1), "x"),
            SettingError,
            "of which site of a model",
        ),
    ],
)
def test_a_slip_is_one_line_that_says_what_to_do(lm, call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as caught:
        call(lm)
    assert "\n" not in str(caught.value)
    assert list(Path.cwd().iterdir()) == []
