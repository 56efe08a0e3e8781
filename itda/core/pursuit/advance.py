"""Pursuits that stop on the way and go on: their state, and the one function that takes them further, in torch.

A row is a target on its way through a matching pursuit. It stops when it is done; where its correlations are too coarse
to choose by, and have to be computed anew from its residual; or where a row of the Gram matrix is missing. Growth also
puts rows back to an earlier step, and lets each row see only atoms that came before it. `advance` is the plain form of
a step for any device; `gram_triton` has the same in one kernel, and both give the bits of `plain`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int16, Int32
from torch import Tensor

from itda.core.pursuit import gram_torch
from itda.core.pursuit.fixed_order import fixed_dot
from itda.core.pursuit.gram_torch import COARSE
from itda.core.pursuit.products import UNIT, product_error
from itda.core.pursuit.rules import PursuitRules
from itda.core.pursuit.start import Codes, Start

DONE, CROWDED, NEEDS_ROW = 0, 1, 2
"""Why a row stopped: it is done; too many atoms are near its best; the Gram row of an atom picked is not there."""

SCALE = 32700.0
"""A Gram matrix in 16 bits holds round(SCALE * <d_i, d_j>): |<d_i, d_j>| <= 1.00002, so nothing overflows."""

COLUMNS = 64
"""Matrices with a column per atom have a multiple of so many, so that each row begins at a whole line of memory."""

NEVER = 2**31 - 1
"""In `Atoms.born`: no row sees this atom."""


@dataclass(eq=False)
class Rows:
    """Some targets on their way through a pursuit, one per row of each tensor; `advance` changes those marked *."""

    z: Float64[Tensor, "rows d_model"]
    """Targets, scaled by a power of two to a largest entry in [1/2, 1)."""
    exponent: Tensor
    energy: Float64[Tensor, " rows"]
    least: Float64[Tensor, " rows"]
    """A row is done once no more than this is left of its energy."""
    faint: Float64[Tensor, " rows"]
    """A row is done once its next coefficient is no larger than this."""
    picks: Int32[Tensor, "rows k"]
    """* The atom of each step so far."""
    coefficients: Float64[Tensor, "rows k"]
    """* <r, d> of each step so far."""
    step: Int32[Tensor, " rows"]
    """* Number of steps so far. What lies past them in `picks` and `coefficients` may be anything."""
    left: Float64[Tensor, " rows"]
    """* ||r||^2."""
    status: Int32[Tensor, " rows"]
    """* Why the row stopped."""

    @staticmethod
    def of(targets: Float[Tensor, "rows d_model"], k: int, enough: float) -> Rows:
        """Return some targets before their first step; `enough` is the share of energy at which a row is done."""
        start = Start.of(targets, enough)
        rows, device = len(targets), targets.device
        return Rows(
            start.z,
            start.exponent,
            start.energy,
            start.least,
            start.faint,
            picks=torch.zeros(rows, k, dtype=torch.int32, device=device),
            coefficients=start.z.new_zeros(rows, k),
            step=torch.zeros(rows, dtype=torch.int32, device=device),
            left=start.energy.clone(),
            status=torch.zeros(rows, dtype=torch.int32, device=device),
        )

    def residuals(self, which: Tensor, table: Float32[Tensor, "room d_model"]) -> Float64[Tensor, "some d_model"]:
        """Return r of some rows: z less its steps so far, one after the other."""
        r, steps = self.z[which], self.step[which]
        for t in range(int(steps.max()) if len(which) else 0):
            taken = torch.where(t < steps, self.coefficients[which, t], 0.0)
            r -= taken[:, None] * table[torch.where(t < steps, self.picks[which, t], 0).long()].double()
        return r

    def codes(self, table: Float32[Tensor, "room d_model"], rules: PursuitRules, dtype: torch.dtype) -> Codes:
        """Return the codes of rows that are done, and shares left over, as `plain.pursue`; `dtype` is the targets'."""
        start = Start(self.z, self.exponent, self.energy, self.least, self.faint)
        return start.finish((self.picks, self.coefficients, self.step, self.left), table, rules, dtype)


