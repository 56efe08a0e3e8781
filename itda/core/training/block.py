"""One block of growth on a device: which of its rows are appended, found by a causal fixed point."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int32
from torch import Tensor

from itda.core.pursuit.advance import NEVER, Atoms, Correlations, Rows, columns_of, entry_error, in_16_bits
from itda.core.pursuit.fixed_order import root
from itda.core.pursuit.gram_torch import rows_at_once
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.refit import refitted
from itda.core.pursuit.start import merged
from itda.core.pursuit.stepwise import Ways, run
from itda.core.training.replay import first_change


class GrowingAtoms:
    """Atoms on a device with their Gram matrix, and room for more.

    >>> atoms = GrowingAtoms(torch.eye(2), number=1)
    >>> atoms.reserve(3)
    >>> atoms.put(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> atoms.keep(np.array([1]))
    >>> atoms.number, atoms.gram[:2, :2].tolist()
    (2, [[32700, 0], [0, 32700]])
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
        return columns_of(max(number, len(self.gram) + len(self.gram) // 4))

    def _multiply(self) -> None:
        """Compute the whole Gram matrix, of atoms that have grown elsewhere."""
        atoms = self.table[: self.number]
        size = rows_at_once(self.number, atoms.device)
        for start in range(0, self.number, size):
            self.gram[start : start + size, : self.number][: len(atoms) - start] = in_16_bits(
                correlations(atoms[start : start + size], atoms)
            )

    def put(self, unit: Float32[Tensor, "new d_model"], products: Float32[Tensor, "new atoms"]) -> None:
        """Write atoms after the first `number`, with their rows and columns of the Gram matrix; `number` stays."""
        start, stop = self.number, self.number + len(unit)
        self.table[start:stop] = unit
        self.gram[start:stop, :stop] = in_16_bits(products)
        self.gram[:start, start:stop] = self.gram[start:stop, :start].T

    def keep(self, rows: np.ndarray) -> None:
        """Of the atoms that `put` wrote, take some into the dictionary, numbers in order, and forget the others."""
        start, stop = self.number, self.number + len(rows)
        if len(rows) > 0:
            there = torch.from_numpy(rows).to(self.table.device)
            entries = self.gram[start + there, : start + int(rows[-1]) + 1]
            self.table[start:stop] = self.table[start + there]
            self.gram[start:stop, :start] = entries[:, :start]
            self.gram[start:stop, start:stop] = entries[:, start + there]
            self.gram[:start, start:stop] = entries[:, :start].T
        self.number = stop

    def view(self, number: int, born: Tensor) -> Atoms:
        """Return the first `number` atoms as pursuits see them; `born` says which rows see each."""
        return Atoms(self.table, self.gram, None, number, entry_error(self.table.shape[1]), born)


class Block:
    """Some targets that are offered together to a dictionary of `atoms`.

    Every row stands after the dictionary's atoms, in reading order, as an atom that it may become; `born` hides those
    that are not chosen. So nothing moves while `settle` finds out which are. What it decides by is one number for each
    row, which comes to the host: there the rows are counted and compared in microseconds, where each of a dozen
    operations on a GPU would cost ten to start.
    """

    def __init__(
        self,
        targets: Float[Tensor, "rows d_model"],
        atoms: GrowingAtoms,
        k: int,
        threshold: float,
        refit: bool,
        ways: Ways | None = None,
        *,
        all_chosen: bool = False,
    ) -> None:
        """Take all rows through their first pursuit: in the dictionary alone, or beside all rows before each."""
        self.atoms, self.threshold, self.refit, self._ways = atoms, threshold, refit, ways
        before, size, device = atoms.number, len(targets), targets.device
        self.before, self._stop = before, before + size
        self.rows = Rows.of(targets, k, threshold)
        norm = root(self.rows.energy)
        safe = torch.where(norm > 0, norm, 1.0)
        unit, inverse = (self.rows.z / safe[:, None]).float(), safe.reciprocal().float()
        narrow = self.rows.z.float()
        c = torch.empty(size, columns_of(self._stop), device=device)
        correlations(narrow, atoms.table[:before], out=c[:, :before])
        torch.mul(correlations(narrow, narrow), inverse, out=c[:, before : self._stop])
        applied = torch.zeros(size, dtype=torch.int32, device=device)
        self.source = Correlations(c, applied, product_error(targets.shape[1]) * norm)
        atoms.put(unit, c[:, : self._stop] * inverse[:, None])
        self._energy = self.rows.energy.cpu().numpy()
        self.share: np.ndarray = (self._energy > 0).astype(float)
        """What is left of each row's energy: a number on the host, float64 [rows]."""
        self.chosen: np.ndarray = np.full(size, all_chosen)
        """The rows that are appended if those chosen before are, as far as is known."""
        self._born: np.ndarray = np.full(self._stop, -1, dtype=np.int32)
        self._born[before:] = np.arange(size) if all_chosen else NEVER
        self.rounds, self.pursuits = 0, 0
        """How often some pursuits were taken, and how many in all."""
        self._seen = self._view()
        self._run(np.arange(size if before > 0 or all_chosen else 0))

    def settle(self, most: int) -> np.ndarray:
        """Return the rows that are appended, no more than `most`; they are the last atoms of the dictionary then."""
        while True:
            above = self.share > self.threshold
            above &= np.cumsum(above) <= most
            if np.array_equal(above, self.chosen):
                break
            self._run(self._choose(above))
        rows = np.flatnonzero(self.chosen)
        self.atoms.keep(rows)
        return rows

    def pursued(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return picks, coefficients, steps and energies left of the rows' pursuits so far."""
        rows = self.rows
        taken = torch.arange(rows.picks.shape[1], device=rows.step.device) < rows.step[:, None]
        return rows.picks.where(taken, 0), rows.coefficients.where(taken, 0.0), rows.step, rows.left

    def _there(self, numbers: np.ndarray) -> Tensor:
        """Copy numbers from the host to where the rows are."""
        return torch.from_numpy(numbers).to(self.rows.z.device)

    def _choose(self, above: np.ndarray) -> np.ndarray:
        """Choose other rows; return those whose pursuits have to be taken again, set back to the step from which on."""
        new, gone = np.flatnonzero(above & ~self.chosen), np.flatnonzero(self.chosen & ~above)
        self.chosen = above
        self._born[self.before + new], self._born[self.before + gone] = new, NEVER
        self._seen, rows = self._view(), self.rows
        at = first_change(rows, self.source, self._seen, new=self._there(new.astype(np.int32)), first=self.before)
        torch.minimum(rows.step, at, out=rows.step)
        changed = at.cpu().numpy()
        return np.flatnonzero(changed < NEVER)

    def _view(self) -> Atoms:
        """Return the dictionary and all rows, of which each row sees the chosen ones before it."""
        return self.atoms.view(self._stop, self._there(self._born))

    def _run(self, again: np.ndarray) -> None:
        """Take some rows to the end of their pursuit, and measure what is left of them."""
        if len(again) == 0:
            return
        self.rounds, self.pursuits = self.rounds + 1, self.pursuits + len(again)
        rows, atoms, which = self.rows, self._seen, self._there(again.astype(np.int32))
        run(rows, which, self.source, which, atoms, self._ways)
        left = rows.left[which]
        if self.refit:
            doubtful = ~self._surely_below(which)
            left[doubtful] = refitted_energy(rows, which[doubtful], atoms)
        energy, found = self._energy[again], left.cpu().numpy()
        self.share[again] = np.divide(found, energy, out=np.zeros_like(found), where=energy > 0)

    def _surely_below(self, which: Int32[Tensor, " some"]) -> Bool[Tensor, " some"]:
        """Return which rows have an error below the threshold whatever a refit finds, so that none is needed."""
        rows = self.rows
        # Least squares leave no more than the pursuit did, but for atoms dropped as dependent: at most 1e-5 of each is
        # outside of the span of the others. And for rounding.
        taken = torch.arange(rows.picks.shape[1], device=which.device) < rows.step[which, None]
        lost = 1.1e-5 * rows.coefficients[which].abs().masked_fill(~taken, 0.0).sum(dim=1)
        most = (rows.left[which].sqrt() + lost).square() + 1e-9 * rows.energy[which]
        return most < self.threshold * rows.energy[which]


def refitted_energy(rows: Rows, which: Int32[Tensor, " some"], atoms: Atoms) -> Float64[Tensor, " some"]:
    """Return the energy that least squares on the picked atoms leave of some rows."""
    found = []
    for part in which.split(rows_at_once(rows.picks.shape[1] * atoms.table.shape[1], which.device)):
        code = merged(rows.picks[part], rows.coefficients[part], rows.step[part])
        found.append(refitted(rows.z[part], atoms.table, code)[1])
    return torch.cat([rows.energy.new_empty(0), *found])
