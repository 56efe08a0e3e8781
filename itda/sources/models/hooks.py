"""Hooks that know their own call, models in evaluation mode for as long as they run, and turns of threads.

A hook sits on a module, which all threads share: one of another thread's call, or of a pass that a caller makes for
itself, would read and replace there as well. So each hook asks whether the pass that it is in is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

Hook = Callable[[Any], Any]
"""Given what a module returns; what it returns takes its place, unless it is None."""
Before = Callable[[tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | None]
"""Given a module's arguments, by place and by name; what it returns takes their place, unless it is None."""

_running: ContextVar[object | None] = ContextVar("itda_running", default=None)
"""The call whose forward pass this thread is in."""
_changing = threading.Lock()
"""Hooks and modes are set and taken away one at a time: torch numbers hooks without a lock of its own."""


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]], before: Iterable[tuple[nn.Module, Before]] = ()) -> Iterator[None]:
    """Hooks on modules, after they run and before, for the passes that are made within this, in this thread alone.

    Not for passes that a hook makes either: while one runs, it is as if there were none.
    """
    call = object()

    def own(hook: Callable) -> Callable:
        def run(_module: object, *given: Any) -> Any:
            if _running.get() is not call:
                return None
            token = _running.set(None)
            try:
                return hook(*given)
            finally:
                _running.reset(token)

        return run

    def after(hook: Hook) -> Callable:
        return own(lambda _inputs, output: hook(output))

    with ExitStack() as stack:
        handles = []
        stack.callback(_remove, handles)
        with _changing:
            for module, hook in hooks:
                handles.append(module.register_forward_hook(after(hook)))
            for module, hook in before:
                handles.append(module.register_forward_pre_hook(own(hook), with_kwargs=True))
        token = _running.set(call)
        stack.callback(_running.reset, token)
        yield


def _remove(handles: list[Any]) -> None:
    with _changing:
        for handle in handles:
            handle.remove()


_evaluating: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Modules that belong in train mode, and how many passes hold them in evaluation mode now."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of a model in evaluation mode, and afterwards each in its own again.

    Where threads run at once, a module is set back when the last of them has done with it.
    """
    with _changing:
        held = [module for module in model.modules() if module.training or module in _evaluating]
        for module in held:
            _evaluating[module] = _evaluating.get(module, 0) + 1
            module.training = False  # not by `eval()`, which some overwrite to do more than that
    try:
        yield
    finally:
        with _changing:
            for module in held:
                passes = _evaluating.pop(module) - 1
                if passes:
                    _evaluating[module] = passes
                else:
                    module.training = True


class Turns:
    """A model that can do one thing at a time is given to one thread at a time, which may come in more than once."""

    def __init__(self) -> None:
        self._free, self._owner, self._times = threading.Condition(), None, 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the other threads to be done."""
        own = threading.get_ident()
        with self._free:
            self._free.wait_for(lambda: self._owner in (None, own))
            self._owner, self._times = own, self._times + 1
        try:
            yield
        finally:
            # Perhaps in another thread: a generator that was left early is closed wherever memory is tidied up.
            with self._free:
                self._times -= 1
                if not self._times:
                    self._owner = None
                    self._free.notify()
