"""A device that is not the CPU, for machines without a GPU: it tells what is copied from it to the host.

Its tensors say that they are on `DEVICE`, and hold what is theirs in memory of the CPU. As with a GPU, an operation on
tensors of both is an error, and so is `numpy()`; a value comes to the host by a copy alone, which is written down.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""The one type of device beside the CPU that torch always has; its own kernels, which compute nothing, never run."""

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""Operations that take indices from the CPU, on a GPU too."""


class OnDevice(Tensor):
    """A tensor on `DEVICE`; `held` is the tensor of the CPU that has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self, *_: object, **__: object) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        """Return the values, by a copy that is counted."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of `OtherDevice`")


class OtherDevice(TorchDispatchMode):
    """Within this, `DEVICE` is there. `copied` has the shape of each copy from it to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[tuple[int, ...]] = []

    def largest(self) -> int:
        """Return the number of elements of the largest copy to the host."""
        return max((torch.Size(shape).numel() for shape in self.copied), default=0)

    def copied_rows(self, d_model: int) -> int:
        """Return how many rows of a width came to the host, whatever the number of copies."""
        return sum(torch.Size(shape).numel() // d_model for shape in self.copied if shape[-1:] == (d_model,))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled():  # which leaves taking apart what is made of other operations to a mode
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        tensors = list(_tensors((*args, *kwargs.values())))
        asked = kwargs.get("device")
        if asked is not None:
            asked = torch.device(asked)
            kwargs["device"] = torch.device("cpu") if asked.type == DEVICE.type else asked
        here = any(isinstance(x, OnDevice) for x in tensors)
        if func in (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default):
            return self._copy(func, args, kwargs, asked)
        if not here and (asked is None or asked.type != DEVICE.type):
            return func(*args, **kwargs)
        if func not in INDEXING:
            strange = [x for x in tensors if not isinstance(x, OnDevice) and x.ndim > 0]
            if strange:
                raise RuntimeError(f"{func}: a tensor of shape {tuple(strange[0].shape)} is on the CPU")
        if func is aten.sqrt.default:  # rounded as IEEE 754 asks, as a GPU's is; torch's on a CPU may be a bit off
            return OnDevice(torch.as_tensor(np.sqrt(args[0].held.numpy())))
        result = func(*_held(args), **_held(kwargs))
        written = {id(x.held): x for x in tensors if isinstance(x, OnDevice)}
        return _given_back(result, written)

    def _copy(self, func: Any, args: Any, kwargs: Any, asked: torch.device | None) -> Any:
        if func is aten._local_scalar_dense.default:
            if isinstance(args[0], OnDevice):
                self.copied.append(())
            return func(*_held(args))
        if func is aten.copy_.default:
            target, source = args[:2]
            if isinstance(source, OnDevice) and not isinstance(target, OnDevice):
                self.copied.append(tuple(source.shape))
            func(*_held(args), **kwargs)
            return target
        source = args[0]
        result = func(*_held(args), **kwargs)
        goes = asked if asked is not None else source.device
        if isinstance(source, OnDevice) and goes.type != DEVICE.type:
            self.copied.append(tuple(source.shape))
        return OnDevice(result) if goes.type == DEVICE.type else result


# As torch's own walk through lists and tuples does, in a fraction of the time: an operation has few arguments.
def _tensors(tree: Any) -> Iterator[Tensor]:
    for each in tree:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def _held(tree: Any) -> Any:
    if isinstance(tree, OnDevice):
        return tree.held
    if isinstance(tree, (list, tuple)):
        return type(tree)(_held(each) for each in tree)
    if isinstance(tree, dict):
        return {name: _held(each) for name, each in tree.items()}
    return tree


def _given_back(result: Any, written: dict[int, OnDevice]) -> Any:
    """Wrap a result; what was written to in place is given back itself."""
    if isinstance(result, Tensor):
        return written[id(result)] if id(result) in written else OnDevice(result)
    if isinstance(result, (list, tuple)):
        return type(result)(_given_back(each, written) for each in result)
    return result


@contextlib.contextmanager
def other_device() -> Iterator[OtherDevice]:
    """Make `DEVICE` usable within this."""
    autocast = torch.autocast

    def known(device_type: str, *args: Any, **settings: Any) -> Any:  # there is no autocast for it
        return autocast("cpu" if device_type == DEVICE.type else device_type, *args, **settings)

    def by_a_copy(make: Any) -> Any:  # torch makes these without asking a mode
        def made(data: Any, *, device: Any = None, **settings: Any) -> Tensor:
            return make(data, **settings) if device is None else make(data, **settings).to(device)

        return made

    patches = {"autocast": known, "tensor": by_a_copy(torch.tensor), "as_tensor": by_a_copy(torch.as_tensor)}
    with mock.patch.multiple(torch, **patches), OtherDevice() as mode:
        yield mode


def there(x: Tensor) -> Tensor:
    """Return a copy of a tensor on the device; call it within `other_device`."""
    return x.to(DEVICE)


def here(x: Tensor) -> Tensor:
    """Return the values of a tensor of the device, uncounted."""
    return x.held if isinstance(x, OnDevice) else x
