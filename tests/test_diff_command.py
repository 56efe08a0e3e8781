"""`itda diff` on tiny models: what it finds, keeps and refuses."""

import copy
import io
import json
from contextlib import redirect_stdout
from shutil import copytree

import numpy as np
import pytest
import torch
from test_cli import printed, refused

import itda
from itda import Diff, Site
from itda import config as settings
from itda.cli import main
from itda.core.dictionary import ITDA
from itda.core.diffing.ranking import FACTOR
from itda.diffing.batches import PairedBatch
from itda.diffing.pairs import PairedSource
from itda.recipes.diff import diff
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.store.diff_records import read_diff_values
from itda.store.diffs import read_diff

TEXTS = [f"import os\n\n\ndef f_{i}(path):\n    return os.path.join(path, '{i} plums')\n" * 9 for i in range(9)]
PROMOTED = ("promoted", "suppressed")
GIVEN = {"tokens": 2000, "window": 48, "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the bundled model with noise on its weights: a changed model, and a control."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("changed", "control")):
        lm = LanguageModel.load("tiny")
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in lm.model.parameters():
                value.add_(0.02 * value.std(correction=0) * torch.randn(value.shape, generator=draw))
        lm.model.save_pretrained(folder / name)
        lm.tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def made(models, corpus, tmp_path_factory):
    """What the command keeps, where, and what it prints."""
    out = tmp_path_factory.mktemp("out") / "diff"
    arguments = ["diff", "tiny", str(models / "changed"), "--corpus", str(corpus), "--layer", "1,4", "--tokens", "2000"]
    arguments += ["--control", str(models / "control"), "--noise", "200", "--window", "48", "--batch-size", "4"]
    printed = io.StringIO()
    with redirect_stdout(printed):
        main([*arguments, "--out", str(out), "--json", "--quiet"])
    return Diff.load(out), out, json.loads(printed.getvalue())


def test_a_diff_says_what_changed_at_each_site(made, models):
    found, _, _ = made
    values = found.values
    assert list(values["sites"]) == ["layer_1", "layer_4"] == list(map(str, found.sites))
    assert (values["same"], values["shared_basis"], values["documents"]) == (False, True, 8)
    assert values["base"]["name"] == "tiny"
    assert values["changed"]["name"] == str(models / "changed")
    assert [each["name"] for each in values["controls"]] == [str(models / "control")]
    site = found[4]
    assert not site["unchanged"]
    assert site["tokens"] + site["massive"]["left_out"] == 2000 == values["tokens"]
    atoms = site["difference"]["atoms"]
    assert atoms
    assert [atom["effect"] for atom in atoms] == sorted((atom["effect"] for atom in atoms), reverse=True)
    assert all(len(atom[model][end]) == 10 for atom in atoms for model in ("base", "changed") for end in PROMOTED)
    assert all(atom["document"] not in [each["document"] for each in atom["examples"]] for atom in atoms)
    (strongest,) = site["difference"]["strongest_of_controls"]
    assert all((atom["beyond"] > FACTOR * strongest) >= atom["finding"] for atom in atoms)
    assert values["noise"]["batch_size 2"]["sites"]["layer_4"]["1"] < 1e-5
    assert 0 < values["noise"]["dtype bfloat16"]["kl"] < values["kl"]["mean"]
    json.dumps(values, allow_nan=False)


def test_an_atom_is_told_with_its_text(made):
    found, _, _ = made
    for atom in found["layer_4"]["difference"]["atoms"]:
        number = int(atom["document"].removesuffix(".py"))
        text = TEXTS[number]
        assert text[atom["char_start"] : atom["char_end"]] == atom["token"]
        assert atom["before"] + atom["token"] + atom["after"] in text


def test_a_diff_is_kept_in_a_folder_and_printed(made, tmp_path):
    found, out, said = made
    assert said == {"out": str(out), **found.values}
    files = {"diff.json", "tokens.parquet", "layer_1", "layer_4", "layer_1.parquet", "layer_4.parquet"}
    assert {file.name for file in out.iterdir()} == files
    found.save(tmp_path / "copy")
    again = Diff.load(tmp_path / "copy")
    assert again.values == found.values == read_diff_values(out)
    for name, column in found.tokens.items():
        assert np.array_equal(again.tokens[name], column, equal_nan=column.dtype.kind == "f")
    for site, columns in found.rows.items():
        assert all(np.array_equal(again.rows[site][name], column) for name, column in columns.items())
        dictionary = ITDA.from_pretrained(out / str(site))
        assert torch.equal(dictionary.atoms, found.dictionaries[site].atoms)
        assert dictionary.labels.keys() == found.dictionaries[site].labels.keys()


