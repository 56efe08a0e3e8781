"""The least squares at the end of `mp_refit` for many rows at once, with the bits of `plain.refit`.

`plain` takes one atom after the other. Here all inner products of a row's atoms come first, each in its fixed order,
and then a Cholesky factorisation goes through all rows together. An entry has the same products subtracted in the same
order in both, so that no bit differs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import fixed_dot, root, weighted_atoms
from itda.core.pursuit.or_torch import KernelOrTorch
from itda.core.pursuit.plain import rows_at_once
from itda.core.pursuit.subtraction import DEPENDENT
from itda.core.pursuit.triton_limits import lanes_of


def refitted(
    z: Float64[Tensor, "batch d_model"], atoms: Float[Tensor, "atoms d_model"], code: SparseCode
) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
    """Return the fit of `refit_at_once`, and what it leaves of each row's energy."""
    code = refit_at_once(z, atoms, code)
    r = z - weighted_atoms(code.coefficients, atoms, code.indices)
    return code, fixed_dot(r, r)


def refit_at_once(
    z: Float64[Tensor, "batch d_model"], atoms: Float[Tensor, "atoms d_model"], code: SparseCode
) -> SparseCode:
    """Fit a code's coefficients by least squares on its atoms, as `plain.refit`; atoms that depend on others go.

    >>> code = SparseCode(torch.tensor([[0, 1]]), torch.tensor([[1.0, 1.0]]).double(), torch.tensor([2]))
    >>> refit_at_once(torch.tensor([[3.0, 4.0]]).double(), torch.eye(2), code).coefficients.tolist()
    [[3.0, 4.0]]
    """
    size = max(1, rows_at_once(code.k * max(code.k, atoms.shape[1]), z.device))
    fitted = []
    for part in torch.arange(len(z), device=z.device).split(size):
        indices, count = code.indices[part], code.count[part]
        gram, value = PRODUCTS.on(z.device)(z[part], atoms, indices)
        fitted.append(_fit(gram, value, indices, count))
    columns = zip(*fitted, strict=True) if fitted else ([code.indices], [code.coefficients], [code.count])
    indices, coefficients, count = (torch.cat(list(column)) for column in columns)
    return SparseCode(indices, coefficients, count)


def _products_torch(
    z: Float64[Tensor, "some d_model"], atoms: Float[Tensor, "atoms d_model"], indices: Int64[Tensor, "some k"]
) -> tuple[Float64[Tensor, "some k k"], Float64[Tensor, "some k"]]:
    """Return the inner products of each row's atoms with those before them and with themselves, and with z."""
    k, taken = indices.shape[1], atoms[indices].double()
    gram = z.new_zeros(len(z), k, k)
    for t in range(k):
        gram[:, t, : t + 1] = fixed_dot(taken[:, : t + 1], taken[:, t, None].expand(-1, t + 1, -1))
    return gram, fixed_dot(taken, z[:, None].expand_as(taken))


def products_triton(
    z: Float64[Tensor, "some d_model"], atoms: Float[Tensor, "atoms d_model"], indices: Int64[Tensor, "some k"]
) -> tuple[Float64[Tensor, "some k k"], Float64[Tensor, "some k"]]:
    """Return what `_products_torch` does, by one program for each atom of a row."""
    from itda.core.pursuit.refit_kernel import products

    rows, k = indices.shape
    gram, with_z = z.new_zeros(rows, k, k), z.new_zeros(rows, k)
    lanes = lanes_of(z.shape[1])
    settings = {"LANES": lanes, "num_warps": min(8, lanes // 256), "enable_fp_fusion": False}
    atoms = atoms.contiguous()
    with torch.cuda.device_of(z):
        products[(rows, k)](z.contiguous(), atoms, indices.int().contiguous(), gram, with_z, z.shape[1], k, **settings)
    return gram, with_z


PRODUCTS = KernelOrTorch("refit", products_triton, _products_torch)
"""`products_triton` where it can be trusted, else `_products_torch`."""


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
