"""`itda train --workers` on a Ray cluster of two nodes: the dictionaries of one process, whatever dies."""

import shutil
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest

from itda import recipes
from itda.config import Train

SETTINGS = {
    "mode": "paper",
    "order": "corpus",
    "model": "tiny",
    "layers": (1, 3),
    "tokens": 4000,
    "k": 6,
    "threshold": 0.25,
    "window": 32,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("argparse", "ast", "textwrap"):
        shutil.copy(__import__(name).__file__, folder / f"{name}.py")
    return str(folder)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    return recipes.train(Train(**SETTINGS, corpus=corpus, out=tmp_path_factory.mktemp("alone") / "run")).folder


def same(run, expected, layers=(3,)):
    names = {f"layer_{layer}" for layer in layers}
    assert {folder.name for folder in run.glob("layer_*")} == names
    paths = [path for name in names for path in (expected / name).iterdir()]
    assert len(paths) == 4 * len(names)
    for path in [*paths, expected / "tokens.parquet"]:
        name = path.relative_to(expected)
        assert (run / name).read_bytes() == path.read_bytes(), name


# Each worker imports what takes seconds: so there are as few as show a thing. Two layers are two more, that build them.
@pytest.mark.parametrize(("workers", "layers", "stream"), [(1, (3,), True), (2, (1, 3), False)])
def test_any_number_of_workers_gives_the_dictionaries_of_one_process(
    address, corpus, alone, tmp_path, workers, layers, stream
):
    elsewhere = {"workers": workers, "ray": address, "stream": stream}
    options = Train(**{**SETTINGS, "layers": layers}, corpus=corpus, out=tmp_path / "run", **elsewhere)
    same(recipes.train(options).folder, alone, layers)


def workers_here():
    """Processes of this test's cluster in which a model runs: others on this machine are somebody else's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may have ended meanwhile
            found += [process] if "_ModelActor" in " ".join(process.cmdline()) else []
    return found


def test_a_worker_killed_in_the_middle_costs_time_and_nothing_else(address, corpus, alone, tmp_path):
    killed, run = [], tmp_path / "run"

    def kill():
        while not killed:
            if list(run.glob("checkpoints/checkpoint-*")):  # in the middle of it
                for process in workers_here()[:1]:
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
            time.sleep(0.01)

    started = threading.Thread(target=kill, daemon=True)
    one = {**SETTINGS, "layers": (3,)}
    options = Train(**one, corpus=corpus, out=run, workers=2, ray=address, checkpoint_every=0.01)
    started.start()
    recipes.train(options)
    assert killed
    same(run, alone)


def test_the_index_by_workers_is_that_of_one_process(address, alone, tmp_path, monkeypatch):
    from itda.config import Index
    from itda.explorer import indexing
    from itda.recipes.index import index_run

    monkeypatch.setattr(indexing, "BLOCK", 500)
    elsewhere = {"workers": 1, "ray": address, "stream": True}
    for name, given in (("one", {}), ("workers", {"workers": 2, "ray": address}), ("streamed", elsewhere)):
        shutil.copytree(alone, tmp_path / name)
        index_run(Index(run=tmp_path / name, tokens=1500, **given))
    expected = sorted((tmp_path / "one" / "index").glob("*.safetensors"))
    assert len(expected) == 3
    for file in expected:
        for name in ("workers", "streamed"):
            assert (tmp_path / name / "index" / file.name).read_bytes() == file.read_bytes(), (name, file.name)


def test_a_fingerprint_by_workers_is_that_of_one_process(address, corpus, tmp_path):
    from itda.config import Fingerprint
    from itda.recipes.fingerprint import fingerprint

    one = {"model": "tiny", "corpus": corpus, "tokens": 2000, "window": 32, "batch_size": 4}
    alone = fingerprint(Fingerprint(**one))
    for name, given in (("workers", {"workers": 1}), ("streamed", {"workers": 2, "stream": True})):
        elsewhere = {"ray": address, "out": tmp_path / f"{name}.itda", **given}
        made = fingerprint(Fingerprint(**one, **elsewhere))
        assert len(made.sites) == 6
        for site, found in made.sites.items():
            for column in ("novelty", "bits", "norm"):
                assert getattr(found, column).tolist() == getattr(alone[site], column).tolist(), (name, site)
