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
"""The type that the blocks of a model return."""


class Stop(Exception):  # noqa: N818 - not an error: the block has been run
    """Raised to end a forward pass."""


class NotReplayableError(Exception):
    """Raised if a block returns more than its state, which `form_of` could not see."""


class _Marked(Tensor):
    """A tensor that a block returned; torch marks everything that is computed from it too."""


class _Other(Exception):  # noqa: N818 - not an error: the model is of another kind
    """Raised if the blocks do not return the form that is tried."""


def form_of(blocks: nn.ModuleList, forward: Callable[[], object]) -> Form | None:
    """Return the type of the blocks' outputs if each can be run alone; None if they hand on more than the state.

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
    """Return True if an argument cannot carry anything from block to block."""
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    if isinstance(value, Tensor):
        return not isinstance(value, _Marked)
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device)


def split(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, tuple, dict[str, Any]]:
    """Split a block's arguments: the state, the others by place, and the others by name."""
    if args:
        return args[0], args[1:], kwargs
    return kwargs["hidden_states"], (), {name: each for name, each in kwargs.items() if name != "hidden_states"}


def with_state(state: Tensor, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return a block's arguments with another state."""
    return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})


@dataclass
class _Installed:
    """A block whose `forward` was replaced by one that looks into `_forwards`."""

    real: Callable
    """The block's real forward pass."""
    own: bool
    """True if `forward` was set on the block itself, and not only on its class."""
    times: int = 0
    """Number of `replaced` blocks that it is in now."""


_forwards: ContextVar[dict[nn.Module, Callable]] = ContextVar("itda_forwards")
"""The functions that this thread calls instead of some blocks' forward passes."""
_installed: WeakKeyDictionary[nn.Module, _Installed] = WeakKeyDictionary()
_changing = Lock()


@contextmanager
def replaced(blocks: Sequence[nn.Module] | nn.ModuleList, forwards: Sequence[Callable]) -> Iterator[None]:
    """Call other functions instead of the forward passes of the first blocks, within this; their attributes stay.

    Only in the passes of this thread: other threads run the blocks as they are.
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
    """Return a block's real forward pass, even while it is replaced."""
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
    """Run consecutive blocks on a state, or on the model's embeddings if there is none; return the last one's state.

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
    """Run one block: see `run_blocks`."""
    return run_blocks(blocks, range(layer, layer + 1), form, state, forward)


def run_head(blocks: nn.ModuleList, form: Form, state: Tensor, forward: Callable[[], Any]) -> Any:
    """Return the output of the model for the last block's state, running no block."""

    def last(*_args: Any, **_kwargs: Any) -> Any:
        return state if form is Tensor else (state,)

    with replaced(blocks, [*(passing(form) for _ in range(len(blocks) - 1)), last]):
        return forward()


def passing(form: Form) -> Callable:
    """Return a forward pass that hands on the state that it is given."""

    def run(*args: Any, **kwargs: Any) -> Any:
        state = split(args, kwargs)[0]
        return state if form is Tensor else (state,)

    return run


def check_form(output: Any, form: Form) -> None:
    """Raises `NotReplayableError` unless a block returned its state and nothing else."""
    extra = output[1:] if isinstance(output, tuple) else ()
    if not isinstance(output, form) or any(each is not None for each in extra):
        raise NotReplayableError