@dataclass(eq=False)
class Atoms:
    """A dictionary on a device, with its Gram matrix in 16 bits; either may have room for more than `number` atoms."""

    table: Float32[Tensor, "room d_model"]
    gram: Int16[Tensor, "held width"]
    """Where every row sees all atoms, columns past them hold 0."""
    slots: Int32[Tensor, " known"] | None
    """Row of `gram` that an atom has, -1 for none; None if atom j has row j."""
    number: int
    entry_error: float
    """The largest error of gram / SCALE."""
    born: Int32[Tensor, " atoms"] | None = None
    """In growth, the row of the block that atom j comes from: -1 if it was there before, NEVER if no row sees it."""


@dataclass(eq=False)
class Correlations:
    """Correlations of all atoms with the residuals of some rows, in float32, and how wrong they may be."""

    c: Float32[Tensor, "some width"]
    applied: Int32[Tensor, " some"]
    """The steps that c accounts for; those past them are still to be subtracted."""
    bound: Float64[Tensor, " some"]
    """The largest error of an entry of c."""
    keep: bool = True
    """Leave all three as they are; else they may be brought up to date, in place."""


def columns_of(number: int) -> int:
    """Return the columns of a matrix in memory that has one for each of so many atoms: as many, or a few more.

    >>> columns_of(100)
    128
    """
    return -(-number // COLUMNS) * COLUMNS


def entry_error(d_model: int) -> float:
    """Return the largest error of an entry of a Gram matrix in 16 bits, as a share of 1."""
    # A product, a row that comes from an activation's correlations, and the rounding to 16 bits.
    return product_error(d_model) + 4 * UNIT + 0.51 / SCALE


def in_16_bits(products: Float32[Tensor, "some atoms"]) -> Int16[Tensor, "some atoms"]:
    """Return <d_i, d_j> as a Gram matrix in 16 bits holds it.

    >>> in_16_bits(torch.tensor([[1.0, -0.5]])).tolist()
    [[32700, -16350]]
    """
    return (products * SCALE).round_().to(torch.int16)


def units(
    rows: Rows, which: Int32[Tensor, " n"], table: Float32[Tensor, "room d_model"]
) -> Float32[Tensor, "n d_model"]:
    """Return the residuals of some rows, scaled to norm 1."""
    return (rows.residuals(which, table) / rows.left[which].sqrt()[:, None]).float()


def advance(
    rows: Rows, which: Int32[Tensor, " n"], source: Correlations, place: Int32[Tensor, " n"], atoms: Atoms, crowd: int
) -> None:
    """Take the rows `which` as far as they go, in place; the correlations of row which[i] are those at place[i].

    The steps that a row has already are taken for granted: its residual is made anew from z by subtracting them in
    order. Each further step picks the atom of the largest |<r, d>| in float64, the lowest index among equals, of those
    that the row may see: all, or with `born` those with born[j] < the row's own number. `status` says why it stopped;
    CROWDED only if there are more than `crowd` candidates, and the error is more than `COARSE` times that of a fresh
    product.
    """
    group = max(1, gram_torch.rows_at_once(atoms.number, which.device))
    for some, there in zip(which.split(group), place.split(group), strict=True):
        _Advance(rows, some.long(), source, there.long(), atoms).to_the_end(crowd)


class _Advance:
    """The rows that are not done yet, and what is known of each: the working memory of `advance`."""

    def __init__(self, rows: Rows, which: Tensor, source: Correlations, place: Tensor, atoms: Atoms) -> None:
        self.rows, self.which, self.atoms = rows, which, atoms
        self.r = rows.residuals(which, atoms.table)
        self.c = source.c[place, : atoms.number]
        self.bound, self.applied = source.bound[place], source.applied[place]
        self.seen = None if atoms.born is None else atoms.born[: atoms.number] < which[:, None]
        rows.left[which] = fixed_dot(self.r, self.r)
        rows.status[which] = DONE
        self._keep((rows.left[which] > rows.least[which]) & (rows.step[which] < rows.picks.shape[1]))

    def to_the_end(self, crowd: int) -> None:
        rows, error = self.rows, product_error(self.rows.z.shape[1])
        while len(self.which) > 0:
            self._catch_up()
            if len(self.which) == 0:
                break
            row, column = self._candidates()
            number = torch.zeros_like(self.which).index_add_(0, row, torch.ones_like(row))
            coarse = self.bound > COARSE * error * rows.left[self.which].sqrt()
            crowded = (number > crowd) & coarse
            if bool(crowded.any()):
                rows.status[self.which[crowded]] = CROWDED
                self._keep(~crowded)
                continue
            best, correlation = self._decided(row, column)
            picked = correlation.abs() > rows.faint[self.which]
            self._keep(picked)
            self._take(best[picked], correlation[picked])

    def _take(self, best: Tensor, correlation: Tensor) -> None:
        """Subtract an atom from each row, and let go of the rows that are done."""
        rows, which = self.rows, self.which
        at = rows.step[which].long()
        rows.picks[which, at] = best.int()
        rows.coefficients[which, at] = correlation
        rows.step[which] += 1
        self.r -= correlation[:, None] * self.atoms.table[best].double()
        left = fixed_dot(self.r, self.r)
        rows.left[which] = left
        self._keep((left > rows.least[which]) & (at + 1 < rows.picks.shape[1]))

    def _catch_up(self) -> None:
        """Subtract from c the steps that it does not account for, and let go of rows that wait for a Gram row."""
        rows, atoms = self.rows, self.atoms
        if atoms.slots is not None:
            steps = torch.arange(rows.picks.shape[1], device=self.which.device)
            behind = (steps >= self.applied[:, None]) & (steps < rows.step[self.which][:, None])
            picks = torch.where(behind, rows.picks[self.which], 0).long()
            waits = ((atoms.slots[picks] < 0) & behind).any(dim=1)
            rows.status[self.which[waits]] = NEEDS_ROW
            self._keep(~waits)
        which = self.which
        norm = rows.energy[which].sqrt()
        while bool((behind := self.applied < rows.step[which]).any()):
            at = self.applied.long().clamp(max=rows.picks.shape[1] - 1)
            weight = torch.where(behind, rows.coefficients[which, at], 0.0)
            pick = torch.where(behind, rows.picks[which, at], 0).long()
            row = pick if atoms.slots is None else atoms.slots[pick].long()
            self.c.addcmul_(atoms.gram[row, : atoms.number].float(), (weight / -SCALE).float()[:, None])
            growth = weight.abs() * (atoms.entry_error + 3 * UNIT) + 2 * UNIT * norm
            self.bound += torch.where(behind, growth, 0.0)
            self.applied = self.applied + behind.int()

    def _candidates(self) -> tuple[Tensor, Tensor]:
        """Return row and column of each atom that may be the best of its row, sorted by row, then by column."""
        size = self.c.abs()
        if self.seen is not None:
            size.masked_fill_(~self.seen, -1.0)
        top = size.amax(dim=1).double()
        # 2 u off the top, so that rounding the cut to float32 cannot raise it.
        cut = (top * (1 - 2 * UNIT) - 2 * self.bound).float()
        near = size >= cut[:, None]
        if self.seen is not None:
            near &= self.seen
        row, column = near.nonzero(as_tuple=True)
        return row, column

    def _decided(self, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each row the candidate of the largest |<r, d>|, the lowest of equals, and <r, d>; 0 for none."""
        rows = len(self.which)
        none = torch.zeros(rows, dtype=torch.long, device=row.device), self.r.new_zeros(rows)
        if len(row) == 0:
            return none
        size = gram_torch.rows_at_once(self.r.shape[1], row.device)
        pairs = zip(row.split(size), column.split(size), strict=True)
        value = torch.cat([fixed_dot(self.r[i], self.atoms.table[j].double()) for i, j in pairs])
        best = value.new_full((rows,), -torch.inf).scatter_reduce(0, row, value.abs(), "amax")
        place = torch.arange(len(row), device=row.device).masked_fill(value.abs() != best[row], len(row))
        winner = row.new_full((rows,), len(row)).scatter_reduce(0, row, place, "amin")
        found = winner < len(row)
        winner = winner.clamp(max=len(row) - 1)
        return torch.where(found, column[winner], none[0]), torch.where(found, value[winner], none[1])

    def _keep(self, kept: Tensor) -> None:
        if not bool(kept.all()):
            self.which, self.r, self.c = self.which[kept], self.r[kept], self.c[kept]
            self.bound, self.applied = self.bound[kept], self.applied[kept]
            self.seen = self.seen[kept] if self.seen is not None else None
