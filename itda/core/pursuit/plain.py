"""The pursuits, written to be read: the oracle that faster ones are held to.

What is computed is matching pursuit in float64 (residual, correlations, coefficients), so that rounding is no part of
the result. A float32 product with all atoms only proposes: every atom whose correlation comes within the product's
worst rounding error of the best is correlated again in float64, and the largest wins, the lowest index among equals.
So the picks are those of the slow float64 loop, and all bits are the same for any number of rows (see `fixed_order`).
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.intake import Rows, check_finite, rows_of
from itda.core.pursuit.fixed_order import fixed_dot, root, scaled, weighted_atoms
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.rules import Pursuit, PursuitRules, rules_of
from itda.core.pursuit.rules.base import Score, magnitude
from itda.core.pursuit.subtraction import LeastSquares

RESOLUTION = 2.0**-20
"""A pursuit stops when the residual, or the next coefficient, is this small beside the activation: atoms are stored in
float32, and what is below that is their rounding."""

PRODUCT_SIZE = 2**23
"""Most elements, about, in the products of a group of rows: it bounds memory, and changes no result."""


def rows_at_once(width: int, device: torch.device) -> int:
    """Return the rows per group: with `width` columns about 2^23 numbers, on a GPU 2^26. It changes no result."""
    return max(1, (2**26 if device.type == "cuda" else PRODUCT_SIZE) // max(1, width))


def pursue(
    targets: Rows,
    atoms: Float[Tensor, "atoms d_model"],
    k: int,
    pursuit: Pursuit = "mp",
    *,
    enough: float = 0.0,
) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
    """Decompose each target into at most `k` atoms; also the share of its energy left over, ||r||^2 / ||z||^2.

    Residual r = z. Repeat k times: pick the atom with the largest |<r, d>|, then

    - `mp` (Mallat & Zhang 1993; the paper's Algorithm 2): a = <r, d>; r <- r - a d. An atom may be picked again.
    - `mp_refit`: as `mp`; at the end least squares on the picked atoms.
    - `omp` (Pati et al. 1993): least squares on the picked atoms at every step, r <- z - its fit.
    - `nn_mp`: as `mp`, but it picks the atom with the largest <r, d>, as long as that is positive.

    The table of pursuits is `itda.core.pursuit.rules`. Raises `SettingError` for a name that is not in it.

    Atoms are unit vectors. Raises `ActivationError` for targets that `itda.core.intake` refuses.
    A zero target has an empty code and nothing left over. A row stops early once no more than the share `enough` is
    left: no step adds to it, so this is for callers who only ask whether that share is reached.

    >>> import torch
    >>> code, left = pursue(torch.tensor([[3.0, 4.0, 0.0]]), torch.eye(3), k=1)
    >>> code.indices.tolist(), code.coefficients.tolist(), left.tolist()
    ([[1]], [[4.0]], [0.36])
    """
    rules = rules_of(pursuit)
    targets = rows_of(targets, "targets")
    check_finite(targets, "target")
    if len(atoms) == 0 or len(targets) == 0:
        empty = torch.zeros(len(targets), k, dtype=torch.long, device=targets.device)
        count = torch.zeros(len(targets), dtype=torch.long, device=targets.device)
        left = (targets != 0).any(dim=1).double()
        return SparseCode(empty, empty.to(_code_dtype(targets)), count), left
    rows = max(1, PRODUCT_SIZE // max(len(atoms), k * atoms.shape[1]))
    parts = [_pursue_rows(part, atoms, k, rules, enough) for part in targets.split(rows)]
    code = SparseCode(
        torch.cat([code.indices for code, _ in parts]),
        torch.cat([code.coefficients for code, _ in parts]),
        torch.cat([code.count for code, _ in parts]),
    )
    return code, torch.cat([left for _, left in parts])


def _pursue_rows(
    targets: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    k: int,
    rules: PursuitRules,
    enough: float,
) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
    # A power of two brings every row near 1 without rounding: no square under- or overflows.
    exponent = torch.frexp(targets.abs().amax(dim=1)).exponent
    z = scaled(targets.double(), -exponent[:, None])
    energy = fixed_dot(z, z)

    indices = torch.zeros(len(z), k, dtype=torch.long, device=z.device)
    count = torch.zeros(len(z), dtype=torch.long, device=z.device)
    steps, left = rules.subtract(z, atoms, k), energy.clone()
    least = energy * max(enough, RESOLUTION**2)
    for step in range(k):
        active = (left > least).nonzero().squeeze(1)
        if len(active) == 0:
            break
        index, correlation = best_atom(steps.residual[active], root(left[active]), atoms, rules.score)
        taken = rules.score(correlation) > RESOLUTION * root(energy[active])
        taken[taken.clone()] = steps.take(active[taken], step, index[taken], correlation[taken])
        least[active[~taken]] = float("inf")  # these stop here
        active = active[taken]
        indices[active, step] = index[taken]
        count[active] += 1
        r = steps.residual[active]
        left[active] = fixed_dot(r, r)

    code = SparseCode.from_picks(indices, steps.coefficients, count)
    if rules.refit:
        code = refit(z, atoms, code)
        residual = z - weighted_atoms(code.coefficients, atoms, code.indices)
        left = fixed_dot(residual, residual)
    left_over = torch.where(energy > 0, left / energy, 0.0)
    coefficients = scaled(code.coefficients, exponent[:, None]).to(_code_dtype(targets))
    return SparseCode(code.indices, coefficients, code.count), left_over


def best_atom(
    residual: Float64[Tensor, "batch d_model"],
    norm: Float64[Tensor, " batch"],
    atoms: Float[Tensor, "atoms d_model"],
    score: Score = magnitude,
) -> tuple[Int64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Return for each row the atom of the largest score of <r, d> in float64, the first among equals, and <r, d>."""
    unit = (residual / norm[:, None]).float()
    scores = score(correlations(unit, atoms))
    # A score is off by no more than its correlation. The extra 0.1 covers the rounding of `cut` itself.
    cut = scores.amax(dim=1, keepdim=True) - 2.1 * product_error(residual.shape[1])
    row, column = (scores >= cut).nonzero(as_tuple=True)  # sorted by row, then by column
    size = max(1, PRODUCT_SIZE // residual.shape[1])
    pairs = zip(row.split(size), column.split(size), strict=True)
    correlation = torch.cat([fixed_dot(residual[r], atoms[c].double()) for r, c in pairs])
    if len(row) > len(residual):
        scores = score(correlation)
        best = scores.new_full((len(residual),), -torch.inf).scatter_reduce(0, row, scores, "amax")
        winner = (scores == best[row]).nonzero().squeeze(1)
        # Winners are sorted by row, then column: the first of each row has the lowest index.
        first = torch.ones_like(winner, dtype=torch.bool)
        first[1:] = row[winner[1:]] != row[winner[:-1]]
        winner = winner[first]
        column, correlation = column[winner], correlation[winner]
    return column, correlation


def refit(z: Float64[Tensor, "batch d_model"], atoms: Float[Tensor, "atoms d_model"], code: SparseCode) -> SparseCode:
    """Fit a code's coefficients by least squares on its atoms: ||z - a D||^2 is the smallest that they allow.

    An atom in the span of those before it is dropped.
    """
    fit = LeastSquares(z, atoms, code.k)
    count = torch.zeros_like(code.count)
    for step in range(code.k):
        # Rows that dropped an atom are one behind, so the place to write to differs from row to row.
        rows = (code.count > step).nonzero().squeeze(1)
        count[rows] += fit.add(rows, count[rows], code.indices[rows, step])
    coefficients = torch.zeros_like(code.coefficients)
    for length in count.unique().tolist():
        rows = (count == length).nonzero().squeeze(1)
        coefficients[rows, :length] = fit.solve(rows, length)
    return SparseCode(fit.indices, coefficients, count)


def _code_dtype(targets: Tensor) -> torch.dtype:
    return torch.promote_types(targets.dtype, torch.float32)
