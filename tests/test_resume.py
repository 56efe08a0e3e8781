"""Runs that are killed, stopped, or have no room left: what goes on from them ends with the same dictionaries."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext

import pytest
from safetensors import SafetensorError

from itda import recipes
from itda.cli import main
from itda.config import Train
from itda.recipes.run_in_progress import COST, Keeper, Stopped
from itda.sources.models.names import TINY
from tests.forking import forking

KILLS = 12
SETTINGS = ["--tokens", "1500", "--k", "6", "--window", "32", "--quiet"]
PAPER = ["--mode", "paper", "--order", "corpus", "--threshold", "0.25"]
OFTEN = ["--checkpoint-every", "0.05"]
WAYS = {
    "ordinary": [*PAPER, "--layers", "1,3"],
    "streamed": [*PAPER, "--layers", "1,3", "--stream", "--model-memory", "3M"],
    "best": ["--layers", "2", "--recipe", "1", "--threshold", "0.2", "--offset", "300", "--refine", "2"],
    "centres": ["--layers", "2,4", "--recipe", "2", "--atoms", "200", "--offset", "300", "--refine", "20"],
}
FILES = ("atoms.safetensors", "labels.parquet", "config.json")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("argparse", "ast", "dataclasses", "textwrap", "zipfile"):
        shutil.copy(__import__(name).__file__, folder / f"{name}.py")
    return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with forking(tmp_path_factory.mktemp("errors")) as found:
        yield found


def train(corpus, way, out, *more):
    return ["train", "tiny", "--corpus", str(corpus), *SETTINGS, *WAYS[way], "--out", str(out), *OFTEN, *more]


@pytest.fixture(scope="module")
def whole(commands, corpus, tmp_path_factory):
    """Runs that nobody disturbed, with the seconds that they took once they had begun."""
    made = {}

    def of(way):
        if way not in made:
            # The first one compiles, which takes long, and needs few tokens for it.
            first = train(corpus, way, tmp_path_factory.mktemp("first") / "run", "--tokens", "400")
            assert commands.run(*first) == (0, "")
            out = tmp_path_factory.mktemp(way) / "run"
            command = commands.start(*train(corpus, way, out))
            begun(out)
            started = time.monotonic()
            assert command.wait() == (0, "")
            made[way] = out, time.monotonic() - started
        return made[way]

    return of


def until(condition):
    """Wait for something that is to come in some seconds."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def begun(out):
    """Wait until a run is there."""
    until(lambda: (out / "unfinished.json").exists())


def kept(out):
    """Wait until a run has a checkpoint."""
    until(lambda: list(out.glob("checkpoints/checkpoint-*")))


def two_checkpoints(commands, arguments, out):
    """A run that was stopped, which writes a second checkpoint."""
    command = commands.start(*arguments)
    kept(out)
    command.send(signal.SIGINT)
    assert command.wait()[0] == 130
    assert len(list(out.glob("checkpoints/checkpoint-*"))) == 2


