"""The pursuits by a Gram matrix G = D D^T, in plain torch on any device: the picks and the bits of `plain`.

A product with all atoms is needed once: c = D z. After a step r <- r - a d_j the correlations are c - a G[j], so that
d_model has no part in the k steps. c is float32 and wrong by at most E, which is carried along; as in `plain` it only
proposes: if |c_j - <r, d_j>| <= E for every atom, the atom with the largest |<r, d>| has |c| >= max |c| - 2 E. All such
atoms are correlated again in float64 by the operations of `plain`, and so are residual and coefficients: hence the same
picks and bits, whatever was rounded in c.

With u = 2^-24, the roundoff of float32, for unit atoms:

- a product is off by p ||x|| ||d||, p = `products.product_error`: E starts as p ||z||, and an entry of G is off by p;
- c <- c - a G[j] adds |a| p for G, 2 |a| u for rounding a and the product, and u ||r|| for the difference;
- rounding in float64 and terms in u^2 are covered by what p has to spare, and by doubling the last two.

A pursuit that wants correlations by another score than |c| has the same bounds, since a score is off by no more than c.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import plain
from itda.core.pursuit.fixed_order import fixed_dot
from itda.core.pursuit.plain import rows_at_once
from itda.core.pursuit.products import UNIT, correlations, product_error
from itda.core.pursuit.rules import Pursuit, PursuitRules, rules_of
from itda.core.pursuit.rules.base import Score, magnitude
from itda.core.pursuit.start import Codes, Picks, Start
from itda.core.pursuit.subtraction import LeastSquares, Projection

CROWD = 64
"""Most atoms near the best of a row, of up to 4,096, that are compared exactly, if a fresh product leaves fewer."""

COARSE = 4.0
"""A fresh product may help where E is more than this many times its bound."""


def pursue(
    targets: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    k: int,
    pursuit: Pursuit = "mp",
    *,
    enough: float = 0.0,
    gram: Float32[Tensor, "atoms atoms"] | None = None,
) -> Codes:
    """`plain.pursue`, to the bit, and by it for subtractions not in `STEPS`. `gram` is `gram_of(atoms)`, if it is kept.

    >>> code, left = pursue(torch.tensor([[3.0, 4.0, 0.0]]), torch.eye(3), k=1)
    >>> code.indices.tolist(), code.coefficients.tolist(), left.tolist()
    ([[1]], [[4.0]], [0.36])
    """
    rules = rules_of(pursuit)
    if rules.subtract not in STEPS or len(atoms) == 0 or len(targets) == 0:
        return plain.pursue(targets, atoms, k, pursuit, enough=enough)
    if gram is None:
        gram = gram_of(atoms)
    width = k * atoms.shape[1] if rules.subtract is LeastSquares else atoms.shape[1]  # it gathers all atoms of a row
    parts = targets.split(rows_at_once(max(len(atoms), width), targets.device))
    return joined([_pursue_rows(part, atoms, gram, k, rules, enough) for part in parts])


def gram_of(atoms: Float[Tensor, "atoms d_model"]) -> Float32[Tensor, "atoms atoms"]:
    """Return <d_i, d_j> for all pairs, in float32.

    >>> gram_of(torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return correlations(atoms, atoms)


@contextmanager
def tf32_products(device: torch.device) -> Iterator[None]:
    """Allow float32 products in TF32, whatever the program allows elsewhere."""
    with torch.autocast(device.type, enabled=False):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def crowd_of(number: int) -> int:
    """Return how many atoms near the best of a row are compared exactly, of so many in all.

    >>> crowd_of(100), crowd_of(16384)
    (64, 256)
    """
    return max(CROWD, number // 64)


def joined(parts: list[tuple[SparseCode, Tensor]]) -> Codes:
    """Join groups of rows, one after the other."""
    if len(parts) == 1:
        return parts[0]
    code = SparseCode(
        torch.cat([code.indices for code, _ in parts]),
        torch.cat([code.coefficients for code, _ in parts]),
        torch.cat([code.count for code, _ in parts]),
    )
    return code, torch.cat([left for _, left in parts])


def _pursue_rows(
    targets: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    gram: Float32[Tensor, "atoms atoms"],
    k: int,
    rules: PursuitRules,
    enough: float,
) -> Codes:
    start = Start.of(targets, enough)
    picks = STEPS[rules.subtract](start, atoms, gram, k, rules.score)
    return start.finish(picks, atoms, rules, targets.dtype)


def _matching(start: Start, atoms: Tensor, gram: Float32[Tensor, "atoms atoms"], k: int, score: Score) -> Picks:
    indices, coefficients, count = _nothing_picked(start, k)
    left_over = start.energy.clone()
    rows = torch.arange(len(start.z), device=start.z.device)  # of the tensors above, in those below
    r, left, least, faint = start.z.clone(), start.energy.clone(), start.least.clone(), start.faint
    c, bound = correlations(start.z, atoms), product_error(atoms.shape[1]) * left.sqrt()
    for step in range(k):
        active = left > least
        number = int(active.sum())
        if number == 0:
            break
        if number < 0.75 * len(rows):  # let go of rows that are done: it copies c, so not for a few
            kept = active.nonzero().squeeze(1)
            rows, r, c, bound = rows[kept], r[kept], c[kept], bound[kept]
            left, least, faint, active = left[kept], least[kept], faint[kept], active[kept]
        index, correlation = best_atom(c, bound, r, left.sqrt(), active, atoms, score)
        picked = active & (score(correlation) > faint)
        least.masked_fill_(active & ~picked, float("inf"))  # these stop here
        correlation = correlation.masked_fill(~picked, 0)  # and nothing below changes them
        indices[rows, step] = index
        coefficients[rows, step] = correlation
        count[rows] += picked
        bound += correlation.abs() * (product_error(atoms.shape[1]) + 4 * UNIT) + 2 * UNIT * left.sqrt()
        r -= correlation[:, None] * atoms[index].double()
        left = fixed_dot(r, r)
        left_over[rows] = left
        c.addcmul_(gram[index], -correlation.float()[:, None])
    return indices, coefficients, count, left_over


def _orthogonal(start: Start, atoms: Tensor, gram: Float32[Tensor, "atoms atoms"], k: int, score: Score) -> Picks:
    indices, _, count = _nothing_picked(start, k)
    z, left, least, fit = start.z, start.energy.clone(), start.least.clone(), LeastSquares(start.z, atoms, k)
    error, norm = product_error(atoms.shape[1]), start.energy.sqrt()
    first = correlations(z, atoms)
    for step in range(k):
        active = (left > least).nonzero().squeeze(1)
        if len(active) == 0:
            break
        # All coefficients change at every step, so c is made anew: c = D z - sum_s a_s G[j_s]. Its partial sums, each
        # rounded, are no larger than ||z|| + sum |a|.
        c, weights = first[active], fit.coefficients[active, :step]
        for s in range(step):
            c.addcmul_(gram[indices[active, s]], -weights[:, s, None].float())
        total = weights.abs().sum(dim=1)
        bound = (error + 2 * step * UNIT) * norm[active] + (error + (2 * step + 4) * UNIT) * total
        r, everyone = fit.residual[active], torch.ones_like(active, dtype=torch.bool)
        index, correlation = best_atom(c, bound, r, left[active].sqrt(), everyone, atoms, score)
        picked = score(correlation) > start.faint[active]
        picked[picked.clone()] = fit.take(active[picked], step, index[picked], correlation[picked])
        least[active[~picked]] = float("inf")
        active = active[picked]
        indices[active, step] = index[picked]
        count[active] += 1
        r = fit.residual[active]
        left[active] = fixed_dot(r, r)
    return indices, fit.coefficients, count, left


STEPS = {Projection: _matching, LeastSquares: _orthogonal}
"""The function that takes the steps, for each kind of subtraction that has one; `plain` does the others."""


def _nothing_picked(start: Start, k: int) -> tuple[Tensor, Tensor, Tensor]:
    indices = torch.zeros(len(start.z), k, dtype=torch.long, device=start.z.device)
    return indices, start.z.new_zeros(len(start.z), k), torch.zeros_like(indices[:, 0])


def best_atom(
    c: Float32[Tensor, "batch atoms"],
    bound: Float64[Tensor, " batch"],
    residual: Float64[Tensor, "batch d_model"],
    norm: Float64[Tensor, " batch"],
    active: Bool[Tensor, " batch"],
    atoms: Float[Tensor, "atoms d_model"],
    score: Score = magnitude,
) -> tuple[Int64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """`plain.best_atom` from correlations c that are off by at most `bound`; rows that are not active get anything.

    Where these are too coarse to choose by, c and bound are replaced, in place, by those of a fresh product.
    """
    row, column = _candidates(c, bound, active, score)
    crowd = crowd_of(len(atoms))
    # The number of candidates is known to the host by now: only if some row may be crowded is the device asked again.
    if len(row) > crowd:
        crowded = row.new_zeros(len(c)).index_add_(0, row, torch.ones_like(row)) > crowd
        coarse = (crowded & (bound > COARSE * product_error(atoms.shape[1]) * norm)).nonzero().squeeze(1)
        if len(coarse) > 0:
            unit = residual[coarse] / norm[coarse, None]
            c[coarse] = correlations(unit, atoms) * norm[coarse, None].float()
            bound[coarse] = product_error(atoms.shape[1]) * norm[coarse]
            row, column = _candidates(c, bound, active, score)

    size = rows_at_once(atoms.shape[1], c.device)
    pairs = zip(row.split(size), column.split(size), strict=True)
    correlation = torch.cat([fixed_dot(residual[i], atoms[j].double()) for i, j in pairs])
    scores = score(correlation)
    best = scores.new_full((len(c),), -torch.inf).scatter_reduce(0, row, scores, "amax")
    # Candidates are sorted by row, then by column: the first of the best has the lowest index.
    last = len(row) - 1
    place = torch.arange(len(row), device=row.device).masked_fill(scores != best[row], last)
    winner = row.new_full((len(c),), last).scatter_reduce(0, row, place, "amin")
    return column[winner], correlation[winner]


def _candidates(
    c: Float32[Tensor, "batch atoms"], bound: Float64[Tensor, " batch"], active: Bool[Tensor, " batch"], score: Score
) -> tuple[Tensor, Tensor]:
    if score is magnitude:  # without a matrix of |c|
        low, high = torch.aminmax(c, dim=1)
        cut = _cut(torch.maximum(-low, high), bound, active)
        row, column = ((c >= cut) | (c <= -cut)).nonzero(as_tuple=True)
    else:
        scores = score(c)
        row, column = (scores >= _cut(scores.amax(dim=1), bound, active)).nonzero(as_tuple=True)
    return row, column


def _cut(
    top: Float32[Tensor, " batch"], bound: Float64[Tensor, " batch"], active: Bool[Tensor, " batch"]
) -> Float32[Tensor, "batch 1"]:
    # 2 u off the top, so that rounding the cut to float32 cannot raise it.
    cut = top.double() - 2 * UNIT * top.double().abs() - 2 * bound
    return cut.float().masked_fill(~active, float("inf"))[:, None]
