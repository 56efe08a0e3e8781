"""Matching of two dictionaries: for each atom of one the nearest direction of the other, either sign."""

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import fixed_dot
from itda.core.pursuit.products import correlations, product_error

CHUNK = 2**24
"""Most cosines in memory at once."""
RECOMPUTED = 2**15
"""Most cosines that are computed again in float64 at once."""


def largest_cosines(
    atoms: Float[Tensor, "atoms d_model"], others: Float32[Tensor, "others d_model"]
) -> tuple[Float64[Tensor, " atoms"], Int64[Tensor, " atoms"]]:
    """Find for each unit vector the largest |cosine| to the unit vectors of `others`, and whose it is.

    Of equal ones it is the first; where there are no others, the cosine is 0 and its number -1. A float32 product
    proposes; all that its rounding error could matter to are computed again in float64 in a fixed order, so that
    neither the number of rows nor the machine decides.

    >>> cosines, partner = largest_cosines(torch.eye(3)[:2], -torch.eye(3)[[1, 2]])
    >>> cosines.tolist(), partner.tolist()
    ([0.0, 1.0], [0, 0])
    """
    if len(others) == 0:
        return torch.zeros(len(atoms), dtype=torch.float64), torch.full((len(atoms),), -1)
    slack = 4 * product_error(atoms.shape[1]) + 1e-6  # norms are one within float32
    found = [_largest(rows, others, slack) for rows in atoms.split(max(1, CHUNK // len(others)))]
    empty = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    return torch.cat([empty[0], *(each[0] for each in found)]), torch.cat([empty[1], *(each[1] for each in found)])


def _largest(rows: Tensor, others: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    sizes = correlations(rows, others).abs()
    row, other = (sizes >= sizes.amax(dim=1, keepdim=True) - slack).nonzero(as_tuple=True)
    exact = cosine_sizes(rows, others, row, other)
    best = torch.zeros(len(rows), dtype=torch.float64, device=rows.device).scatter_reduce(0, row, exact, "amax")
    is_best = exact == best[row]
    # Of the equal ones of a row, the first.
    partner = torch.full((len(rows),), len(others), device=rows.device)
    partner = partner.scatter_reduce(0, row[is_best], other[is_best], "amin")
    return best.cpu(), partner.cpu()


def cosine_sizes(
    a: Float[Tensor, "rows d_model"],
    b: Float[Tensor, "others d_model"],
    rows: Int64[Tensor, " pairs"],
    others: Int64[Tensor, " pairs"],
) -> Float64[Tensor, " pairs"]:
    """Return |<a[row], b[other]>| of each pair of a row and another, in float64 and a fixed order.

    >>> cosine_sizes(torch.eye(2), -torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, 1])).tolist()
    [1.0, 0.0]
    """
    parts = zip(rows.split(RECOMPUTED), others.split(RECOMPUTED), strict=True)
    return torch.cat([fixed_dot(a[r].double(), b[o].double()).abs() for r, o in parts])


def strongest_atoms(code: SparseCode) -> Int64[Tensor, " batch"]:
    """Return the atom with the largest |coefficient| of each code, the first of equal ones; -1 for an empty code.

    >>> code = SparseCode(torch.tensor([[4, 7], [0, 0]]), torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.tensor([2, 0]))
    >>> strongest_atoms(code).tolist()
    [7, -1]
    """
    if code.k == 0:
        return torch.full((len(code.indices),), -1)
    used = torch.arange(code.k, device=code.count.device) < code.count[:, None]
    sizes = torch.where(used, code.coefficients.abs(), torch.full_like(code.coefficients, -1.0))
    largest = sizes == sizes.amax(dim=1, keepdim=True)
    place = largest.int().argmax(dim=1, keepdim=True)
    return torch.where(code.count > 0, code.indices.gather(1, place)[:, 0], -1)


def same_readout(
    strongest: Int64[Tensor, " tokens"],
    others: Int64[Tensor, " tokens"],
    atoms: Float32[Tensor, "atoms d_model"],
    other_atoms: Float32[Tensor, "others d_model"],
    cosine: float,
) -> Bool[Tensor, " tokens"]:
    """Return a mask of tokens whose strongest atoms in two dictionaries are one direction, within `cosine`.

    False for a token that has no strongest atom (-1) in one of them.

    >>> same_readout(torch.tensor([0, 1]), torch.tensor([1, -1]), torch.eye(2), torch.eye(2).flip(0), 0.8).tolist()
    [True, False]
    """
    both = (strongest >= 0) & (others >= 0)
    same = torch.zeros(len(strongest), dtype=torch.bool)
    if bool(both.any()):
        same[both] = cosine_sizes(atoms, other_atoms, strongest[both], others[both]) >= cosine
    return same
