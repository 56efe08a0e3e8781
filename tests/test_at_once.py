"""What needs no model answers at once: `info`, help, and every refusal of a slip come without tensors being loaded.

Seconds differ from machine to machine, so the modules that were imported are looked at instead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_imports import HEAVY

from itda import ITDA, Label, Labels
from itda.commands.table import COMMANDS
from itda.core.site import Site
from itda.files import METRICS_FORMAT, RUN_FORMAT, write_json
from itda.store.dictionaries import save_dictionary

CALLS = """
import contextlib, io, json, os, sys
from itda.cli import main
told = []
for arguments in json.load(sys.stdin):
    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        try:
            main(arguments)
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
    told.append([status, output.getvalue(), error.getvalue(), sorted({m.partition(".")[0] for m in sys.modules})])
print(json.dumps(told))
"""


def told(*commands: list[str]) -> list[tuple[int, str, str, set[str]]]:
    """Status, output, errors and modules imported so far, of commands in one new process."""
    given = json.dumps(commands)
    made = subprocess.run([sys.executable, "-c", CALLS], input=given, capture_output=True, text=True, check=True)
    return [(status, output, error, set(modules)) for status, output, error, modules in json.loads(made.stdout)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of two dictionaries, one of them refined and evaluated; no model has made it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(4)))
    fidelity = torch.tensor([0.9, 0.95, 0.97, 1.0])
    for layer, more in ((2, {}), (4, {"fidelity": fidelity})):
        model = ITDA(torch.eye(4, 8), labels, k=2, threshold=0.25, site=Site(layer), **more)
        save_dictionary(model, folder / f"layer_{layer}")
    kind = {"format": METRICS_FORMAT, "format_version": 1}
    write_json(folder / "layer_4" / "metrics.json", {**kind, "fvu": 0.125, "ce_loss_score": 0.5})
    settings = {"mode": "paper", "atoms": None, "part": "all", "revision": None}
    record = {"model": "tiny", "corpus": "essays", "corpus_part": "all", "tokens": 1000, "window": 64, "seconds": 1.5}
    record |= {"format": RUN_FORMAT, "format_version": 1, "sites": ["layer_2", "layer_4"], "settings": settings}
    write_json(folder / "run.json", record)
    return folder


def test_info_and_help_import_no_tensors(run):
    helps = [["--help"], *([each, "--help"] for each in COMMANDS), ["--version"]]
    found = told(["info", str(run)], ["info", str(run), "--json"], *helps)
    assert [status for status, *_ in found] == [0] * len(found)
    assert not found[-1][3] & HEAVY
    assert "d_model 8, k 2, pursuit mp, threshold 0.25, at every site\n" in found[0][1]
    assert "layer_4      4  0.1250    0.5000" in found[0][1]
    assert "layer_4             0.960          0.915  0.900" in found[0][1]
    values = json.loads(found[1][1])
    assert values["dictionaries"]["layer_2"] == {"atoms": 4, "d_model": 8, "k": 2, "arithmetic": [2]}
    refined = values["dictionaries"]["layer_4"]
    assert refined["fidelity"] == {"median": pytest.approx(0.95), "least": pytest.approx(0.9)}
    assert refined["metrics"]["fvu"] == 0.125
    assert all("itda" in output for _, output, *_ in found[2:])


def test_a_run_that_was_not_evaluated_has_no_columns_of_dashes(run, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "layer_4" / "metrics.json").unlink()
    ((_, output, *_),) = told(["info", str(copy)])
    assert "fvu" not in output
    assert "CE score" not in output
    assert f"Not evaluated yet: itda evaluate {copy}" in output


TRAIN = ["--layers", "2", "--corpus", "python-docs", "--tokens", "1k"]
SLIPS: dict[str, tuple[list[str], str]] = {
    "an unknown run": (["info", "./nowhere"], "no run folder nowhere"),
    "no run to decompose with": (["decompose", "./nowhere", "text"], "no run folder"),
    "no run to steer with": (["steer", "./nowhere", "text", "--atom", "1"], "no run folder"),
    "no atom to steer by": (["steer", "RUN", "text"], "there is nothing to steer by"),
    "no run to evaluate": (["evaluate", "./nowhere"], "no run folder"),
    "no run to probe": (["probe", "./nowhere"], "no run folder"),
    "no run to compare": (["compare", "./nowhere"], "no run folder"),
    "no run to index": (["index", "./nowhere"], "no run folder"),
    "no run to replicate": (["replicate", "./nowhere"], "no run folder"),
    "no run to measure": (["effects", "./nowhere"], "no run folder"),
    "too few contexts": (["effects", "RUN", "--contexts", "1"], "it must be at least 5"),
    "no draws": (["replicate", "RUN", "--draws", "0"], "it must be at least 1"),
    "a cosine above 1": (["replicate", "RUN", "--cosine", "1.1"], "above 0 and at most 1"),
    "no run to fit features of": (["features", "./nowhere"], "no run folder"),
    "no run to explore": (["explore", "./nowhere"], "no run folder"),
    "a layer that the run lacks": (["decompose", "RUN", "text", "--layer", "3"], "use one of 2, 4"),
    "no site": (["decompose", "RUN", "text", "--layer", "x"], "no site 'x'"),
    "an endless site": (["decompose", "RUN", "text", "--layer", "9" * 5000], "no site '999"),
    "no text": (["decompose", "RUN", " "], "there is no text"),
    "no atoms to show": (["decompose", "RUN", "text", "--top", "0"], "at least 1 atom"),
    "nothing held out": (["evaluate", "RUN"], "name another one with --corpus"),
    "no tokens to evaluate": (["evaluate", "RUN", "--tokens", "none"], "write it as 50000"),
    "a corpus that is no path": (["evaluate", "RUN", "--corpus", "./nothing.txt"], "no file or folder"),
    "a negative batch": (["index", "RUN", "--batch-size", "-1"], "at least 1, or 0"),
    "a page in no folder": (["explore", "RUN", "--export", "nowhere/page.html"], "name a file in a folder"),
    "no model": (["train"], "no model given"),
    "a missing folder": (["train", "./nothing", *TRAIN], "no folder './nothing'"),
    "a missing corpus": (["train", "tiny", *TRAIN, "--corpus", "./nothing.txt"], "no file or folder"),
    "layers that are none": (["train", "tiny", *TRAIN, "--layers", "two"], "write it as 3,4-6"),
    "a hundred million layers": (["train", "tiny", *TRAIN, "--layers", "0-99999999"], "no model has so many"),
    "layers without end": (["train", "tiny", *TRAIN, "--layers", "0-" + "9" * 5000], "no model has so many"),
    "layers under the other name": (["train", "tiny", "--layer", "x", *TRAIN[2:]], "'x' is not a list of layers"),
    "a layer under the other name": (["decompose", "RUN", "text", "--layers=3"], "use one of 2, 4"),
    "an unknown stream": (["train", "tiny", *TRAIN, "--streams", "resid"], "use resid_post"),
    "k of 0": (["train", "tiny", *TRAIN, "--k", "0"], "k is 0"),
    "a threshold of 1": (["train", "tiny", *TRAIN, "--threshold", "1"], "below 1"),
    "more atoms than tokens": (["train", "tiny", *TRAIN, "--atoms", "2k"], "each atom is a token"),
    "both": (["train", "tiny", *TRAIN, "--atoms", "10", "--threshold", "0.2"], "give one of them"),
    "an empty batch": (["train", "tiny", *TRAIN, "--batch-size", "0"], "at least 1"),
    "little memory": (["train", "tiny", *TRAIN, "--memory", "100k"], "at least 1M"),
    "no scratch": (["train", "tiny", *TRAIN, "--scratch", "./nowhere"], "no folder nowhere for --scratch"),
    "no room": (["train", "tiny", *TRAIN, "--out", "RUN"], "exists already"),
    "nothing to resume": (["train", "--resume", "./nowhere"], "no folder nowhere"),
    "no activations": (["train", "--activations", "./nowhere"], "no activations in nowhere"),
    "no harvest": (["harvest", "tiny", *TRAIN, "--out", "x", "--window", "0"], "at least 1"),
    "a seed of no order": (["harvest", "tiny", *TRAIN, "--out", "x", "--seed", "1", "--order", "corpus"], "leave out"),
    "no fingerprint": (["fingerprint", "tiny", "--corpus", "python-docs"], "name one with --out a.itda"),
    "a fingerprint of nothing": (["fingerprint", "tiny", "--out", "a.itda"], "no --corpus given"),
    "a fingerprint in no folder": (["fingerprint", "tiny", *TRAIN[2:], "--out", "nowhere/a.itda"], "no folder nowhere"),
    "layers that are not all": (["fingerprint", "tiny", "--layers", "any"], "'any' is not a list of layers"),
    "a repository of no name": (["fingerprint", "tiny", *TRAIN[2:], "--push", "me"], "name one as user/name"),
    "no repository": (["push", "RUN", "--dry-run"], "name one as user/name"),
    "no run to push": (["push", "./nowhere", "user/name"], "no run folder"),
    "no plan": (["plan", "tiny", "--layers", "2", "--k", "0"], "--k must be at least 1"),
    "no such command": (["fly"], "no command 'fly': `itda --help` lists them"),
    "a misspelt command": (["trian", "tiny"], "did you mean train?"),
    "a misspelt option": (["train", "tiny", *TRAIN, "--tokns", "5"], "has no option --tokns; did you mean --tokens?"),
    "an option of no command": (["info", "RUN", "--zzz"], "`itda info --help` lists them"),
    "no number": (["train", "tiny", *TRAIN, "--k", "many"], "--k: 'many' is not a whole number: write it as 40"),
    "no share": (["train", "tiny", *TRAIN, "--threshold", "nan"], "--threshold: 'nan' is not a number"),
    "a misspelt choice": (["train", "tiny", *TRAIN, "--mode", "bset"], "--mode: 'bset' is not one of paper, best"),
    "no value": (["train", "tiny", "--layers"], "--layers needs a value after it (layers)"),
    "no value before an option": (["train", "tiny", "--layers", "--json"], "--layers needs a value after it"),
    "no run at all": (["info"], "no RUN given: itda info RUN"),
    "no text at all": (["decompose", "RUN"], "no TEXT given: itda decompose RUN TEXT"),
    "no option that is needed": (["plan", "tiny"], "no --layers given: itda plan MODEL --layers LAYERS"),
    "text without quotes": (["decompose", "RUN", "import", "os"], "one word too many, 'os': put text with spaces"),
}


def test_every_slip_is_refused_in_one_line_before_tensors_are_imported(run):
    commands = [[str(run) if word == "RUN" else word for word in given] for given, _ in SLIPS.values()]
    found = told(*commands)
    for name, (_, remedy), (status, output, error, modules) in zip(SLIPS, SLIPS.values(), found, strict=True):
        assert (name, status) == (name, 2)
        assert remedy in error, name
        assert (name, output, error.count("\n"), error[:6]) == (name, "", 1, "itda: ")
        assert not modules & HEAVY, name


def run_in(here: Path, *arguments: str | bytes, **variables: str) -> tuple[int, str, str]:
    """Status, output and errors of a command in a process of its own."""
    made = subprocess.run(
        [sys.executable, "-m", "itda.cli", *arguments], cwd=here, env={**os.environ, **variables}, capture_output=True
    )
    return made.returncode, made.stdout.decode("latin-1"), made.stderr.decode("latin-1")


def test_a_name_or_text_of_other_bytes_than_utf_8_is_one_line_before_any_work(run, tmp_path):
    name = b"r\xe9n"
    here = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    here.mkdir()
    train = [b"train", b"tiny", b"--layers", b"2", b"--corpus", b"python-docs", b"--tokens", b"1k"]
    for arguments in ([*train, b"--out", name + b"x"], [b"decompose", os.fsencode(run), name]):
        status, output, error = run_in(tmp_path, *arguments)
        assert (status, output, error.count("\n")) == (2, "", 1)
        assert "r\\xe9n" in error
        assert "is not UTF-8: rename the file, or type the text again" in error
    status, output, error = run_in(here, *train)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert "is not UTF-8: run itda in another one" in error
    assert [*here.iterdir(), *tmp_path.iterdir()] == [here]


def test_help_is_shown_on_terminals_of_few_signs(tmp_path):
    for encoding in ("ascii", "cp1252", "utf-8"):
        status, output, error = run_in(tmp_path, "train", "--help", PYTHONIOENCODING=encoding)
        assert (status, error) == (0, "")
        assert "--layers" in output
        assert "?????" not in output


@pytest.mark.skipif(sys.platform == "win32", reason="locks of folders")
def test_a_run_that_is_being_made_is_not_resumed_by_a_second_process_and_a_killed_one_is_in_nobodys_way(tmp_path):
    from itda.config import Train
    from itda.errors import StoreError
    from itda.recipes.run_in_progress import RunInProgress

    folder = tmp_path / "run"
    holding = f"""
import sys
from pathlib import Path
from itda.config import Train
from itda.recipes.run_in_progress import RunInProgress
with RunInProgress.begun(Path({str(folder)!r}), Train(model="tiny", layers=(2,), corpus="python-docs")):
    print("begun", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"begun\n"
    ((status, output, error, modules),) = told(["train", "--resume", str(folder)])
    assert (status, output) == (2, "")
    assert error == f"itda: {folder} is being made by another process: wait for it, or end it\n"
    assert not modules & HEAVY
    with pytest.raises(StoreError, match="is being made by another process"), RunInProgress.resumed(folder):
        pass
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with RunInProgress.resumed(folder) as unfinished:
        assert unfinished.options == Train(model="tiny", layers=(2,), corpus="python-docs")
        with pytest.raises(StoreError, match="is being made"), RunInProgress.resumed(folder):
            pass
