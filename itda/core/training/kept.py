"""Activations kept for refinement, evenly from the whole stream."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class KeptActivations:
    """Every `stride`-th activation of a stream, whatever its batches; none if the stride is 0. Kept on the CPU.

    >>> kept = KeptActivations(stride=2)
    >>> for part in torch.arange(5.0).reshape(5, 1).split(3):
    ...     kept.add(part)
    >>> kept.joined(1).tolist()
    [[0.0], [2.0], [4.0]]
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.seen = 0
        """Number of activations seen so far, of which one in `stride` was kept."""
        self._parts: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, activations: Float[Tensor, "batch d_model"]) -> None:
        """Keep copies of some of the next activations."""
        if self.stride:
            self._parts.append(activations[-self.seen % self.stride :: self.stride].cpu().clone())
            self.seen += len(activations)

    def joined(self, d_model: int) -> Float[Tensor, "tokens d_model"]:
        """Return all activations kept so far, in stream order."""
        return torch.cat(self._parts) if self._parts else torch.empty(0, d_model)

    def restore(self, kept: Float[Tensor, "tokens d_model"] | None, seen: int) -> None:
        """Go on with a copy of the activations kept among the first `seen`."""
        self._parts = [kept.clone()] if kept is not None else []
        self.seen = seen
