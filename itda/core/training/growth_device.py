"""Growth on a GPU, or any device: a block of activations at a time, with the result of one at a time to the bit.

Row i of a block depends on rows before it only. So guess which rows are appended; take every row's pursuit in the
dictionary and the atoms of the guessed rows before it; the rows left with an error above the threshold are the next
guess; and so on until the guess does not change. By induction a row is right as soon as all rows before it are, so this
ends, and its end is the sequential result. All of it is products and pursuits of many rows at once. A round goes over
few of them: those that had picked an atom now gone, or for which a new atom might win at some step, from that step on.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core import memory as limits
from itda.core.code import SparseCode
from itda.core.pursuit import Pursuit, pursue
from itda.core.pursuit.advance import Correlations, Rows, advance, columns_of, units
from itda.core.pursuit.gram_torch import joined, rows_at_once
from itda.core.pursuit.or_torch import holds
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.rules import rules_of
from itda.core.pursuit.rules.mp import MP
from itda.core.pursuit.rules.mp_refit import MP_REFIT
from itda.core.pursuit.start import Codes
from itda.core.pursuit.stepwise import Ways, run, ways_on
from itda.core.pursuit.triton_limits import LEAST_GROWN, power_of_two
from itda.core.training.block import Block, GrowingAtoms
from itda.core.training.growth_bytes import LEAST_ROWS, rows_of_a_block
from itda.core.training.growth_cpu import CpuGrowth
from itda.machine import free_device_memory

log = logging.getLogger(__name__)

FIRST_ROWS = 512
"""Rows of the first block, where their number follows the rate at which atoms are found."""

ROUND = 700
"""Pursuits that take a GPU as long as it takes to start a round: some 0.5 ms."""

PROOF = 8
"""Rows of the first block that kernels and torch take through a pursuit in as many rows before them, to be compared."""

RESERVE = 2**30
"""Bytes of a GPU kept free of the Gram matrix, for a block on its way."""

IN_TORCH = Ways(advance, units)

_PROVEN: dict[tuple[Ways, torch.device, int, int], bool] = {}
"""Whether kernels have the bits of torch, by device, width and k: many dictionaries grow in a search for a threshold,
and a proof takes as long as some blocks."""


class DeviceGrowth:
    """A dictionary that grows where its activations are: `itda.core.training.growth.Growth` in torch.

    Where dictionary and Gram matrix do not fit on the device, it grows on, on the CPU.
    """

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
        self._settings = (d_model, k, threshold, pursuit, most, block_size, memory)
        self.k, self._threshold, self.pursuit = k, threshold, pursuit
        self._most, self._memory = most, limits.limit() if memory is None else memory
        self._atoms = GrowingAtoms(torch.empty(0, d_model, dtype=torch.float32), 0)
        self._novelty: list[Tensor] = []
        self._rows, self._adapts = block_size or FIRST_ROWS, block_size is None
        self._expected, self._share = 0, 1.0
        """The atoms that room is made for at first, and the share of the last block's rows that were appended."""
        self._ways: Ways | None = None
        self._on_cpu: CpuGrowth | None = None

    @staticmethod
    def knows(pursuit: Pursuit) -> bool:
        """Return True for `mp` and `mp_refit`."""
        return rules_of(pursuit) in (MP, MP_REFIT)

    @property
    def threshold(self) -> float:
        """The error above which a target is appended; may be set between calls of `offer`."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = value
        if self._on_cpu is not None:
            self._on_cpu.threshold = value

    @property
    def number(self) -> int:
        """Number of atoms."""
        return self._on_cpu.number if self._on_cpu is not None else self._atoms.number

    @property
    def atoms(self) -> Float32[Tensor, "atoms d_model"]:
        """The dictionary so far; a view."""
        return self._on_cpu.atoms if self._on_cpu is not None else self._atoms.table[: self.number]

    @property
    def novelty(self) -> Float32[Tensor, " atoms"]:
        """Error of each atom's target in the dictionary just before it was added, on the CPU."""
        if self._on_cpu is not None:
            return self._on_cpu.novelty
        return torch.cat([torch.empty(0), *(part.float().cpu() for part in self._novelty)])

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """The word "all": on a device the whole Gram matrix is kept."""
        return self._on_cpu.gram_rows if self._on_cpu is not None else "all"

    def encode(self, targets: Float[Tensor, "batch d_model"]) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Return codes in the dictionary so far, with the full k, and the error of each target."""
        if self._on_cpu is not None:
            return self._on_cpu.encode(targets)
        self._move_to(targets.device)
        if not (self.number > 0 and self._fits(self.number, targets.device)):
            return pursue(targets, self.atoms, self.k, self.pursuit)
        self._atoms.reserve(self.number)
        size = max(1, rows_at_once(max(self.number, targets.shape[1]), targets.device))
        return joined([self._encoded(part) for part in targets.split(size)])

    def _encoded(self, targets: Float[Tensor, "batch d_model"]) -> Codes:
        """Return what `encode` does, by the Gram matrix, which is there."""
        rows, number = Rows.of(targets, self.k, 0.0), self.number
        c = torch.empty(len(targets), columns_of(number), device=targets.device)
        correlations(rows.z, self.atoms, out=c[:, :number])
        bound = product_error(targets.shape[1]) * rows.energy.sqrt()
        source = Correlations(c, torch.zeros_like(rows.step), bound, keep=False)
        everyone = torch.arange(len(targets), dtype=torch.int32, device=targets.device)
        # Every row sees every atom: in the form of growth, whose kernel is compiled.
        born = torch.full((number,), -1, dtype=torch.int32, device=targets.device)
        run(rows, everyone, source, everyone, self._atoms.view(number, born), self._ways or IN_TORCH)
        return rows.codes(self._atoms.table, rules_of(self.pursuit), targets.dtype)

    def expect(self, atoms: int) -> None:
        """Make room for the Gram matrix of so many atoms at the first block, if there is as much memory."""
        self._expected = atoms

    def offer(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go through some targets in order; return the rows that were appended."""
        self._move_to(targets.device)
        appended: list[int] = []
        start, most = 0, self._most if self._most is not None else 2**62
        while start < len(targets) and self.number < most:
            part = targets[start : start + self._at_once()]
            if self._on_cpu is None and not self._fits(self.number + len(part), targets.device):
                self._leave()
            if self._on_cpu is not None:
                return appended + [start + row for row in self._on_cpu.offer(targets[start:])]
            appended += [start + row for row in self._offer_block(part, most - self.number)]
            start += len(part)
        return appended

    def _at_once(self) -> int:
        """Return the rows of the next block: not so many that they alone ask for a kernel for twice as many atoms."""
        room = power_of_two(max(self.number + 1, LEAST_GROWN)) - self.number
        return min(self._rows, room) if room >= self._rows // 4 else self._rows

    def restore(self, atoms: Float32[Tensor, "atoms d_model"], novelty: Float32[Tensor, " atoms"]) -> None:
        """Go on from a dictionary that has grown elsewhere; copies what it is given."""
        self._atoms, self._novelty = GrowingAtoms(atoms.clone(), len(atoms)), [novelty.clone()]
        self._on_cpu = None

    def _offer_block(self, targets: Float[Tensor, "batch d_model"], most: int) -> list[int]:
        number, expected = (
            self.number + len(targets),
            self._expected + rows_of_a_block(self._expected, targets.shape[1]),
        )
        self._atoms.reserve(expected if expected > number and self._fits(expected, targets.device) else number)
        refit = rules_of(self.pursuit) is MP_REFIT
        all_chosen = self._share > 0.5
        ways = self._ways_for(targets)
        block = Block(targets, self._atoms, self.k, self._threshold, refit, ways, all_chosen=all_chosen)
        rows = block.settle(most)
        self._novelty.append(torch.from_numpy(block.share[rows]))
        self._share = len(rows) / len(targets)
        if self._adapts:
            self._rows = self._next_size(block.rounds, block.pursuits, targets.shape[1])
        return rows.tolist()

    def _next_size(self, rounds: int, pursuits: int, d_model: int) -> int:
        """Return the rows of the next block, by what the last one took: larger ones start fewer rounds for each row.

        They also guess worse which of their rows are appended, and take more pursuits for nothing.
        """
        wanted = self._rows
        if rounds * ROUND > pursuits:
            wanted = 2 * self._rows
        elif rounds * ROUND < pursuits / 4:
            wanted = self._rows // 2
        return min(rows_of_a_block(self.number, d_model), max(LEAST_ROWS, wanted))

    def _ways_for(self, targets: Float[Tensor, "batch d_model"]) -> Ways:
        """Return the kernels, if pursuits of the first rows show that they have the bits of torch."""
        if self._ways is None and len(targets) > PROOF:
            kernels = ways_on(targets.device)
            case = (kernels, targets.device, targets.shape[1], self.k)
            if case not in _PROVEN:
                some = targets[: 2 * PROOF]
                found, expected = (partial(_pursued, some, self.k, ways) for ways in (kernels, IN_TORCH))
                _PROVEN[case] = holds("growth", found, expected())
            self._ways = kernels if _PROVEN[case] else IN_TORCH
        return self._ways or IN_TORCH

    def _move_to(self, device: torch.device) -> None:
        if self._atoms.table.device != device:
            self._ways = None
            self._atoms = GrowingAtoms(self._atoms.table.to(device), self._atoms.number)

    def _fits(self, number: int, device: torch.device) -> bool:
        """Return True if there is room for a Gram matrix of so many atoms, beside the one that it is copied from."""
        if number <= len(self._atoms.gram):
            return True
        needed = 2 * self._atoms.room_for(number) ** 2
        return needed <= min(free_device_memory(device) - RESERVE, self._memory or needed)

    def _leave(self) -> None:
        """Go on, on the CPU."""
        log.info("growth: on the CPU from %s atoms on, whose Gram matrix does not fit on the GPU", f"{self.number:,}")
        made = CpuGrowth(*self._settings)
        made.restore(self.atoms, self.novelty)
        made.threshold = self._threshold
        self._on_cpu = made
        self._atoms = GrowingAtoms(torch.empty(0, self._settings[0], dtype=torch.float32), 0)


def _pursued(targets: Float[Tensor, "some d_model"], k: int, ways: Ways) -> tuple[Tensor, ...]:
    """Take the pursuits of some rows in the `PROOF` rows before them, as growth does."""
    z, energy = (rows := Rows.of(targets[:PROOF], 1, 0.0)).z, rows.energy
    unit = torch.where(energy > 0, energy, 1.0).rsqrt()[:, None] * z
    atoms = GrowingAtoms(unit.float(), 0)
    atoms.reserve(len(targets))
    atoms.put(unit.float(), correlations(unit, unit))
    atoms.number = PROOF
    return Block(targets[PROOF:], atoms, min(k, PROOF), 0.0, False, ways).pursued()
