"""Batches read ahead: a model runs in a thread of its own while the batches before are used, so the slower decides."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from types import GeneratorType, TracebackType
from typing import Any, NamedTuple

import torch

from itda.core.batch import ActivationBatch, Site

MOST = 2
"""Batches, at most, that are computed or being computed and not yet taken."""

LOOK_S = 1.0
"""Seconds after which a thread that waits for the next batch looks for signals, on systems that do not wake it."""

Batches = Mapping[Site, ActivationBatch]


class _Arrived(NamedTuple):
    """A batch, and on a GPU the event after which it is whole."""

    batches: Batches
    whole: Any


class _Ended(NamedTuple):
    """The end of the stream, with the error that ended it, if one did."""

    error: BaseException | None


class ReadAhead:
    """Yields the batches of a source in their order, while a thread computes the next ones; a context manager.

    No more than `most` batches are ahead of the one in use. An error of the source is raised where its next batch would
    have come. At the end of the context the source is closed in its thread, after the batch that it is at; where
    batches take long, it can ask `leaving` meanwhile.

    On a GPU, `own_stream` gives the thread a stream, so that kernels of both run side by side. Everything that the
    source uses on the GPU must then be there before it begins, or be made by its thread. Without it both use one
    stream, and only the work of the host goes on side by side.

    >>> with ReadAhead([{}, {}, {}]) as batches:
    ...     len(list(batches))
    3
    """

    def __init__(
        self,
        source: Iterable[Batches],
        *,
        most: int = MOST,
        device: torch.device | None = None,
        own_stream: bool = False,
    ) -> None:
        self._source, self._room = source, threading.Semaphore(most)
        self._ready: queue.SimpleQueue[_Arrived | _Ended] = queue.SimpleQueue()
        self._leaving = threading.Event()
        self._gpu = _Gpu(device, own_stream) if device is not None and device.type == "cuda" else None
        self._thread = threading.Thread(target=self._run, name="itda-ahead", daemon=True)
        self._threads = torch.get_num_threads()

    @property
    def leaving(self) -> bool:
        """True once nothing more is wanted of the source."""
        return self._leaving.is_set()

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._leaving.set()
        self._room.release()
        self._thread.join()
        if self._gpu is not None:
            self._gpu.joined()

    def __iter__(self) -> Iterator[Batches]:
        while True:
            try:
                found = self._ready.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if isinstance(found, _Ended):
                if found.error is not None:
                    raise found.error
                return
            self._room.release()
            if self._gpu is not None:
                self._gpu.take(found)
            yield found.batches

    def _run(self) -> None:
        """Compute the batches, in the thread."""
        error = None
        try:
            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            with self._gpu.context() if self._gpu is not None else nullcontext():
                self._read()
        except BaseException as raised:  # whatever it is, the other thread is to know
            error = raised
        self._ready.put(_Ended(error))

    def _read(self) -> None:
        batches = iter(self._source)
        with closing(batches) if isinstance(batches, GeneratorType) else nullcontext():
            while True:
                self._room.acquire()
                if self.leaving:
                    return
                found = next(batches, None)
                if found is None:
                    return
                self._ready.put(_Arrived(found, self._gpu.whole() if self._gpu is not None else None))


class _Gpu:
    """The order of two threads' kernels: what one hands over is whole before the other reads it, and kept till then."""

    def __init__(self, device: torch.device, own_stream: bool) -> None:
        self._used = torch.cuda.current_stream(device)
        self._stream = torch.cuda.Stream(device) if own_stream else self._used

    def context(self) -> AbstractContextManager[object]:
        """Return the context of the thread that computes; in it, what was begun before is done first."""
        if self._stream is not self._used:
            self._stream.wait_stream(self._used)
        return torch.cuda.stream(self._stream)

    def whole(self) -> Any:
        """Return an event that comes when all that was begun so far is computed."""
        return self._stream.record_event() if self._stream is not self._used else None

    def take(self, found: _Arrived) -> None:
        """Have the other thread's kernels wait for a batch, and its memory kept until they are done with it."""
        if found.whole is None:
            return
        self._used.wait_event(found.whole)
        for batch in found.batches.values():
            batch.activations.record_stream(self._used)

    def joined(self) -> None:
        """Have what comes after wait for all that the thread has begun."""
        if self._stream is not self._used:
            self._used.wait_stream(self._stream)
