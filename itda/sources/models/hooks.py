"""Hooks for one thread's forward passes, models in evaluation mode for as long as they run, and turns of threads.

All threads share a module and its hooks. A plain hook would also act on the passes of other threads, and on those that
a caller makes for itself. So each hook here first checks that the pass is one of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

Hook = Callable[[Any], Any]
"""Takes a module's output; its result replaces the output, unless it is None."""
Before = Callable[[tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | None]
"""Takes a module's arguments, by place and by name; its result replaces them, unless it is None."""

_running: ContextVar[object | None] = ContextVar("itda_running", default=None)
"""The `hooked` block whose forward pass this thread is in."""
_standing: ContextVar[tuple[object, ...]] = ContextVar("itda_standing", default=())
"""The `standing` blocks that this thread is in."""
_aside: ContextVar[bool] = ContextVar("itda_aside", default=False)
"""True within an `aside` block."""
_permanent: WeakSet[nn.Module] = WeakSet()
"""The models that have hooks of `permanent`."""
_changing = threading.Lock()
"""Held while hooks and modes are set or removed: torch numbers hooks without a lock of its own."""


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]], before: Iterable[tuple[nn.Module, Before]] = ()) -> Iterator[None]:
    """Set hooks on modules, after and `before` they run, for the passes that this thread makes within this block.

    While a hook runs, all are off: it may call the model itself.
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


@contextmanager
def standing(
    hooks: Iterable[tuple[nn.Module, Hook]], before: Iterable[tuple[nn.Module, Before]] = ()
) -> Iterator[None]:
    """Set hooks on modules, after and `before` they run, for all passes that this thread makes within this block.

    Other than those of `hooked`, they act in the passes of `hooked` and `standing` blocks within this one too. The
    hooks of the outer block run first. While one of them runs, all are off.
    """
    block = object()

    def own(hook: Callable) -> Callable:
        def run(_module: object, *given: Any) -> Any:
            if block not in _standing.get():
                return None
            with aside():
                return hook(*given)

        return run

    with ExitStack() as stack:
        handles = []
        stack.callback(_remove, handles)
        with _changing:
            for module, hook in hooks:
                handles.append(module.register_forward_hook(own(lambda _inputs, output, hook=hook: hook(output))))
            for module, hook in before:
                handles.append(module.register_forward_pre_hook(own(hook), with_kwargs=True))
        token = _standing.set((*_standing.get(), block))
        stack.callback(_standing.reset, token)
        yield


def permanent(
    model: nn.Module, hooks: Iterable[tuple[nn.Module, Hook]], before: Iterable[tuple[nn.Module, Before]] = ()
) -> None:
    """Set hooks on modules of a model for good, for all passes of all threads but those made `aside`."""

    def own(hook: Callable) -> Callable:
        def run(_module: object, *given: Any) -> Any:
            if _aside.get():
                return None
            with aside():
                return hook(*given)

        return run

    with _changing:
        for module, hook in hooks:
            module.register_forward_hook(own(lambda _inputs, output, hook=hook: hook(output)))
            _permanent.add(model)
        for module, hook in before:
            module.register_forward_pre_hook(own(hook), with_kwargs=True)


def changed(model: nn.Module) -> bool:
    """Return True for a model with `permanent` hooks, and within a `standing` block."""
    return bool(_standing.get()) or model in _permanent


@contextmanager
def aside() -> Iterator[None]:
    """Make passes without the hooks of `standing` and `permanent`, within this block."""
    standing_before, before = _standing.set(()), _aside.set(True)
    try:
        yield
    finally:
        _aside.reset(before)
        _standing.reset(standing_before)


def _remove(handles: list[Any]) -> None:
    with _changing:
        for handle in handles:
            handle.remove()


_evaluating: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""How many passes hold each module in evaluation mode now; only modules that were in train mode before."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module of a model into evaluation mode within this block, and each back into its own mode afterwards.

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
    """A lock for a model that does one thing at a time; the thread that holds it may take it again."""

    def __init__(self) -> None:
        self._free, self._owner, self._times = threading.Condition(), None, 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock within this block, after waiting for the other threads."""
        own = threading.get_ident()
        with self._free:
            self._free.wait_for(lambda: self._owner in (None, own))
            self._owner, self._times = own, self._times + 1
        try:
            yield
        finally:
            # Perhaps in another thread: Python closes an unfinished generator wherever it collects garbage.
            with self._free:
                self._times -= 1
                if not self._times:
                    self._owner = None
                    self._free.notify()
