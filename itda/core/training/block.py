"""One block of growth on a device: which of its rows are appended, found by a causal fixed point."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int32, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.advance import NEVER, Atoms, Correlations, Rows, entry_error, in_16_bits
from itda.core.pursuit.fixed_order import root
from itda.core.pursuit.gram_torch import rows_at_once
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.refit import refitted
from itda.core.pursuit.stepwise import Ways, run
from itda.core.training.replay import first_change


def _even(columns: int) -> int:
    """Return no fewer columns, but a multiple of 64: rows that begin alike are read by one kernel, compiled once."""
    return -(-columns // 64) * 64


class GrowingAtoms:
    """Atoms on a device with their Gram matrix, and room for more.

    >>> atoms = GrowingAtoms(torch.eye(2), number=1)
    >>> atoms.reserve(2)
    >>> atoms.put(1, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    >>> atoms.gram[:2, :2].tolist()
    [[32700, 0], [0, 32700]]
    """

    def __init__(self, table: Float32[Tensor, "room d_model"], number: int) -> None:
        self.table, self.number = table, number
        self.gram: Int16[Tensor, "room room"] = torch.empty(0, 0, dtype=torch.int16, device=table.device)

    def reserve(self, number: int) -> None:
        """Make room for so many atoms."""
        if number > len(self.table):
            room = max(number, 256, len(self.table) + len(self.table) // 2)
            self.table, before = self.table.new_empty(room, self.table.shape[1]), self.table
            self.table[: self.number] = before[: self.number]
        if number > len(self.gram):
            room = self.room_for(number)
            had, before = min(self.number, len(self.gram)), self.gram
            self.gram = before.new_empty(room, room)
            self.gram[:had, :had] = before[:had, :had]
            if had < self.number:
                self._multiply()

    def room_for(self, number: int) -> int:
        """Return the number of atoms that a Gram matrix will have room for once there is room for `number`."""
        # A quarter more than before: the matrix is copied seldom, and little is set aside.
        return _even(max(number, len(self.gram) + len(self.gram) // 4))

    def _multiply(self) -> None:
        """Compute the whole Gram matrix, of atoms that have grown elsewhere."""
        atoms = self.table[: self.number]
        size = rows_at_once(self.number, atoms.device)
        for start in range(0, self.number, size):
            self.gram[start : start + size, : self.number][: len(atoms) - start] = in_16_bits(
                correlations(atoms[start : start + size], atoms)
            )

    def put(self, start: int, unit: Float32[Tensor, "new d_model"], products: Float32[Tensor, "new atoms"]) -> None:
        """Write atoms at `start` and after, with their rows and columns of the Gram matrix; `number` stays as it is."""
        stop, entries = start + len(unit), in_16_bits(products)
        self.table[start:stop] = unit
        self.gram[start:stop, :stop] = entries
        self.gram[:start, start:stop] = entries[:, :start].T

    def view(self, number: int, born: Tensor | None = None) -> Atoms:
        """Return the first `number` atoms as pursuits see them."""
        return Atoms(self.table, self.gram, None, number, entry_error(self.table.shape[1]), born)


class Block:
    """Some targets that are offered together to a dictionary of `atoms`, which is told of candidates on the way.

    `chosen` are the rows that are appended if those chosen before are, by the rows that are looked at so far; `settle`
    makes it final. Candidates are the rows ever chosen; they stand after the dictionary's atoms, in stream order.
    """

    def __init__(
        self,
        targets: Float[Tensor, "rows d_model"],
        atoms: GrowingAtoms,
        k: int,
        threshold: float,
        refit: bool,
        ways: Ways | None = None,
    ) -> None:
        self.atoms, self.threshold, self.refit, self._ways = atoms, threshold, refit, ways
        self.before, size, device = atoms.number, len(targets), targets.device
        self.rows = Rows.of(targets, k, threshold)
        norm = root(self.rows.energy)
        safe = torch.where(norm > 0, norm, 1.0)
        self.unit: Float32[Tensor, "rows d_model"] = (self.rows.z / safe[:, None]).float()
        self._inverse = safe.reciprocal().float()
        narrow = self.rows.z.float()
        c = torch.empty(size, _even(self.before + size), device=device)
        c[:, : self.before] = correlations(narrow, atoms.table[: self.before])
        self.products: Float32[Tensor, "rows rows"] = correlations(narrow, narrow)
        applied = torch.zeros(size, dtype=torch.int32, device=device)
        self.source = Correlations(c, applied, product_error(targets.shape[1]) * norm)
        self.candidates: Int64[Tensor, " candidates"] = torch.empty(0, dtype=torch.long, device=device)
        self.chosen: Bool[Tensor, " rows"] = torch.zeros(size, dtype=torch.bool, device=device)
        self.share: Float64[Tensor, " rows"] = (self.rows.energy > 0).double()
        self._steps = torch.zeros((), dtype=torch.long, device=device)

    def settle(self, most: int) -> Int64[Tensor, " new"]:
        """Return the rows that are appended, no more than `most`, and write them after the dictionary's atoms."""
        everyone = torch.arange(len(self.unit), dtype=torch.int32, device=self.unit.device)
        self._run(everyone)
        while True:
            above = self.share > self.threshold
            above &= above.cumsum(dim=0) <= most
            if torch.equal(above, self.chosen):
                break
            at = self._choose(above)
            dirty = (at < NEVER).nonzero().squeeze(1).int()
            self.rows.step[dirty] = at[dirty]
            self._run(dirty)
        rows = self.chosen.nonzero().squeeze(1)
        if len(rows) < len(self.candidates):
            self._put(rows)
        return rows

    def pursued(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return picks, coefficients, steps and energies left of the rows' pursuits in the dictionary as it is."""
        rows = self.rows
        everyone = torch.arange(len(self.unit), dtype=torch.int32, device=self.unit.device)
        run(rows, everyone, self.source, everyone, self.atoms.view(self.before), self._ways)
        taken = torch.arange(rows.picks.shape[1], device=rows.step.device) < rows.step[:, None]
        return rows.picks.where(taken, 0), rows.coefficients.where(taken, 0.0), rows.step, rows.left

    @property
    def effort(self) -> float:
        """Steps taken for each that is there in the end; 1 if none was taken again."""
        return int(self._steps) / max(1, int(self.rows.step.sum()))

    def _choose(self, above: Bool[Tensor, " rows"]) -> Int32[Tensor, " rows"]:
        """Choose other rows; return the step from which each row's pursuit has to be taken again, NEVER for none."""
        added, removed = above & ~self.chosen, self.chosen & ~above
        self.chosen = above
        known = torch.zeros_like(above)
        known[self.candidates] = True
        if bool((added & ~known).any()):
            self._nominate((known | added).nonzero().squeeze(1))
        gone, new = (self.before + flags[self.candidates].nonzero().squeeze(1) for flags in (removed, added))
        born = self.candidates[new - self.before].int()
        return first_change(self.rows, self.source, self._view(), gone=gone, new=new, born=born)

    def _nominate(self, candidates: Int64[Tensor, " candidates"]) -> None:
        """Make room for more candidates, between those that there are."""
        moved = self.before + torch.searchsorted(candidates, self.candidates)
        picks = self.rows.picks
        taken = torch.arange(picks.shape[1], device=picks.device) < self.rows.step[:, None]
        mine = taken & (picks >= self.before)
        picks[mine] = moved[(picks[mine] - self.before).long()].int()
        self._put(candidates)

    def _put(self, candidates: Int64[Tensor, " candidates"]) -> None:
        """Write candidates after the dictionary's atoms: vectors, Gram matrix, and what all rows correlate with."""
        self.candidates = candidates
        inverse, before = self._inverse[candidates], self.before
        stop = before + len(candidates)
        self.source.c[:, before:stop] = self.products[:, candidates] * inverse
        own = self.source.c[candidates, :stop] * inverse[:, None]
        self.atoms.put(before, self.unit[candidates], own)

    def _view(self) -> Atoms:
        """Return the dictionary and the candidates, of which each row sees the chosen ones before it."""
        born = torch.full((self.before + len(self.candidates),), -1, dtype=torch.int32, device=self.unit.device)
        born[self.before :] = torch.where(self.chosen[self.candidates], self.candidates, NEVER).int()
        return self.atoms.view(len(born), born)

    def _run(self, which: Int32[Tensor, " some"]) -> None:
        """Take some rows to the end of their pursuit, and measure what is left of them."""
        atoms, rows = self._view(), self.rows
        if len(which) == 0 or atoms.number == 0:
            return
        self._steps -= rows.step[which].sum()
        run(rows, which, self.source, which, atoms, self._ways)
        self._steps += rows.step[which].sum()
        energy = rows.energy[which]
        self.share[which] = torch.where(energy > 0, rows.left[which] / energy, 0.0)
        if self.refit:
            doubtful = which[~self._surely_below(which)]
            self.share[doubtful] = refitted_share(rows, doubtful, atoms)

    def _surely_below(self, which: Int32[Tensor, " some"]) -> Bool[Tensor, " some"]:
        """Return which rows have an error below the threshold whatever a refit finds, so that none is needed."""
        rows = self.rows
        # Least squares leave no more than the pursuit did, but for atoms dropped as dependent: at most 1e-5 of each is
        # outside of the span of the others. And for rounding.
        taken = torch.arange(rows.picks.shape[1], device=which.device) < rows.step[which, None]
        lost = 1.1e-5 * rows.coefficients[which].abs().masked_fill(~taken, 0.0).sum(dim=1)
        most = (rows.left[which].sqrt() + lost).square() + 1e-9 * rows.energy[which]
        return most < self.threshold * rows.energy[which]


def refitted_share(rows: Rows, which: Int32[Tensor, " some"], atoms: Atoms) -> Float64[Tensor, " some"]:
    """Return the share of energy that least squares on the picked atoms leave of some rows."""
    shares = []
    for part in which.split(rows_at_once(rows.picks.shape[1] * atoms.table.shape[1], which.device)):
        count, z = rows.step[part].long(), rows.z[part]
        code = SparseCode.from_picks(rows.picks[part].long(), rows.coefficients[part], count)
        left, energy = refitted(z, atoms.table, code)[1], rows.energy[part]
        shares.append(torch.where(energy > 0, left / energy, 0.0))
    return torch.cat([rows.energy.new_empty(0), *shares])
