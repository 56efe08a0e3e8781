"""Batches read ahead by a thread: their order, how many, and how it ends."""

import signal
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from itda import ActivationBatch, Labels, Site
from itda.errors import ModelError
from itda.sources import ahead
from itda.sources.ahead import MOST, ReadAhead

SITE = Site(1)
PATIENCE_S = 60
"""How long a thread may take on a busy machine; a test that waits so long has failed."""

MAIN = threading.main_thread().ident or 0


def batch(number: int) -> dict[Site, ActivationBatch]:
    return {SITE: ActivationBatch(torch.full((1, 2), float(number)), Labels.of_rows(1))}


def number_of(batches) -> int:
    return int(batches[SITE].activations[0, 0])


class Source:
    """Counts what it has computed, in which thread, and whether it was closed."""

    def __init__(self, batches: int, error: Exception | None = None) -> None:
        self.batches, self.error = batches, error
        self.begun, self.threads, self.closed_in = 0, set(), None

    def __iter__(self):
        try:
            for number in range(self.batches):
                self.begun += 1
                self.threads.add(threading.get_ident())
                yield batch(number)
            if self.error is not None:
                raise self.error
        finally:
            self.closed_in = threading.get_ident()


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 2, 23])
def test_batches_come_in_their_order_and_are_computed_in_one_other_thread(number, most):
    source = Source(number)
    with ReadAhead(source, most=most) as reading:
        assert [number_of(found) for found in reading] == list(range(number))
    assert len(source.threads) == min(1, number)
    assert threading.get_ident() not in source.threads


def test_no_more_batches_than_asked_for_are_ahead_of_the_one_in_use():
    source, most = Source(40), 3
    with ReadAhead(source, most=most) as reading:
        for taken, _ in enumerate(reading, 1):
            assert source.begun <= taken + most
            if taken <= 2:  # given time, it goes as far as that
                wait_until(lambda taken=taken: source.begun == taken + most)


def wait_until(true) -> None:
    pause = threading.Event()
    for _ in range(PATIENCE_S * 100):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to be")


def test_the_next_batch_is_computed_while_one_is_used():
    used, computed = threading.Event(), threading.Event()

    def source():
        yield batch(0)
        assert used.wait(PATIENCE_S)
        computed.set()
        yield batch(1)

    with ReadAhead(source()) as reading:
        for found in reading:
            if number_of(found) == 0:
                used.set()
                assert computed.wait(PATIENCE_S)


def test_an_error_of_the_source_comes_where_its_batch_would_have_come():
    with ReadAhead(Source(5, ModelError("no more"))) as reading:
        batches = iter(reading)
        assert [number_of(next(batches)) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(ModelError, match="no more"):
            next(batches)


def fail_at(number: int, reading: ReadAhead) -> None:
    with reading:
        for found in reading:
            if number_of(found) == number:
                raise ZeroDivisionError


def test_an_error_of_the_user_ends_the_source_in_its_own_thread():
    source = Source(10**6)
    reading = ReadAhead(source)
    with pytest.raises(ZeroDivisionError):
        fail_at(3, reading)
    assert source.closed_in in source.threads
    assert source.begun <= 4 + MOST + 1
    assert not reading._thread.is_alive()


def test_a_source_that_takes_long_can_see_that_nobody_waits():
    class Long:
        reading: ReadAhead

        def __iter__(self):
            yield batch(0)
            wait_until(lambda: self.reading.leaving)
            raise ModelError("nobody is there to hear it")

    source = Long()
    source.reading = ReadAhead(source)
    with pytest.raises(ZeroDivisionError):
        fail_at(0, source.reading)


@pytest.fixture
def ctrl_c():
    """Let an interrupt raise `KeyboardInterrupt`: a process that a shell began in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_nothing_comes_is_not_waited_for(ctrl_c):
    class Stuck:
        reading: ReadAhead

        def __iter__(self):
            signal.pthread_kill(MAIN, signal.SIGINT)  # wakes who waits, as Ctrl-C does
            wait_until(lambda: self.reading.leaving)
            yield batch(0)

    source = Stuck()
    source.reading = ReadAhead(source)
    with pytest.raises(KeyboardInterrupt), source.reading:
        next(iter(source.reading))


def test_the_thread_has_as_many_threads_for_its_products_as_the_other():
    seen = []

    def source():
        seen.append(torch.get_num_threads())
        yield batch(0)

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with ReadAhead(source()) as reading:
                list(reading)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


class Cuda:
    """Stands for `torch.cuda`: writes down what is asked of it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def Stream(self, _device):  # noqa: N802 - torch's name
        return self.stream_named("model's")

    def current_stream(self, _device):
        return self.stream_named("user's")

    def stream_named(self, name):
        def record_event():
            self.done.append(f"{name} records")
            return f"event {sum('records' in each for each in self.done)}"

        return SimpleNamespace(
            name=name,
            record_event=record_event,
            wait_event=lambda event: self.done.append(f"{name} waits for {event}"),
            wait_stream=lambda other: self.done.append(f"{name} waits for {other.name}"),
        )

    def stream(self, stream):
        self.done.append(f"in {stream.name}")
        return nullcontext()


@pytest.mark.parametrize("own", [True, False])
def test_on_a_gpu_each_stream_waits_for_the_other(monkeypatch, own):
    cuda, kept = Cuda(), []
    monkeypatch.setattr(ahead.torch, "cuda", cuda)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: kept.append(stream.name))
    with ReadAhead([batch(0), batch(1)], most=1, device=torch.device("cuda"), own_stream=own) as reading:
        for _ in reading:
            pass
    if not own:
        assert cuda.done == ["in user's"]
        assert kept == []
        return
    assert cuda.done[:2] == ["model's waits for user's", "in model's"]
    assert cuda.done.index("user's waits for event 1") > cuda.done.index("model's records")
    assert cuda.done[-2:] == ["user's waits for event 2", "user's waits for model's"]
    assert kept == ["user's", "user's"]
