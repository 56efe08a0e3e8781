"""`itda export`: what it writes is whole or not there, and bad input is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from made_up_run import make_run

import itda
from itda import Site
from itda.bridges import tables
from itda.cli import main
from itda.errors import StoreError

FORMATS = ("json", "parquet", "delphi", "neuronpedia")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "run"
    make_run(folder, sites=(Site(1), Site(3, "mlp_out")))
    return folder


def options(to):
    return ["--to", to, *(["--model", "gpt2-small"] if to == "neuronpedia" else []), "--quiet"]


@pytest.mark.parametrize("to", [*FORMATS, "saelens"])
def test_each_format_is_written_beside_the_run_and_said(run, capsys, to):
    main(["export", str(run), *options(to)])
    out = run.parent / f"run-{to}"
    said = capsys.readouterr().out
    assert said.startswith(f"Written: {out}, ")
    assert "layer_1, layer_3.mlp_out" in said
    assert any(file.is_file() for file in out.rglob("*"))
    shutil.rmtree(out)
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_the_module_of_python_and_the_command_say_the_same(run, tmp_path, capsys):
    made = itda.export(run, to="parquet", out=tmp_path / "a", layer=(Site(1),), progress=False)
    assert made.sites == [Site(1)]
    main(["export", str(run), str(tmp_path / "b"), "--layer", "1", *options("parquet"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "run": str(run),
        "to": "parquet",
        "folder": str(tmp_path / "b"),
        "sites": ["layer_1"],
        "bytes": made.bytes,
    }
    assert sorted(file.name for file in (tmp_path / "a" / "layer_1").iterdir()) == ["atoms.parquet", "tokens.parquet"]


def test_delphis_tokenizer_is_beside_its_cache_if_the_hub_has_none(run, tmp_path):
    from transformers import AutoTokenizer

    main(["export", str(run), str(tmp_path / "out"), "--both-signs", *options("delphi")])
    config = json.loads((tmp_path / "out" / "latents" / "layers.1" / "config.json").read_text())
    assert config["model_name"] == str(tmp_path / "out" / "tokenizer")
    assert AutoTokenizer.from_pretrained(config["model_name"])("import os")["input_ids"]
    assert json.loads((tmp_path / "out" / "delphi.json").read_text())["signs"] == "both"


def without_index(folder):
    shutil.rmtree(folder / "index")


def without_labels(folder):
    (folder / "layer_1" / "labels.parquet").unlink()


def of_other_atoms(folder):
    shutil.copy(folder / "layer_3.mlp_out" / "atoms.safetensors", folder / "layer_1" / "atoms.safetensors")


def cut_index(folder):
    file = folder / "index" / "layer_1.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (without_index, "run has no index: make one with `itda index"),
        (without_labels, "layer_1 is damaged or incomplete ("),
        (of_other_atoms, "is of another dictionary than layer_1 of the run is now: run `itda index"),
        (cut_index, "is damaged or incomplete: run `itda index"),
    ],
)
def test_a_run_that_lacks_something_is_refused_and_nothing_is_written(run, tmp_path, capsys, to, broken, expected):
    shutil.copytree(run, tmp_path / "run")
    broken(tmp_path / "run")
    refused(["export", str(tmp_path / "run"), *options(to)], expected, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def refused(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("itda: ")
    assert expected in said.err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], "no format '': give --to with one of json, parquet, delphi, neuronpedia, saelens"),
        (["--to", "csv"], "no format 'csv': give --to with one of json"),
        (["--to", "json", "--layer", "7"], "the run has no layer 7: use one of 1, 3.mlp_out"),
        (["--to", "json", "--both-signs"], "--both-signs is for --to delphi: leave it out"),
        (["--to", "parquet", "--model", "gpt2"], "--model and --set are for --to neuronpedia: leave them out"),
        (["--to", "neuronpedia"], "no model: give its id on Neuronpedia with --model"),
        (
            ["--to", "neuronpedia", "--model", "Org/Model"],
            "'Org/Model' is no model of Neuronpedia: its ids are such as",
        ),
        (["--to", "neuronpedia", "--model", "gpt2", "--set", "a--b"], "'a--b' is no name for --set: use lower-case"),
        (["--to", "delphi", "--model-path", "nowhere"], "nowhere: check --model-path"),
    ],
)
def test_bad_settings_are_one_line_that_names_the_remedy(run, capsys, more, expected):
    refused(["export", str(run), *more, "--quiet"], expected, capsys)
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_saelens_wants_no_index(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    without_index(tmp_path / "run")
    itda.export(tmp_path / "run", to="saelens", out=tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "layer_1" / "sae_weights.safetensors").exists()


def test_a_folder_that_has_something_in_it_stays_as_it_is(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused(["export", str(run), str(tmp_path / "out"), *options("json")], "out is not empty: name another", capsys)
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [("mine.txt", "mine")]
    refused(["export", str(run), str(tmp_path / "out" / "mine.txt"), *options("json")], "is not empty", capsys)
    (tmp_path / "empty").mkdir()
    main(["export", str(run), str(tmp_path / "empty"), *options("json")])
    assert (tmp_path / "empty" / "export.json").exists()


def test_a_place_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    refused(["export", str(run), str(tmp_path / "file" / "out"), *options("json")], "cannot write", capsys)


def test_an_export_that_fails_half_way_leaves_nothing(run, tmp_path, monkeypatch):
    def failing(source):
        yield from list(tables.atom_rows(source))[:1]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "token_rows", failing)
    with pytest.raises(
        StoreError, match=r"cannot write .*out \(No space left on device\): name a folder .* more space"
    ):
        itda.export(run, to="json", out=tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time
from itda.bridges import tables
from itda.cli import main
true = tables.token_rows
def slow(source):
    yield from true(source)
    print("writing", flush=True)
    time.sleep(60)
tables.token_rows = slow
main(sys.argv[1:])
"""


def test_a_killed_export_is_no_export_and_the_next_one_starts_anew(run, tmp_path, capsys):
    arguments = ["export", str(run), str(tmp_path / "out"), *options("json")]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "writing\n"
        assert not (tmp_path / "out").exists()
        refused(arguments, "is being written by another process: wait for it, or end it", capsys)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    left = [path.name for path in tmp_path.iterdir()]
    assert left == [".out.partial"]
    (tmp_path / ".out.partial" / "stray").write_text("left by the killed one")
    main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "layer_1", "layer_3.mlp_out"]
