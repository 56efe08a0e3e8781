"""A Gram matrix in 16 bits on a device: whole, or the rows used last within a number of bytes."""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from itda.core.pursuit.advance import Atoms, Rows, columns_of, entry_error, in_16_bits
from itda.core.pursuit.gram_torch import rows_at_once
from itda.core.pursuit.products import correlations


class KeptGram:
    """Rows of D D^T for the atoms of one dictionary; `atoms` is what `advance` takes.

    >>> kept = KeptGram(torch.eye(3), memory=10**6, least=2)
    >>> kept.complete, kept.atoms.gram[0, :3].tolist()
    (True, [32700, 0, 0])
    """

    def __init__(self, table: Float32[Tensor, "atoms d_model"], memory: int, least: int) -> None:
        """Take at most `memory` bytes, but as many as `least` rows need in any case."""
        number, device = len(table), table.device
        self.capacity = capacity_of(number, memory, least)
        gram = torch.zeros(self.capacity, columns_of(number), dtype=torch.int16, device=device)
        slots = None if self.capacity >= number else torch.full_like(gram[0], -1, dtype=torch.int32)
        self.atoms = Atoms(table, gram, slots, number, entry_error(table.shape[1]))
        if self.complete:
            self._compute(torch.arange(number, device=device), torch.arange(number, device=device))
        self._holder = torch.full((self.capacity,), -1, dtype=torch.long, device=device)
        self._used = torch.zeros(self.capacity, dtype=torch.long, device=device)
        self._stamp = 0

    @property
    def complete(self) -> bool:
        """True if all rows fit."""
        return self.capacity >= self.atoms.number

    def fetch(self, rows: Rows, which: Tensor, waiting: Tensor, applied: Tensor) -> None:
        """Compute the rows that some of the rows just advanced wait for, in place of those used longest ago.

        Correlations of the waiting ones account for the steps up to `applied`.
        """
        slots = self.atoms.slots
        assert slots is not None
        self._stamp += 2
        held = slots[_picked(rows, which, torch.zeros_like(which))]
        self._used[held[held >= 0].long()] = self._stamp
        needed = _picked(rows, waiting, applied)
        held = slots[needed]
        self._used[held[held >= 0].long()] = self._stamp + 1  # these must stay
        wanted = needed[held < 0]
        oldest = self._used.topk(len(wanted), largest=False).indices
        before = self._holder[oldest]
        slots[before[before >= 0]] = -1
        self._compute(wanted, oldest)
        slots[wanted] = oldest.int()
        self._holder[oldest] = wanted
        self._used[oldest] = self._stamp + 1

    def _compute(self, wanted: Int64[Tensor, " some"], slots: Int64[Tensor, " some"]) -> None:
        """Compute rows of some atoms by parts, so that no float32 product of all of them is ever held."""
        table, number = self.atoms.table, self.atoms.number
        size = rows_at_once(max(table.shape), table.device)
        for some, there in zip(wanted.split(size), slots.split(size), strict=True):
            self.atoms.gram[there, :number] = in_16_bits(correlations(table[some], table))


def capacity_of(number: int, memory: int, least: int) -> int:
    """Return how many Gram rows of so many atoms fit into a number of bytes, `least` in any case.

    >>> capacity_of(1000, memory=10**6, least=10)
    488
    """
    return min(number, max(memory // (2 * columns_of(number)), least))


def _picked(rows: Rows, which: Tensor, start: Tensor) -> Int64[Tensor, " picked"]:
    """Return the distinct atoms that some rows picked, each from a step on."""
    picks = rows.picks[which]
    steps = torch.arange(picks.shape[1], device=picks.device)
    return picks[(steps >= start[:, None]) & (steps < rows.step[which][:, None])].unique().long()
