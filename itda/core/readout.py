"""Cosines of activations to atoms: the readout for detecting a concept, as a code is for reconstruction."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import fixed_dot, root
from itda.core.pursuit.products import correlations, product_error
from itda.errors import SettingError

CHUNK = 2**24
"""Most cosines in memory at once, beside the result."""


def all_cosines(
    targets: Float[Tensor, "batch d_model"], atoms: Float32[Tensor, "atoms d_model"]
) -> Float32[Tensor, "batch atoms"]:
    """Return every cosine [batch, atoms], by a float32 product: last bits may differ from machine to machine."""
    result = targets.new_empty(len(targets), len(atoms), dtype=torch.float32)
    for start, _, cosines in _chunks(targets, atoms):
        result[start : start + len(cosines)] = cosines
    return result


def best_cosines(
    targets: Float[Tensor, "batch d_model"],
    atoms: Float32[Tensor, "atoms d_model"],
    *,
    top: int | None = None,
    least: float | None = None,
) -> SparseCode:
    """Find each row's `top` largest cosines, those of at least `least`, or both; sorted by size, then by atom.

    The float32 product only proposes: all that its rounding error could matter to are computed again in float64, in a
    fixed order, so that neither the batch nor the machine decides. Raises `SettingError` for settings out of range.
    """
    if top is not None and top < 1:
        raise SettingError(f"top is {top}: it must be at least 1")
    if least is not None and not -1 <= least <= 1:
        raise SettingError(f"least is {least}: it must be a cosine, from -1 to 1")
    slack = 2 * product_error(atoms.shape[1]) + 1e-6  # an atom's own norm is one within float32
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, units, cosines in _chunks(targets, atoms):
        bound = torch.full((len(units), 1), -2.0 if least is None else least - slack, device=cosines.device)
        if top is not None and top < len(atoms):
            bound = torch.maximum(bound, cosines.topk(top, dim=1).values[:, -1:] - 2 * slack)
        rows, found = (cosines >= bound).nonzero(as_tuple=True)
        recomputed = torch.cat(
            [fixed_dot(units[r], atoms[a].double()) for r, a in zip(rows.split(2**15), found.split(2**15), strict=True)]
        )
        if least is not None:
            kept = recomputed >= least
            rows, found, recomputed = rows[kept], found[kept], recomputed[kept]
        parts.append(_sorted_rows(rows.cpu(), found.cpu(), recomputed.cpu(), len(units), top))
    width = top if top is not None else max((part[0].shape[1] for part in parts), default=0)
    padded = [
        [torch.nn.functional.pad(t, (0, max(0, width - t.shape[1])))[:, :width] for t in part[:2]] for part in parts
    ]
    device = targets.device
    empty = [torch.zeros(0, width, dtype=torch.long)], [torch.zeros(0, width)], [torch.zeros(0, dtype=torch.long)]
    return SparseCode(
        torch.cat(empty[0] + [part[0] for part in padded]).to(device),
        torch.cat(empty[1] + [part[1] for part in padded]).to(device),
        torch.cat(empty[2] + [part[2] for part in parts]).to(device),
    )


def _chunks(
    targets: Float[Tensor, "batch d_model"], atoms: Float32[Tensor, "atoms d_model"]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield parts of the rows: where each begins, its unit vectors in float64 (zero stays zero), and its cosines."""
    rows = max(1, CHUNK // max(1, len(atoms)))
    for start in range(0, len(targets), rows):
        rows64 = targets[start : start + rows].double()
        largest = rows64.abs().amax(dim=1, keepdim=True)
        rows64 = rows64 / torch.where(largest > 0, largest, torch.ones_like(largest))  # no square overflows
        norm = root(fixed_dot(rows64, rows64))[:, None]
        units = rows64 / torch.where(norm > 0, norm, torch.ones_like(norm))
        yield start, units, correlations(units, atoms)


def _sorted_rows(
    rows: Tensor, atoms: Tensor, cosines: Tensor, number: int, top: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return entries row by row, the largest first, padded to the longest row: atoms, cosines and counts."""
    order = np.lexsort((atoms.numpy(), -cosines.numpy(), rows.numpy()))
    rows, atoms, cosines = rows[order], atoms[order], cosines[order]
    count = torch.bincount(rows, minlength=number)
    place = torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]
    if top is not None:
        kept = place < top
        rows, atoms, cosines, place, count = rows[kept], atoms[kept], cosines[kept], place[kept], count.clamp(max=top)
    width = int(count.max()) if number else 0
    indices, values = torch.zeros(number, width, dtype=torch.long), torch.zeros(number, width)
    indices[rows, place], values[rows, place] = atoms, cosines.float()
    return indices, values, count
