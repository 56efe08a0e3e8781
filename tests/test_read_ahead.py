"""`itda train` with a model that runs ahead in a thread: the bytes of one after the other, whoever stops or fails."""

import shutil
import signal
import threading
from contextlib import contextmanager

import pytest
import torch

from itda import recipes
from itda.config import Train
from itda.core.training.trainer import Trainer
from itda.errors import ActivationError, ModelError
from itda.recipes import training_pass
from itda.recipes.run_in_progress import Stopped
from itda.recipes.training_pass import may_run_ahead
from itda.sources.ahead import ReadAhead
from itda.sources.models.transformers import LanguageModel
from itda.sources.streamed.model import StreamedModel

PAPER = {"mode": "paper", "order": "corpus", "threshold": 0.25, "layers": (1, 3)}
WAYS = {
    "in memory": PAPER,
    "streamed": {**PAPER, "stream": True, "model_memory": 3_000_000},
    "best": {"mode": "best", "layers": (2,), "threshold": 0.2, "offset": 300, "refine": 2},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("textwrap", "dataclasses"):
        shutil.copy(__import__(name).__file__, folder / f"{name}.py")
    return str(folder)


def options(corpus, way, out) -> Train:
    return Train(model="tiny", corpus=corpus, tokens=2000, k=6, window=32, out=out, **WAYS[way])


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    """Runs in which model and growth take turns."""
    made = {}

    def of(way):
        if way not in made:
            made[way] = recipes.train(options(corpus, way, tmp_path_factory.mktemp("plain") / "run")).folder
        return made[way]

    return of


@pytest.fixture
def ahead(monkeypatch):
    """Has models run ahead; gives what reads ahead, as it is made."""
    made, enter = [], ReadAhead.__enter__
    monkeypatch.setattr(training_pass, "may_run_ahead", lambda _model: True)
    monkeypatch.setattr(ReadAhead, "__enter__", lambda self: made.append(self) or enter(self))
    yield made
    assert made
    assert not any(each._thread.is_alive() for each in made)


def same(run, expected):
    paths = [*expected.glob("layer_*/*"), expected / "tokens.parquet"]
    assert len(paths) > 3
    for path in paths:
        name = path.relative_to(expected)
        assert (run / name).read_bytes() == path.read_bytes(), name


class Shown:
    """A bar that calls `at` with what it is told, and notes the threads that it is told from."""

    def __init__(self, at=lambda _tokens, _remark: None) -> None:
        self.tokens, self.remarks, self.at, self.threads = 0, [], at, set()

    @contextmanager
    def bar(self, _name, _total):
        yield self

    def update(self, tokens: int) -> None:
        self.tokens += tokens
        self.at(self.tokens, "")

    def set_postfix_str(self, remark: str) -> None:
        self.remarks.append(remark)
        self.threads.add(threading.get_ident())
        self.at(self.tokens, remark)


@pytest.mark.parametrize("way", WAYS)
def test_the_files_are_those_of_one_after_the_other(corpus, plain, ahead, tmp_path, way):
    shown = Shown()
    same(recipes.train(options(corpus, way, tmp_path / "run"), shown.bar).folder, plain(way))
    assert shown.tokens >= 2000
    assert any("atoms" in remark for remark in shown.remarks)
    own = len(shown.threads) == 2
    assert own == (way == "streamed"), "a streamed model says in its own thread which block it is at"


@pytest.mark.parametrize("way", WAYS)
def test_stopped_anywhere_it_goes_on_to_the_same_files(corpus, plain, ahead, tmp_path, way):
    out, stops = tmp_path / "run", 0
    made = options(corpus, way, out)
    for at in (0, 400, 1100):
        shown = Shown()

        def stop(tokens, remark, at=at, shown=shown):
            if tokens > at or (at == 0 and "block 2" in remark):
                signal.raise_signal(signal.SIGINT)
                shown.at = lambda _tokens, _remark: None

        shown.at = stop
        try:
            recipes.train(made if stops == 0 else Train(resume=out), shown.bar)
        except Stopped:
            stops += 1
    assert stops >= 2
    same(recipes.train(Train(resume=out)).folder, plain(way))


@pytest.mark.parametrize("way", ["in memory", "streamed"])
def test_an_error_of_the_model_is_raised_and_nothing_hangs(corpus, ahead, tmp_path, monkeypatch, way):
    kind, name = (LanguageModel, "activations") if way == "in memory" else (StreamedModel, "_step")
    ordinary, calls = getattr(kind, name), []

    def fails(self, *given):
        if threading.current_thread() is not threading.main_thread():
            calls.append(1)
            if len(calls) == 9:
                raise ModelError("the card fell off")
        return ordinary(self, *given)

    monkeypatch.setattr(kind, name, fails)
    with pytest.raises(ModelError, match="the card fell off"):
        recipes.train(options(corpus, way, tmp_path / "run"))


@pytest.mark.parametrize("way", ["in memory", "streamed"])
def test_an_error_of_growth_is_raised_and_the_model_ends(corpus, ahead, tmp_path, monkeypatch, way):
    ordinary, calls = Trainer.offer, []

    def fails(self, batch):
        calls.append(1)
        if len(calls) == 3:
            raise ActivationError("row 3 is blue")
        return ordinary(self, batch)

    monkeypatch.setattr(Trainer, "offer", fails)
    with pytest.raises(ActivationError, match="row 3 is blue"):
        recipes.train(options(corpus, way, tmp_path / "run"))


def test_a_model_on_a_gpu_runs_ahead_where_threads_have_the_same_settings(monkeypatch):
    model = LanguageModel.load("tiny")
    assert not may_run_ahead(model)  # it is on the CPU
    monkeypatch.setattr(LanguageModel, "device", "cuda:0")
    assert may_run_ahead(model)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert not may_run_ahead(model)
    with torch.device("meta"):
        assert not may_run_ahead(model)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert not may_run_ahead(model)
    finally:
        torch.set_float32_matmul_precision(before)
    assert StreamedModel.runs_ahead
    monkeypatch.setattr(LanguageModel, "runs_ahead", False)
    assert not may_run_ahead(model)