def same(run, expected):
    """Whether two runs hold the same, every byte of dictionaries and tokens."""
    for path in [*expected.glob("layer_*/*"), expected / "tokens.parquet"]:
        name = path.relative_to(expected)
        assert (run / name).read_bytes() == path.read_bytes(), name
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in expected.iterdir())
    records = [json.loads((folder / "run.json").read_text()) for folder in (run, expected)]
    assert records[0]["tokens"] == records[1]["tokens"]


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_any_moment_a_run_goes_on_to_the_same_dictionaries(commands, corpus, whole, tmp_path, way):
    expected, seconds = whole(way)
    chance = random.Random(way)
    interrupted = 0
    for number in range(KILLS if way == "ordinary" else KILLS // 4):
        out = tmp_path / str(number)
        command = commands.start(*train(corpus, way, out))
        begun(out)
        # Early at first, and earlier after one that came too late: on a machine that is less busy by now, a run takes
        # less time than the one that was timed.
        time.sleep(chance.uniform(0, seconds / 4 if number == 0 else seconds))
        command.send(signal.SIGKILL)
        if command.wait()[0] == -signal.SIGKILL:
            interrupted += 1
        else:
            seconds /= 2
        assert commands.run("train", "--resume", str(out), "--quiet") == (0, "")
        same(out, expected)
        shutil.rmtree(out)
    assert interrupted >= (KILLS // 2 if way == "ordinary" else 1)


def test_killed_while_rounds_run_it_goes_on_with_what_was_kept_of_the_stream(commands, corpus, whole, tmp_path):
    expected, _ = whole("centres")
    out = tmp_path / "run"
    command = commands.start(*train(corpus, "centres", out))
    kept(out)

    def read_to_the_end():
        records = sorted(out.glob("checkpoints/checkpoint-*/record.json"))
        return (
            json.loads(records[-1].read_text())["record"]["seen"]["layer_4"]
            == json.loads((expected / "run.json").read_text())["tokens"]
        )

    until(read_to_the_end)
    command.send(signal.SIGKILL)
    assert command.wait()[0] == -signal.SIGKILL
    assert not (out / "run.json").exists()
    assert commands.run("train", "--resume", str(out), "--quiet") == (0, "")
    same(out, expected)


def test_killed_again_and_again_it_still_ends_with_the_same(commands, corpus, whole, tmp_path):
    expected, seconds = whole("ordinary")
    out, chance = tmp_path / "run", random.Random(1)
    command = commands.start(*train(corpus, "ordinary", out))
    begun(out)
    for _ in range(5):
        time.sleep(chance.uniform(0.2, 1) * seconds)
        command.send(signal.SIGKILL)
        code, error = command.wait()
        if code == 0:
            break
        assert (code, error) == (-signal.SIGKILL, "")
        command = commands.start("train", "--resume", str(out), "--quiet")
    else:
        code, _ = command.wait()
    assert code == 0
    same(out, expected)


@pytest.mark.parametrize(
    ("way", "number"), [("ordinary", signal.SIGINT), ("ordinary", signal.SIGTERM), ("streamed", signal.SIGINT)]
)
def test_stopped_it_keeps_what_it_has_and_says_how_to_go_on(commands, corpus, whole, tmp_path, way, number):
    expected, _ = whole(way)
    out = tmp_path / "run"
    command = commands.start(*train(corpus, way, out))
    kept(out)
    command.send(number)
    code, error = command.wait()
    assert code == 130
    assert error.startswith("itda: stopped at ")
    assert error.endswith(f"tokens; go on with itda train --resume {out}\n")
    assert error.count("\n") == 1
    assert commands.run("train", "--resume", str(out), "--quiet") == (0, "")
    same(out, expected)


class StopsAt:
    """A progress bar of somebody who presses Ctrl-C when a remark appears."""

    def __init__(self, remark):
        self.remark, self.shown = remark, []

    def __call__(self, _name, _tokens):
        return nullcontext(self)

    def update(self, _tokens):
        pass

    def set_postfix_str(self, remark):
        self.shown.append(remark)
        if self.remark in remark:
            os.kill(os.getpid(), signal.SIGINT)


def test_stopped_where_a_streamed_model_yields_nothing_yet_it_does_not_wait(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("itda.recipes.runs.SHOW_EVERY_S", 0.0)
    settings = {"model": "tiny", "layers": (4,), "corpus": str(corpus), "tokens": 1000, "k": 6, "threshold": 0.25}
    settings |= {"mode": "paper", "order": "corpus"}
    settings |= {"window": 32, "quiet": True}
    expected = recipes.train(Train(**settings, out=tmp_path / "expected")).folder
    bar, out = StopsAt("block 3/5"), tmp_path / "run"
    with pytest.raises(Stopped, match=r"^stopped at 0 tokens; go on with itda train --resume "):
        recipes.train(Train(**settings, out=out, stream=True), bar)
    assert not any("block 4" in remark for remark in bar.shown)
    same(recipes.train(Train(resume=out)).folder, expected)


@pytest.mark.parametrize("way", ["ordinary", "streamed"])
def test_the_newest_checkpoint_cut_short_the_one_before_is_used(commands, corpus, whole, tmp_path, way):
    expected, _ = whole(way)
    out = tmp_path / "run"
    two_checkpoints(commands, train(corpus, way, out), out)
    newest = max(out.glob("checkpoints/checkpoint-*"))
    file = newest / "layer_3.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    code, error = commands.run("train", "--resume", str(out))
    assert code == 0
    assert f"itda: passed over {newest.name}: " in error
    same(out, expected)


def test_without_any_whole_checkpoint_it_is_refused_and_nothing_lost(commands, corpus, tmp_path):
    out = tmp_path / "run"
    two_checkpoints(commands, train(corpus, "ordinary", out), out)
    for folder in out.glob("checkpoints/checkpoint-*"):
        (folder / "record.json").write_text("{")
    before = sorted(out.rglob("*"))
    code, error = commands.run("train", "--resume", str(out), "--quiet")
    assert code == 2
    assert "has no whole checkpoint" in error
    assert error.count("\n") == 1
    assert sorted(out.rglob("*")) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("way", ["ordinary", "streamed"])
def test_a_full_disk_is_one_line_and_with_room_again_it_goes_on(commands, corpus, whole, small_disk, way):
    expected, _ = whole(way)
    out = small_disk / "run"
    arguments = train(corpus, way, out)
    code, error = commands.run(*arguments)
    assert (code, error.count("\n")) == (2, 1), error
    assert "no space" in error
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    # On a slow machine the first checkpoint may come so late that it does not fit: then nothing is left to go on from.
    again = "run the same command again"
    if out.exists():
        again, arguments = f"go on with itda train --resume {out}", ["train", "--resume", str(out), "--quiet"]
    assert error.endswith(f"{again}\n")
    assert commands.run(*arguments) == (0, "")
    same(out, expected)


def test_no_room_for_the_first_checkpoint_leaves_nothing_and_says_to_begin_again(
    corpus, whole, tmp_path, monkeypatch, capsys
):
    expected, _ = whole("ordinary")
    out, arguments = tmp_path / "run", train(corpus, "ordinary", tmp_path / "run")

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("itda.store.checkpoints._write_state", full)
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"itda: no space for a checkpoint in {out / 'checkpoints'}: free some, then run the same command again\n"
    )
    assert not out.exists()
    main(arguments)
    same(out, expected)


def test_a_full_disk_by_a_limit_on_files(commands, corpus, whole, tmp_path):
    expected, _ = whole("ordinary")
    out = tmp_path / "run"
    # In a checkpoint, or, where there are few of them, in a dictionary.
    code, error = commands.run(*train(corpus, "ordinary", out), limit=150_000)
    assert (code, error.count("\n")) == (2, 1), error
    assert "no space" in error
    if (out / "unfinished.json").exists():
        assert error.endswith(f"go on with itda train --resume {out}\n")
        assert commands.run("train", "--resume", str(out), "--quiet") == (0, "")
        same(out, expected)


@pytest.mark.parametrize("often", [True, False], ids=["after a checkpoint", "before the first"])
def test_no_room_for_the_dictionaries_is_one_line_that_says_how_to_go_on(
    corpus, whole, tmp_path, monkeypatch, capsys, often
):
    expected, _ = whole("ordinary")
    out, arguments = tmp_path / "run", train(corpus, "ordinary", tmp_path / "run")

    def full(*_arguments):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    with monkeypatch.context() as patch:
        patch.setattr("itda.store.dictionaries.save_file", full)
        with pytest.raises(SystemExit) as stop:
            main(arguments if often else arguments[: -len(OFTEN)])
        assert stop.value.code == 2
    error = capsys.readouterr().err
    then = f"go on with itda train --resume {out}" if often else "run the same command again"
    assert error == f"itda: no space to write {out}: free some, then {then}\n"
    assert out.exists() == often
    main(["train", "--resume", str(out), "--quiet"] if often else arguments)
    same(out, expected)


@pytest.fixture(scope="module")
def stopped(commands, corpus, tmp_path_factory):
    """A run that was stopped, on a model and a corpus of its own."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(TINY, folder / "model")
    shutil.copytree(corpus, folder / "corpus")
    arguments = train(folder / "corpus", "ordinary", folder / "run")
    arguments[1] = str(folder / "model")
    command = commands.start(*arguments)
    kept(folder / "run")
    command.send(signal.SIGINT)
    assert command.wait()[0] == 130
    return folder


def changed_model(folder):
    file = folder / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-200:] = bytes(200)
    file.write_bytes(content)


def changed_corpus(folder):
    file = folder / "corpus" / "ast.py"
    file.write_text(file.read_text() + "# more\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [(changed_model, "the model was "), (changed_corpus, "the corpus was ")],
    ids=["model", "corpus"],
)
def test_a_changed_model_or_corpus_is_refused_and_nothing_lost(stopped, tmp_path, capsys, change, said):
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    for path in (folder / "run").rglob("*.json"):  # the run names its model and corpus
        if path.name == "unfinished.json":
            path.write_text(path.read_text().replace(str(stopped), str(folder)))
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    change(folder)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", str(folder / "run"), "--quiet"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "bring it back, or begin anew in another folder" in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "{run}", "--k", "3"], "--resume goes on with the run's own settings: leave out k"),
        (["--resume", "{none}"], "no folder {none}: check the path"),
        (["--resume", "{corpus}"], "{corpus} has no unfinished.json"),
        (["tiny", "--layers", "1", "--corpus", "{corpus}", "--out", "{run}"], "go on with itda train --resume {run}"),
        (["tiny", "--layers", "1"], "no --corpus given"),
        ([], "no model given"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(stopped, tmp_path, capsys, arguments, said):
    names = {"run": stopped / "run", "none": tmp_path / "none", "corpus": stopped / "corpus"}
    with pytest.raises(SystemExit) as stop:
        main(["train", *(argument.format(**names) for argument in arguments), "--quiet"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said.format(**names) in error
    assert error.count("\n") == 1


def test_an_unfinished_run_is_no_run_yet(stopped, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["info", str(stopped / "run")])
    assert stop.value.code == 2
    assert f"go on with itda train --resume {stopped / 'run'}" in capsys.readouterr().err


def test_a_finished_run_has_nothing_to_resume_and_is_shown(whole, capsys):
    run, _ = whole("ordinary")
    main(["train", "--resume", str(run)])
    out, err = capsys.readouterr()
    assert "1,500 tokens in windows of 32" in out
    assert "is finished" in err


def test_checkpoints_take_two_percent_of_the_time_at_most(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    keeper = Keeper(1.0)
    cost, spent = 0.7, []

    def write():
        nonlocal now
        now += cost
        spent.append(now)

    while now < 10_000:
        now += 0.25
        if keeper.due:
            keeper.save(write)
    assert len(spent) > 100
    assert keeper.seconds / now <= COST + 1e-9
    assert spent[1] - spent[0] >= cost / COST
