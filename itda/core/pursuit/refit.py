"""The least squares at the end of `mp_refit` for many rows at once, with the bits of `plain.refit`.

`plain` takes one atom after the other. Here all inner products of a row's atoms come first, each in its fixed order,
and then a Cholesky factorisation goes through all rows together. An entry has the same products subtracted in the same
order in both, so that no bit differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import fixed_dot, root, weighted_atoms
from itda.core.pursuit.or_torch import KernelOrTorch
from itda.core.pursuit.plain import rows_at_once
from itda.core.pursuit.subtraction import DEPENDENT
from itda.core.pursuit.triton_limits import UNFUSED, WIDEST, lanes_of, places_of

MOST = 64
"""The most atoms of a row whose inner products a kernel holds in registers."""


def refitted(
    z: Float64[Tensor, "batch d_model"], atoms: Float[Tensor, "atoms d_model"], code: SparseCode
) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
    """Fit a code's coefficients by least squares on its atoms, as `plain.refit`; atoms that depend on others go.

    Also returns what the fit leaves of each row's energy, ||z - a D||^2.

    >>> code = SparseCode(torch.tensor([[0, 1]]), torch.tensor([[1.0, 1.0]]).double(), torch.tensor([2]))
    >>> code, left = refitted(torch.tensor([[3.0, 4.0, 1.0]]).double(), torch.eye(3), code)
    >>> code.coefficients.tolist(), left.tolist()
    ([[3.0, 4.0]], [1.0])
    """
    has_kernel = z.numel() > 0 and z.shape[1] <= WIDEST and 0 < code.k <= MOST
    form = REFIT.on(z.device) if has_kernel else refit_torch
    indices, coefficients, count, left = form(z, atoms, code.indices, code.count)
    return SparseCode(indices, coefficients, count), left


def refit_torch(
    z: Float64[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    indices: Int64[Tensor, "batch k"],
    count: Int64[Tensor, " batch"],
) -> Sequence[Tensor]:
    """Return indices, coefficients and count of the fit to each row's atoms, and the energy that it leaves."""
    k = indices.shape[1]
    size = rows_at_once(k * max(k, atoms.shape[1]), z.device)
    parts = zip(z.split(size), indices.split(size), count.split(size), strict=True)
    fitted = [_fit(*_products_torch(target, atoms, some), some, number) for target, some, number in parts]
    indices, coefficients, count = (torch.cat(column) for column in zip(*fitted, strict=True))
    r = z - weighted_atoms(coefficients, atoms, indices)
    return indices, coefficients, count, fixed_dot(r, r)


def refit_triton(
    z: Float64[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    indices: Int64[Tensor, "batch k"],
    count: Int64[Tensor, " batch"],
) -> Sequence[Tensor]:
    """Return what `refit_torch` does, by three kernels for a group of rows."""
    from itda.core.pursuit.refit_kernel import fit, left_over, products

    (rows, k), width = indices.shape, z.shape[1]
    z, atoms, indices, count = z.contiguous(), atoms.contiguous(), indices.contiguous(), count.contiguous()
    fitted, number = torch.empty_like(indices), torch.empty_like(count)
    coefficients, left = z.new_empty(rows, k), z.new_empty(rows)
    lanes = lanes_of(width)
    wide = {"LANES": lanes, "num_warps": min(8, lanes // 256), **UNFUSED}
    # As few warps as hold the matrix without spilling: there is little to do between their exchanges.
    square = {"DEPENDENT": DEPENDENT, "K": places_of(k), "num_warps": 1 if k <= 32 else 2, **UNFUSED}
    size = rows_at_once(k * k, z.device)
    gram, with_z = z.new_empty(min(rows, size), k, k), z.new_empty(min(rows, size), k)
    with torch.cuda.device_of(z):
        for start in range(0, rows, size):
            part = slice(start, start + size)
            some, number_of_some = indices[part], count[part]
            products[(len(some), k)](z[part], atoms, some, number_of_some, gram, with_z, width, k, **wide)
            made = fitted[part], coefficients[part], number[part]
            fit[(len(some),)](gram, with_z, some, number_of_some, *made, k, **square)
        left_over[(rows,)](z, atoms, fitted, coefficients, number, left, width, k, **wide)
    return fitted, coefficients, number, left


REFIT = KernelOrTorch("refit", refit_triton, refit_torch)
"""`refit_triton` where it can be trusted, else `refit_torch`."""


def _products_torch(
    z: Float64[Tensor, "some d_model"], atoms: Float[Tensor, "atoms d_model"], indices: Int64[Tensor, "some k"]
) -> tuple[Float64[Tensor, "some k k"], Float64[Tensor, "some k"]]:
    """Return the inner products of each row's atoms with those before them and with themselves, and with z."""
    k, taken = indices.shape[1], atoms[indices].double()
    gram = z.new_zeros(len(z), k, k)
    for t in range(k):
        gram[:, t, : t + 1] = fixed_dot(taken[:, : t + 1], taken[:, t, None].expand(-1, t + 1, -1))
    return gram, fixed_dot(taken, z[:, None].expand_as(taken))


def _fit(
    gram: Float64[Tensor, "some k k"], value: Float64[Tensor, "some k"], indices: Tensor, count: Tensor
) -> tuple[Int64[Tensor, "some k"], Float64[Tensor, "some k"], Int64[Tensor, " some"]]:
    """Return atoms, coefficients and count of the fit: L L^T = gram, L y = value, L^T a = y."""
    k = gram.shape[1]
    kept = torch.zeros_like(value, dtype=torch.bool)
    factor, diagonal, solution = torch.zeros_like(gram), torch.ones_like(value), torch.zeros_like(value)
    for s in range(k):
        pivot = gram[:, s, s]
        kept[:, s] = (s < count) & (pivot > DEPENDENT)
        diagonal[:, s] = root(torch.where(kept[:, s], pivot, 1.0))
        # An atom that depends on those before it has no part in what follows: its column is 0.
        column = torch.where(kept[:, s, None], gram[:, s + 1 :, s] / diagonal[:, s, None], 0.0)
        solution[:, s] = torch.where(kept[:, s], value[:, s] / diagonal[:, s], 0.0)
        factor[:, s + 1 :, s] = column
        gram[:, s + 1 :, s + 1 :] -= column[:, :, None] * column[:, None, :]
        value[:, s + 1 :] -= column * solution[:, s, None]
    for s in range(k - 1, -1, -1):
        solution[:, s] = torch.where(kept[:, s], solution[:, s] / diagonal[:, s], 0.0)
        solution[:, :s] -= factor[:, s, :s] * solution[:, s, None]
    order = kept.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    number = kept.sum(dim=1)
    padding = torch.arange(k, device=count.device) >= number[:, None]
    return (
        indices.gather(1, order).masked_fill(padding, 0),
        solution.gather(1, order).masked_fill(padding, 0),
        number,
    )
