"""One step of refinement: the gradient of each atom over its uses, and how far to go along all of them.

It runs where its atoms are, and gives the same bits there as on a CPU: each sum has one order. An atom's gradient is
the sum over its uses in reading order, one after the other; the sums along a row are `fixed_order`'s; and the sums over
all rows are exact (`math.fsum`), of two numbers a row, which alone go to the host, with the codes.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import decoded
from itda.core.pursuit.fixed_order import fixed_dot, root
from itda.core.pursuit.or_torch import holds
from itda.core.pursuit.threads import over_rows
from itda.core.training import refine_kernel
from itda.machine import missing_for_triton

ROWS = 4096
"""Rows whose residuals are in memory at once. Sums go over these parts in order, so bits depend on it."""


class Uses(NamedTuple):
    """The uses of atoms in some codes, atom by atom, each atom's in the order of rows; padding is left out."""

    starts: Int64[Tensor, " atoms+1"]
    """Where each atom's uses begin."""
    rows: Int64[Tensor, " uses"]
    coefficients: Float64[Tensor, " uses"]

    @staticmethod
    def of(indices: Int64[Tensor, "rows k"], coefficients: Float64[Tensor, "rows k"], atoms: int) -> "Uses":
        """Sort the uses in some codes by atom."""
        rows = torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1])
        real = coefficients.flatten() != 0
        atom, values, rows = indices.flatten()[real], coefficients.flatten()[real], rows[real]
        order = atom.argsort(stable=True)
        ends = torch.bincount(atom, minlength=atoms).cumsum(0)
        return Uses(torch.cat([ends.new_zeros(1), ends]), rows[order], values[order])


def improved(
    atoms: Float32[Tensor, "atoms d_model"],
    targets: Float[Tensor, "tokens d_model"],
    code: SparseCode,
    *,
    damping: float = 0.0,
) -> Float32[Tensor, "atoms d_model"]:
    """Return atoms after one damped block step, of unit norm. With their lengths put into the codes, no residual grows.

    Atoms that the codes do not use stay. An atom's step is the mean over its uses, weighted by their energy, the square
    of the coefficient. With `damping` D it is as if each atom had D times the mean energy of an atom in uses that leave
    it where it is: what little data moved moves less. It all takes place on the device of the atoms.
    """
    device = atoms.device
    z, indices = targets.double().to(device), code.indices.to(device)
    coefficients = code.coefficients.double().to(device)
    parts = [slice(start, start + ROWS) for start in range(0, len(z), ROWS)]
    step = torch.zeros(atoms.shape, dtype=torch.float64, device=device)
    for part in parts:
        residual = z[part] - decoded(coefficients[part], atoms, indices[part])
        add_uses(Uses.of(indices[part], coefficients[part], len(atoms)), residual, step)
    energy = _energies(indices, coefficients, len(atoms), parts).to(device)[:, None]
    if damping:
        energy += damping * math.fsum(energy[:, 0].tolist()) / len(atoms)
    step = (step.div_(torch.where(energy > 0, energy, 1.0))).float()
    products: list[list[float]] = []
    for part in parts:
        residual = z[part] - decoded(coefficients[part], atoms, indices[part])
        products += _along(residual, decoded(coefficients[part], step, indices[part])).tolist()
    cross, square = (math.fsum(column) for column in zip(*products, strict=True)) if products else (0.0, 0.0)
    return unit(atoms + (cross / square if square > 0 else 0.0) * step, atoms)


def unit(
    atoms: Float32[Tensor, "atoms d_model"], before: Float32[Tensor, "atoms d_model"]
) -> Float32[Tensor, "atoms d_model"]:
    """Divide each atom by its norm; where that is zero or not finite, keep the atom of `before`."""
    parts = []
    for moved, kept in zip(atoms.split(ROWS), before.split(ROWS), strict=True):  # in float64 they are twice as large
        length = norm(moved.double())
        sound = (length > 0) & length.isfinite()
        parts.append(torch.where(sound, moved.double() / length, kept.double()).float())
    return torch.cat(parts)


