"""Four small runs that an older itda made are opened, read, indexed, explored, compared and gone on with.

`runs_made_before/` has them, and the corpus they were made from as a function. `best` was evaluated and indexed: it is
of mode best as it was before there was a choice of recipes. `centres` is of recipe 2, and was evaluated.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs_made_before.small_corpus import write_corpus
from test_cli import printed

import itda
from itda.cli import main
from itda.explorer.overview import overview
from itda.explorer.run_cache import RunCache
from itda.recipes.run_in_progress import versions

MADE = Path(__file__).parent / "runs_made_before"
PLACE = "CORPUS-OF-THE-RUN"
"""Stands in the files for the folder of the corpus."""


@pytest.fixture
def runs(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    for name in ("paper", "best", "centres", "unfinished"):
        shutil.copytree(MADE / name, tmp_path / name)
    for path in (*tmp_path.rglob("*.json"), *tmp_path.rglob("README.md")):
        path.write_text(path.read_text(encoding="utf-8").replace(PLACE, str(corpus)), encoding="utf-8")
    return tmp_path


def test_info_tells_what_is_in_them(runs, capsys):
    text = printed(capsys, "info", str(runs / "best"))
    assert "2,000 tokens" in text
    assert "layer_4" in text
    values = json.loads(printed(capsys, "info", str(runs / "paper"), "--json"))
    assert values["dictionaries"]["layer_2"]["k"] == 4
    assert values["settings"]["tokens"] == "2k"
    assert values["dictionaries"]["layer_2"]["arithmetic"] == [1]
    said = "layer_2, layer_4: made with sums in order 1; this itda's are in order 2, so codes may differ in"
    assert said in " ".join(text.split())


def test_their_dictionaries_encode_and_decode(runs, tmp_path):
    run = itda.open_run(runs / "best")
    dictionary = run["layer_4"]
    assert dictionary.arithmetic == (1,)
    dictionary.save_pretrained(tmp_path / "copy")
    assert itda.ITDA.from_pretrained(tmp_path / "copy").arithmetic == (1,)
    assert len(dictionary) == 48
    x = 100 * dictionary.atoms[:5] + dictionary.offset
    code, error = dictionary.decompose(x)
    assert code.indices[:, 0].tolist() == list(range(5))
    assert float(error.max()) < 1e-6
    assert torch.allclose(dictionary.decode(code), x, atol=1e-3)


def test_a_prompt_is_decomposed_and_the_dictionaries_are_evaluated(runs, capsys):
    found = json.loads(printed(capsys, "decompose", str(runs / "best"), "return self path", "--json", "--quiet"))
    assert found["site"] == "layer_4"
    printed(capsys, "evaluate", str(runs / "paper"), "--tokens", "300", "--quiet")
    before = json.loads((MADE / "best" / "layer_4" / "metrics.json").read_text())
    printed(capsys, "evaluate", str(runs / "best"), "--tokens", "300", "--quiet")
    after = json.loads((runs / "best" / "layer_4" / "metrics.json").read_text())
    assert after.keys() == before.keys()
    assert after["fvu"] == pytest.approx(before["fvu"], rel=1e-4)


def test_the_index_that_is_there_is_used_and_another_is_made(runs, capsys):
    there = json.loads(printed(capsys, "index", str(runs / "best"), "--tokens", "600", "--json", "--quiet"))
    assert not there["new"]
    made = json.loads(printed(capsys, "index", str(runs / "paper"), "--tokens", "600", "--json", "--quiet"))
    assert (made["new"], made["tokens"]) == (True, 600)
    records = [json.loads((runs / name / "index" / "index.json").read_text()) for name in ("best", "paper")]
    assert [record.get("arithmetic") for record in records] == [None, 2]


def test_they_are_compared_with_each_other_and_with_one_made_now(runs, capsys):
    arguments = ["--k", "4", "--mode", "paper", "--threshold", "0.6", "--tokens", "2k", "--out", str(runs / "now")]
    main(["train", "tiny", "--layers", "2", "--corpus", str(runs / "corpus"), *arguments, "--quiet"])
    capsys.readouterr()
    found = json.loads(printed(capsys, "compare", str(runs / "paper"), str(runs / "now"), "--json"))["pairs"][0]
    # The same settings: 2k and 2000 are one number of tokens. What differs are versions, and so the last bits.
    assert found["kind"] == "noise floor"
    assert "arithmetic: 1 and 2" in found["differences"]
    assert found["same_site"]["layer_2"]["jaccard"] > 0.9
    other = json.loads(printed(capsys, "compare", str(runs / "paper"), str(runs / "best"), "--json"))["pairs"][0]
    assert other["kind"] == "models"


def test_a_page_of_one_is_exported(runs, capsys):
    page = runs / "page.html"
    printed(capsys, "explore", str(runs / "best"), "--export", str(page), "--top", "5", "--no-model", "--quiet")
    assert "layer_4" in page.read_text(encoding="utf-8")


def test_a_run_that_was_left_unfinished_is_gone_on_with(runs, capsys):
    # A run goes on with the libraries that it was begun with: say that it was begun with those of today.
    path = runs / "unfinished" / "unfinished.json"
    record = json.loads(path.read_text())
    record["about"] |= {"versions": versions(), "threads": torch.get_num_threads()}
    path.write_text(json.dumps(record))
    checkpoint = record["settings"]
    assert (checkpoint["layers"], checkpoint["tokens"]) == ("2", "2k")
    main(["train", "--resume", str(runs / "unfinished")])
    output, said = capsys.readouterr()
    assert "layer_2" in output
    assert said.count("the last bits of its dictionaries are of orders 1 and 2") == 1
    resumed = itda.open_run(runs / "unfinished")[2]
    assert (resumed.arithmetic, itda.open_run(runs / "unfinished").record["arithmetic"]) == ((1, 2), [1, 2])
    arguments = [
        "--k",
        "4",
        "--threshold",
        "0.6",
        "--offset",
        "64",
        "--massive",
        "off",
        "--recipe",
        "1",
        "--refine",
        "2",
    ]
    arguments += ["--tokens", "2k", "--batch-size", "2", "--out", str(runs / "whole"), "--quiet"]
    main(["train", "tiny", "--layers", "2", "--corpus", str(runs / "corpus"), *arguments])
    whole = itda.open_run(runs / "whole")[2]
    assert resumed.labels.keys() == whole.labels.keys()
    assert torch.allclose(resumed.atoms, whole.atoms, atol=1e-4)
    assert not (runs / "unfinished" / "unfinished.json").exists()


def test_one_of_recipe_2_says_what_it_is_and_is_made_again(runs, capsys):
    text = printed(capsys, "info", str(runs / "centres"))
    assert "Recipe 2: each atom is the centre of a group" in text
    assert "asked for: 24 atoms" in text
    assert "Refined: each atom was moved" in printed(capsys, "info", str(runs / "best"))
    page = overview(RunCache([runs / "centres"]), "centres")
    assert (page["settings"]["recipe"], page["growth"]) == (2, None)  # nothing grew, so there is no curve
    again = runs / "again"
    # Three steps were all that there was then; today so many tokens for each atom have more.
    arguments = ["--k", "4", "--atoms", "24", "--tokens", "2k", "--steps", "3", "--out", str(again), "--quiet"]
    main(["train", "tiny", "--layers", "4", "--corpus", str(runs / "corpus"), *arguments])
    before, now = (itda.open_run(folder)["layer_4"] for folder in (runs / "centres", again))
    assert now.labels.keys() == before.labels.keys()
    assert torch.allclose(now.atoms, before.atoms, atol=1e-5)
    assert torch.allclose(now.fidelity, before.fidelity, atol=1e-5)
    settings = [json.loads((folder / "run.json").read_text())["settings"] for folder in (runs / "centres", again)]
    assert {name: settings[1][name] for name in settings[0] if name not in ("out", "tokens")} == {
        name: value for name, value in settings[0].items() if name not in ("out", "tokens")
    }
