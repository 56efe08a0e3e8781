"""Growth on the CPU: a block of activations at a time, with the result of one activation at a time to the bit.

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

from itda.core.code import SparseCode
from itda.core.pursuit import Pursuit, gram_cpu_kernel
from itda.core.pursuit.gram_cpu import (
    TARGETS_BYTES,
    GramEncoder,
    GramRows,
    correlate,
    kind_of,
    new_block,
    run,
)
from itda.core.pursuit.gram_cpu_kernel import Block
from itda.core.pursuit.products import correlations
from itda.core.pursuit.scratch import Scratch
from itda.core.pursuit.threads import over_rows
from itda.core.training import growth_kernel

ROWS = 1024
"""Most rows whose correlations with the dictionary are computed by one product: more make it no more efficient."""

FEW_ROWS = 128
"""Rows that make a product efficient enough."""

PRODUCT_BYTES = 2**26
"""Most bytes that the correlations of one product may take."""


class CpuGrowth:
    """A dictionary that grows on the CPU: `itda.core.training.growth.Growth` in compiled loops."""

    def __init__(
        self,
        d_model: int,
        k: int,
        threshold: float,
        pursuit: Pursuit,
        most: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.k, self.threshold, self.pursuit = k, threshold, pursuit
        kind = kind_of(pursuit)
        assert kind is not None, f"the compiled loops do not know {pursuit}"
        self._kind = kind
        self.most = most if most is not None else 2**62
        self.number = 0
        self._atoms = torch.empty(0, d_model, dtype=torch.float32)
        self._novelty: list[np.ndarray] = []
        self.gram = GramRows(self._atoms, 0, least=k, memory=memory)
        self._memory, self._scratch = memory, Scratch()
        self._block_size, self._adapts = block_size or 16, block_size is None

    @staticmethod
    def knows(pursuit: Pursuit) -> bool:
        """Return True if the compiled loops know a pursuit."""
        return kind_of(pursuit) is not None

    @property
    def atoms(self) -> Float32[Tensor, "atoms d_model"]:
        """The dictionary so far; a view."""
        return self._atoms[: self.number]

    @property
    def novelty(self) -> Float32[Tensor, " atoms"]:
        """Error of each atom's activation in the dictionary just before it was added: why it was appended."""
        return torch.from_numpy(np.concatenate([np.empty(0), *self._novelty]).astype(np.float32))

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """Number of Gram matrix rows that fit into memory."""
        return "all" if self.gram.complete else self.gram.capacity

    def encode(self, targets: Float[Tensor, "batch d_model"]) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Return codes in the dictionary so far, with the full k, and the error of each target."""
        return GramEncoder(self.gram, self.k, self.pursuit)(targets.cpu())

    def expect(self, atoms: int) -> None:
        """Do nothing: the Gram matrix grows in its place."""

    def offer(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go through some targets in order; return the rows that were appended."""
        targets = targets.cpu()
        appended: list[int] = []
        start = 0
        while start < len(targets) and self.number < self.most:
            part = targets[start : start + self._rows_of_a_product()]
            appended += [start + row for row in self._offer_part(part)]
            start += len(part)
        return appended

    def restore(self, atoms: Float32[Tensor, "atoms d_model"], novelty: Float32[Tensor, " atoms"]) -> None:
        """Become a growth that has these atoms, which are copied; Gram rows are computed anew when asked for."""
        self._reserve(len(atoms))
        self._atoms[: len(atoms)] = atoms.cpu()
        self.number = len(atoms)
        self._novelty = [novelty.cpu().double().numpy()]
        self.gram = GramRows(self._atoms, self.number, least=self.k, memory=self._memory)

    def _rows_of_a_product(self) -> int:
        # The product of the rows with each other should be small beside that with the dictionary.
        wanted = max(self._block_size, self.number // 4, min(FEW_ROWS, 2 * self.number))
        width = self._atoms.shape[1]
        return max(1, min(ROWS, PRODUCT_BYTES // (4 * self.number + 1), TARGETS_BYTES // (20 * width), wanted))

    def _rows_of_a_block(self) -> int:
        if self.gram.complete:
            return self._block_size
        return max(1, min(self._block_size, self.gram.capacity // self.k))  # it holds k Gram rows for each of its rows

    def _offer_part(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go, block by block, through rows whose correlations come from one product."""
        before, room = self.number, self.number + len(targets)
        self._reserve(room)
        part, _ = new_block(targets, self.k, self.pursuit, self.threshold, room, scratch=self._scratch)
        correlate(part, self.atoms)
        z = torch.from_numpy(part.narrow)
        products = correlations(z, z).numpy()
        taken = np.zeros(len(targets), np.int64)
        start = 0
        while start < len(targets) and self.number < self.most:
            stop = min(len(targets), start + self._rows_of_a_block())
            self._offer_block(part, start, stop, products, taken[self.number - before :])
            start = stop
        return taken[: self.number - before].tolist()

    def _offer_block(self, part: Block, start: int, stop: int, products: np.ndarray, taken: np.ndarray) -> None:
        """Encode rows start to stop as if they added nothing; then add what they do, and mend the codes of the rest."""
        before, room, size = self.number, part.first.shape[1], stop - start
        block = Block(*(array[start:stop] for array in part))
        c = self._scratch.array("c", (size, room), np.float32)
        block = block._replace(c=c, bits=c.view(np.int32))
        fresh = self._scratch.array("fresh", (min(size, self.most - before), room), np.int16)
        atoms, kind = self._atoms.numpy(), self._kind
        share, dirty = np.zeros(size), np.full(size, -1, np.int64)
        self.gram.stamp += 1
        rows, at, steps, again = np.arange(size), 0, 0, 0
        while True:
            run(rows, block, self.gram, self._atoms, self.number, self.pursuit, fresh)
            self._shares(rows, block, share)
            steps, again = (int(block.step.sum()), 0) if steps == 0 else (steps, again + int(block.step[rows].sum()))
            at, self.number = growth_kernel.settle(
                at,
                block,
                share,
                dirty,
                self.threshold,
                part.first[start:],
                products,
                start,
                atoms,
                self.number,
                self.most,
                self.gram.view(fresh),
                self.gram.error,
                kind,
                taken,
            )
            if at == size:
                break
            rows = np.flatnonzero(dirty >= 0)
            growth_kernel.rewind(rows, block, atoms, dirty, kind)
        # Nothing reran a row once it was appended, so this is the error that it was judged by.
        self._novelty.append(share[taken[: self.number - before]])
        taken[: self.number - before] += start
        self.gram.grow(self._atoms, self.number, fresh)
        if self._adapts and again > 0.15 * steps:
            self._block_size = max(8, self._block_size // 2)
        elif self._adapts and again < 0.07 * steps:
            self._block_size = min(ROWS, 2 * self._block_size)

    def _shares(self, rows: np.ndarray, block: Block, share: np.ndarray) -> None:
        """Write into `share` the part of each row's energy that its code leaves unexplained."""
        if self._kind != gram_cpu_kernel.MP_REFIT:
            energy = block.energy[rows]
            share[rows] = np.divide(block.left[rows], energy, out=np.zeros(len(rows)), where=energy > 0)
            return
        size = block.picks.shape
        unused = np.zeros(size, np.int64), np.zeros(size), np.zeros(size[0], np.int64)
        over_rows(gram_cpu_kernel.finish, rows, block, self._atoms.numpy(), self.k, self._kind, *unused, share)

    def _reserve(self, number: int) -> None:
        if number <= len(self._atoms):
            return
        grown = self._atoms.new_empty(max(number, 256, int(1.5 * len(self._atoms))), self._atoms.shape[1])
        grown[: self.number] = self.atoms
        self._atoms = grown