def test_info_shows_a_kept_diff(made, capsys):
    _, out, before = made
    assert json.loads(printed(capsys, "info", str(out), "--json")) == before


def test_a_kept_dictionary_codes_differences_as_the_table_has_them(made, models, corpus):
    """The dictionary takes `changed / scales[1] - base / scales[0]`."""
    found, _, _ = made
    site = Site(4)
    dictionary, rows = found.dictionaries[site], found.rows[site]
    first, second = dictionary.provenance["scales"]
    lm, other = LanguageModel.load("tiny"), LanguageModel.load(str(models / "changed"))
    documents = open_corpus(str(corpus)).shuffled(0)
    source = PairedSource(lm, other, documents, [site], window=48, batch_size=4, tokens=2000, predictions=False)
    batches = [each for each in source if isinstance(each, PairedBatch)]
    x = torch.cat([each.changed.double() / second - each.base.double() / first for each in batches]).float()
    code = dictionary.encode(x)
    last = slice(-200, None)  # all atoms were there
    assert torch.equal(code.indices[last, 0], torch.from_numpy(rows["atom_0"][last]).long())
    assert torch.allclose(code.coefficients[last, 0], torch.from_numpy(rows["coefficient_0"][last]), atol=1e-4)


def test_a_model_against_itself_is_unchanged_and_said_to_be(corpus, models, tmp_path):
    copied = copytree(models / "changed", tmp_path / "copy")
    found = itda.diff(models / "changed", copied, corpus, noise=0, layers=4, **GIVEN)
    assert found.same
    assert found[4]["unchanged"]
    assert found.values["kl"]["mean"] == 0
    assert found.values["noise"] is None
    assert found.dictionaries == {}


def test_models_in_memory_are_taken():
    lm = LanguageModel.load("tiny")
    other = copy.deepcopy(lm.model)
    with torch.no_grad():
        other.get_output_embeddings().weight.add_(0.1 * torch.randn(other.get_output_embeddings().weight.shape))
    found = itda.diff(lm, other, TEXTS, kl=False, noise=0, layers=1, **GIVEN)
    assert found.values["kl"] is None
    assert not found.same
    assert found[1]["difference"]["ranked_by"] == "energy"


def test_bad_input_is_refused_in_one_line(models, corpus, tmp_path, capsys):
    good = ["diff", "tiny", str(models / "changed"), "--corpus", str(corpus), "--layers", "1"]
    assert "no CHANGED given" in refused(capsys, *["diff", "tiny", "--corpus", "x", "--layers", "1"])
    assert "no layers given" in refused(capsys, *good[:-2])
    assert "no layer 6: tiny has layers 0 to 5" in refused(capsys, *[*good[:-1], "6"])
    assert "a diff needs at least 2,000 tokens" in refused(capsys, *[*good, "--tokens", "100"])
    assert "exists already" in refused(capsys, *[*good, "--out", str(corpus)])
    assert "no folder" in refused(capsys, *[*good, "--control", "./nowhere"])
    assert "no model has a chat template" in refused(capsys, *[*good, "--chat"])
    few = tmp_path / "few"
    few.mkdir()
    (few / "a.txt").write_text("short")
    assert "add more text" in refused(capsys, *[*good[:4], str(few), *good[5:]])
    with pytest.raises(itda.ItdaError, match="no setting 'windows'"):
        itda.diff("tiny", "tiny", TEXTS, layers=1, windows=3, **GIVEN)


def test_a_diff_that_is_stopped_leaves_nothing(models, corpus, tmp_path, monkeypatch):
    out = tmp_path / "out"
    seen = []

    def stop(_self, _found):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("itda.recipes.diff_pass.DiffPass.offer", stop)
    options = settings.Diff(
        base="tiny", changed=str(models / "changed"), corpus=str(corpus), layers=(1,), tokens=2000, out=out
    )
    with pytest.raises(KeyboardInterrupt):
        diff(options)
    assert list(tmp_path.iterdir()) == []


def test_damaged_diffs_are_refused(made, tmp_path):
    for damage, message in (
        (lambda folder: (folder / "diff.json").write_text("{"), "cut short"),
        (lambda folder: (folder / "tokens.parquet").write_bytes(b"PAR1"), "is damaged"),
        (lambda folder: (folder / "layer_1.parquet").unlink(), "is damaged"),
        (lambda folder: (folder / "layer_1" / "atoms.safetensors").write_bytes(b"x"), "layer_1"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        copytree(made[1], folder)
        damage(folder)
        with pytest.raises(itda.ItdaError, match=message):
            read_diff(folder)