def norm(atoms: Float64[Tensor, "atoms d_model"]) -> Float64[Tensor, "atoms 1"]:
    """Return the length of each atom, as a column."""
    return root(fixed_dot(atoms, atoms))[:, None]


def add_uses(uses: Uses, residual: Float64[Tensor, "rows d_model"], total: Float64[Tensor, "atoms d_model"]) -> None:
    """Add to each row of `total` coefficient * residual of its atom's uses, one after the other."""
    device = total.device
    if device.type == "cpu":
        starts, rows, coefficients = (part.numpy() for part in uses)
        used = np.flatnonzero(np.diff(starts))
        over_rows(refine_kernel.gather, used, starts, rows, coefficients, residual.numpy(), total.numpy())
    elif kernel_is_exact(device):
        from itda.core.training.refine_triton import add_uses_by_kernel

        add_uses_by_kernel(*uses, residual, total)
    else:
        add_uses_in_torch(uses, residual, total)


def add_uses_in_torch(
    uses: Uses, residual: Float64[Tensor, "rows d_model"], total: Float64[Tensor, "atoms d_model"]
) -> None:
    """Do what `add_uses` does on any device: the first use of every atom, then the second of those that have two."""
    number = uses.starts.diff()
    order = number.argsort(descending=True, stable=True)
    sums, first = total[order], uses.starts[:-1][order]
    with_more = torch.bincount(number).flip(0).cumsum(0).flip(0)[1:].tolist()  # atoms of more than t uses, for each t
    for t, atoms in enumerate(with_more):
        at = first[:atoms] + t
        # A product and a sum: a fused multiply-add rounds once, and only where the hardware has one.
        sums[:atoms] += uses.coefficients[at, None] * residual[uses.rows[at]]
    total[order] = sums


@cache
def kernel_is_exact(device: torch.device) -> bool:
    """Return True if Triton is there and its kernel gives the bits of torch on this device, on numbers made up."""
    if missing_for_triton(device):
        return False
    from itda.core.training.refine_triton import add_uses_by_kernel

    random = torch.Generator().manual_seed(0)
    residual = torch.randn(64, 300, dtype=torch.float64, generator=random).to(device)
    indices = torch.randint(16, (64, 4), generator=random).to(device)
    uses = Uses.of(indices, torch.randn(64, 4, dtype=torch.float64, generator=random).to(device), 16)
    wanted = residual[:16].clone()
    add_uses_in_torch(uses, residual, wanted)

    def by_kernel() -> tuple[Tensor]:
        found = residual[:16].clone()
        add_uses_by_kernel(*uses, residual, found)
        return (found,)

    return holds("refinement", by_kernel, (wanted,))


def _energies(
    indices: Int64[Tensor, "tokens k"], coefficients: Float64[Tensor, "tokens k"], atoms: int, parts: list[slice]
) -> Float64[Tensor, " atoms"]:
    """Return the sum of squared coefficients of each atom: within a part in order, then over the parts in order."""
    energy = np.zeros(atoms)
    at, square = indices.cpu().numpy(), coefficients.square().cpu().numpy()
    for part in parts:
        energy += np.bincount(at[part].ravel(), square[part].ravel(), atoms)
    return torch.from_numpy(energy)


def _along(
    residual: Float64[Tensor, "rows d_model"], change: Float64[Tensor, "rows d_model"]
) -> Float64[Tensor, "rows 2"]:
    """Return <residual, change> and <change, change> of each row."""
    if residual.device.type != "cpu":
        return torch.stack([fixed_dot(residual, change), fixed_dot(change, change)], dim=1)
    products = np.empty((len(residual), 2))
    over_rows(refine_kernel.along, np.arange(len(residual)), residual.numpy(), change.numpy(), products)
    return torch.from_numpy(products)
