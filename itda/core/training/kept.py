"""Activations kept for refinement, evenly from the whole stream."""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.labels import Labels
from itda.machine import free_device_memory

log = logging.getLogger(__name__)

SHARE = 8
"""On a GPU no more than one in this many of the bytes free there are taken: dictionaries are to grow there too."""


class KeptActivations:
    """Every `stride`-th activation of a stream, whatever its batches; none if the stride is 0.

    They stay on the device that they come from if the `expected` number of them fits there; else they are kept on the
    CPU, and so are all if `on_cpu`. Their labels are kept too if they are given.

    >>> kept = KeptActivations(stride=2)
    >>> for part in torch.arange(5.0).reshape(5, 1).split(3):
    ...     kept.add(part)
    >>> kept.joined(1).tolist()
    [[0.0], [2.0], [4.0]]
    """

    def __init__(self, stride: int, *, expected: int = 0, on_cpu: bool = False) -> None:
        self.stride = stride
        self.seen = 0
        """Number of activations seen so far, of which one in `stride` was kept."""
        self._expected, self._on_cpu = expected, on_cpu
        self._room: Tensor | None = None
        """Room for all of them, so that they are nowhere twice; the first `_held` rows are filled."""
        self._held = 0
        self._labels: list[Labels] = []
        self._from: torch.device | None = None
        """The device that activations came from last."""

    def __bool__(self) -> bool:
        return self._held > 0

    def add(self, activations: Float[Tensor, "batch d_model"], labels: Labels | None = None) -> None:
        """Keep copies of some of the next activations, and of their labels."""
        if not self.stride:
            return
        rows = np.arange(-self.seen % self.stride, len(activations), self.stride)
        some = activations[-self.seen % self.stride :: self.stride]
        self.seen += len(activations)
        if not len(some):
            return
        room = self._room_for(some)
        room[self._held : self._held + len(some)] = some
        self._held += len(some)
        if labels is not None:
            self._labels.append(labels[rows])

    def labels(self) -> Labels:
        """Return the labels of all activations kept so far, of those that came with labels."""
        self._labels = [Labels.concatenate(self._labels)]
        return self._labels[0]

    def joined(self, d_model: int) -> Float[Tensor, "tokens d_model"]:
        """Return all activations kept so far, in reading order; a view."""
        return self._room[: self._held] if self._room is not None else torch.empty(0, d_model)

    def restore(self, kept: Float[Tensor, "tokens d_model"] | None, seen: int, labels: Labels | None = None) -> None:
        """Go on with a copy of the activations kept among the first `seen`, and their labels."""
        self._labels = [labels] if labels is not None else []
        self._room, self._held = (kept.clone(), len(kept)) if kept is not None else (None, 0)
        self._from, self.seen = None, seen

    def _room_for(self, some: Float[Tensor, "batch d_model"]) -> Tensor:
        """Return room for some more, on their device if all fit there, in the wider of all dtypes."""
        before, needed = self._room, self._held + len(some)
        dtype = some.dtype if before is None else torch.promote_types(before.dtype, some.dtype)
        if before is not None and some.device == self._from and dtype == before.dtype and needed <= len(before):
            return before
        rows = max(self._expected, needed if before is None or needed <= len(before) else needed + needed // 2)
        if before is None or some.device != self._from:
            device = self._place(some.device, rows * some.shape[1] * dtype.itemsize)
        else:
            device = before.device
        self._from = some.device
        self._room = torch.empty(rows, some.shape[1], dtype=dtype, device=device)
        if before is not None:
            self._room[: self._held] = before[: self._held]
        return self._room

    def _place(self, device: torch.device, needed: int) -> torch.device:
        if device.type == "cpu" or self._on_cpu:
            return torch.device("cpu")
        if needed <= (free := free_device_memory(device)) // SHARE:
            return device
        log.info("refinement: its activations, %s bytes, are kept in RAM: %s are free on the GPU", needed, free)
        return torch.device("cpu")
