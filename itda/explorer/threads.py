"""The threads in which the explorer's server computes its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class AnswerThreads:
    """Threads that compute answers, with a queue in front of them that holds at most `waiting` calls.

    They are daemons: an answer that takes minutes must not keep a process alive that is asked to stop.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads, self._places, self._lock = threads, threads + waiting, threading.Lock()
        self.taken = 0
        """The number of calls that run or wait."""
        for _ in range(threads):
            threading.Thread(target=self._work, name="itda answers", daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any] | None:
        """Queue a call and return its future, or None if the queue is full. One cancelled in time never runs."""
        with self._lock:
            if self.taken == self._places:
                return None
            self.taken += 1
        future: Future[Any] = Future()
        future.add_done_callback(self._leave)
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """End each thread once it has done its present call."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self.taken -= 1

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
