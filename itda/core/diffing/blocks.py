"""Blocks of a stream of pairs: however it comes in pieces, it is gone through in the same blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

Pair = tuple[Tensor, Tensor]


class Blocks:
    """Collects activations of two models until a block is whole: the first of `opening` tokens, later ones of `block`.

    >>> blocks = Blocks(3, 2)
    >>> x = torch.arange(8.0)[:, None]
    >>> [len(a) for a, _ in blocks.add(x[:4], x[:4])], [len(a) for a, _ in blocks.add(x[4:], x[4:])]
    ([3], [2, 2])
    >>> [len(a) for a, _ in blocks.rest()]
    [1]
    """

    def __init__(self, opening: int, block: int) -> None:
        self._next, self._block = opening, block
        self._waiting: list[Pair] = []

    def add(
        self, base: Float[Tensor, "batch base_width"], changed: Float[Tensor, "batch changed_width"]
    ) -> Iterator[Pair]:
        """Take some tokens; yield the blocks that are whole, as float32 on the CPU."""
        self._waiting.append((base.float().cpu(), changed.float().cpu()))
        number = sum(len(x) for x, _ in self._waiting)
        if number < self._next:
            return
        x, y = self._joined()
        start = 0
        while number - start >= self._next:
            stop = start + self._next
            yield x[start:stop], y[start:stop]
            start, self._next = stop, self._block
        self._waiting = [(x[start:].clone(), y[start:].clone())]

    def rest(self) -> Iterator[Pair]:
        """Yield what is left as a last, shorter block; nothing if there is nothing."""
        if self._waiting:
            x, y = self._joined()
            self._waiting = []
            if len(x):
                yield x, y

    def _joined(self) -> Pair:
        return torch.cat([x for x, _ in self._waiting]), torch.cat([y for _, y in self._waiting])
