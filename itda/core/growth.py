"""Growth: the trainer's loop, a block of activations at a time, equal to one activation at a time to the bit.

A block is encoded in parallel as if its activations added nothing. Then they are gone through in order: when one is
appended, each later activation keeps its path if the new atom loses at each of its steps, which takes k multiplications
to see and no pursuit; where it might win, the pursuit is resumed at that step. The new atom's Gram row is there
already: its correlations with the dictionary are those that began its own pursuit.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core import growth_kernel
from itda.core.code import SparseCode
from itda.core.pursuit import kernel
from itda.core.pursuit.exact import full_precision_products
from itda.core.pursuit.gram import KINDS, GramEncoder, GramRows, Scratch, correlate, new_block, rows_at_once, run
from itda.core.pursuit.workers import over_rows

LARGEST_BLOCK = 1024
"""More rows than this make no product more efficient, and more of them have to be encoded again."""


class Growth:
    """A dictionary that grows; atoms are appended in stream order."""

    def __init__(
        self,
        d_model: int,
        k: int,
        threshold: float,
        pursuit: str,
        most: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.k, self.threshold, self.pursuit = k, threshold, pursuit
        self.most = most if most is not None else 2**62
        self.number = 0
        self._atoms = torch.empty(0, d_model, dtype=torch.float32)
        self.gram = GramRows(self._atoms, 0, least=k, memory=memory)
        self._scratch = Scratch()
        self._block_size, self._adapts = block_size or 16, block_size is None

    @property
    def atoms(self) -> Float32[Tensor, "atoms d_model"]:
        """The dictionary so far; a view."""
        return self._atoms[: self.number]

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """How many rows of the Gram matrix memory has room for."""
        return "all" if self.gram.complete else self.gram.capacity

    def encode(self, targets: Float[Tensor, "batch d_model"]) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Codes in the dictionary so far, to the full k."""
        return GramEncoder(self.gram, self.k, self.pursuit)(targets)

    def offer(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go through some targets in order; returns those that were appended."""
        appended: list[int] = []
        start = 0
        while start < len(targets):
            if self.number >= self.most:
                break
            block = targets[start : start + self._rows()]
            appended += [start + row for row in self._offer_block(block)]
            start += len(block)
        return appended

    def _rows(self) -> int:
        most = rows_at_once(self.gram, self.k)
        if self.gram.complete and not self._adapts:
            return self._block_size  # as asked for: nothing but memory could speak against it
        return min(self._block_size, max(most, 16 if self.gram.complete else 1))

    def _offer_block(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        batch, before = len(targets), self.number
        room = before + batch
        self._reserve(room)
        block, _ = new_block(
            targets, self.k, self.pursuit, self.threshold, room, keep_first=True, scratch=self._scratch
        )
        correlate(block, self.atoms)
        z = torch.from_numpy(block.narrow)
        with full_precision_products(z.device):
            products = (z @ z.T).numpy()
        fresh = self._scratch.array("fresh", (min(batch, self.most - before), room), np.int16)
        atoms, kind = self._atoms.numpy(), KINDS[self.pursuit]
        share, dirty = np.zeros(batch), np.full(batch, -1, np.int64)
        taken = np.zeros(batch, np.int64)
        unused = np.zeros((batch, self.k), np.int64), np.zeros((batch, self.k)), np.zeros(batch, np.int64)

        self.gram.stamp += 1
        rows, at, steps, again = np.arange(batch), 0, 0, 0
        while True:
            run(rows, block, self.gram, self._atoms, self.number, self.pursuit, fresh)
            over_rows(kernel.finish, rows, block, atoms, self.k, kind, *unused, share)
            if at == 0 and steps == 0:
                steps = int(block.step.sum()) + 1
            else:
                again += int(block.step[rows].sum())
            at, self.number = growth_kernel.settle(
                at,
                block,
                share,
                dirty,
                self.threshold,
                products,
                atoms,
                self.number,
                self.most,
                self.gram.view(fresh),
                self.gram.error,
                kind,
                taken,
            )
            if at == batch:
                break
            rows = np.flatnonzero(dirty >= 0)
            over_rows(growth_kernel.rewind, rows, block, atoms, dirty, kind)
        self.gram.grow(self._atoms, self.number, fresh)
        if self._adapts:
            if again > 0.3 * steps:
                self._block_size = max(8, self._block_size // 2)
            elif again < 0.15 * steps:
                self._block_size = min(LARGEST_BLOCK, 2 * self._block_size)
        return taken[: self.number - before].tolist()

    def _reserve(self, number: int) -> None:
        if number <= len(self._atoms):
            return
        grown = self._atoms.new_empty(max(number, 256, int(1.5 * len(self._atoms))), self._atoms.shape[1])
        grown[: self.number] = self.atoms
        self._atoms = grown
