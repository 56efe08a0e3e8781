"""One block at a time under the model's own forward pass.

To run block 7 alone, the model is called as always, with all blocks before it handing on what they are given; block 7
then gets the state that it would have seen instead, and the pass ends there. Masks, rotary embeddings, whatever the
model passes to a block, are made by the model itself, for each block as it wants them. That is right if nothing but
the state goes from block to block. `form_of` finds out; a model for which it is not so must run in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from itda.sources.models.blocks import tensor_of

Form = type[Tensor] | type[tuple]
"""What the blocks of a model return."""


class Stop(Exception):  # noqa: N818 - not an error: the block has been run
    """Ends a forward pass."""


class NotReplayableError(Exception):
    """A block returned more than its state: what `form_of` could not see."""


class _Marked(Tensor):
    """What comes from a block: whatever is computed from it is marked too."""


class _Other(Exception):  # noqa: N818 - not an error: the model is of another kind
    pass


def form_of(blocks: nn.ModuleList, forward: Callable[[], object]) -> Form | None:
    """What the blocks return, if each can be run alone; None if more than the state goes from block to block.

    `forward` runs the whole model. Each block must be called once, in order, with what the block before it returned,
    the same object, and with nothing else that was computed from it or that could carry anything on: no dictionaries,
    lists or caches, which blocks may write to.
    """
    for form in (Tensor, tuple):
        with suppress(_Other, TypeError, AttributeError, IndexError, ValueError, RuntimeError):
            _try(blocks, form, forward)
            return form
    return None


def _try(blocks: nn.ModuleList, form: Form, forward: Callable[[], object]) -> None:
    handed: list[Tensor] = []

    def check(layer: int) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            state, rest, named = split(args, kwargs)
            if len(handed) != layer or (handed and state is not handed[-1]):
                raise _Other
            if not all(_is_plain(value) for value in (*rest, *named.values())):
                raise _Other
            handed.append(state.detach().clone().as_subclass(_Marked))
            return handed[-1] if form is Tensor else (handed[-1],)

        return run

    with replaced(blocks, [check(layer) for layer in range(len(blocks))]), torch.no_grad():
        forward()
    if len(handed) != len(blocks):
        raise _Other


def _is_plain(value: Any) -> bool:
    """Whether it cannot carry anything from block to block."""
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    if isinstance(value, Tensor):
        return not isinstance(value, _Marked)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device)


def split(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, tuple, dict[str, Any]]:
    """The state among a block's arguments, and the others."""
    if args:
        return args[0], args[1:], kwargs
    return kwargs["hidden_states"], (), {name: each for name, each in kwargs.items() if name != "hidden_states"}


def with_state(state: Tensor, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A block's arguments with another state."""
    return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})


@dataclass
class _Installed:
    real: Callable
    own: bool
    """Whether the block had a forward pass of its own, not that of its class."""
    times: int = 0


_forwards: ContextVar[dict[nn.Module, Callable]] = ContextVar("itda_forwards")
"""What this thread has in place of the forward passes of some blocks."""
_installed: WeakKeyDictionary[nn.Module, _Installed] = WeakKeyDictionary()
_changing = Lock()


@contextmanager
def replaced(blocks: Sequence[nn.Module] | nn.ModuleList, forwards: Sequence[Callable]) -> Iterator[None]:
    """Other functions in place of the forward passes of the first blocks; what reads their attributes still can.

    Only in the passes of this thread: one of another thread goes through the blocks as they are.
    """
    own = dict(zip(blocks, forwards, strict=False))
    with _changing:
        for block in own:
            _install(block)
    token = _forwards.set({**_forwards.get({}), **own})
    try:
        yield
    finally:
        _forwards.reset(token)
        with _changing:
            for block in own:
                _uninstall(block)


def _install(block: nn.Module) -> None:
    if block not in _installed:
        real, own = block.forward, "forward" in vars(block)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return _forwards.get({}).get(block, real)(*args, **kwargs)

        _installed[block] = _Installed(real, own)
        block.forward = forward
    _installed[block].times += 1


def _uninstall(block: nn.Module) -> None:
    entry = _installed[block]
    entry.times -= 1
    if not entry.times:
        del _installed[block]
        if entry.own:
            block.forward = entry.real
        else:
            del block.forward


def real_forward(block: nn.Module) -> Callable:
    """A block's forward pass, whatever threads have in its place."""
    with _changing:
        entry = _installed.get(block)
        return block.forward if entry is None else entry.real


def run_blocks(
    blocks: nn.ModuleList,
    layers: range,
    form: Form,
    state: Tensor | None,
    forward: Callable[[], object],
    watch: Callable[[int, Tensor], object] = lambda _layer, _state: None,
) -> Tensor:
    """What consecutive blocks make of a state, or of the model's embeddings if there is none.

    `watch` is given the number of each block and the state that goes into it, which the block may write to. Raises
    `NotReplayableError` if a block returns more than a state.
    """
    if not layers:
        assert state is not None
        return state
    found: list[Tensor] = []

    def runs(layer: int) -> Callable:
        real = real_forward(blocks[layer])

        def run(*args: Any, **kwargs: Any) -> Any:
            if layer == layers[0] and state is not None:
                args, kwargs = with_state(state, args, kwargs)
            watch(layer, split(args, kwargs)[0])
            output = real(*args, **kwargs)
            check_form(output, form)
            if layer != layers[-1]:
                return output
            found.append(tensor_of(output))
            raise Stop

        return run

    forwards = [*(passing(form) for _ in range(layers[0])), *map(runs, layers)]
    with replaced(blocks, forwards), suppress(Stop):
        forward()
    return found[0]


def run_block(
    blocks: nn.ModuleList, layer: int, form: Form, state: Tensor | None, forward: Callable[[], object]
) -> Tensor:
    """As `run_blocks`, for one block."""
    return run_blocks(blocks, range(layer, layer + 1), form, state, forward)


def run_head(blocks: nn.ModuleList, form: Form, state: Tensor, forward: Callable[[], Any]) -> Any:
    """What the model makes of the last block's state."""

    def last(*_args: Any, **_kwargs: Any) -> Any:
        return state if form is Tensor else (state,)

    with replaced(blocks, [*(passing(form) for _ in range(len(blocks) - 1)), last]):
        return forward()


def passing(form: Form) -> Callable:
    """A block that hands on what it is given."""

    def run(*args: Any, **kwargs: Any) -> Any:
        state = split(args, kwargs)[0]
        return state if form is Tensor else (state,)

    return run


def check_form(output: Any, form: Form) -> None:
    """Raises `NotReplayableError` unless a block returned its state and nothing else."""
    extra = output[1:] if isinstance(output, tuple) else ()
    if not isinstance(output, form) or any(each is not None for each in extra):
        raise NotReplayableError
