"""Which pursuits change if other atoms are to be had, and from which step on: k multiplications for each new atom."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from itda.core.pursuit.advance import NEVER, SCALE, Atoms, Correlations, Rows
from itda.core.pursuit.gram_torch import UNIT, rows_at_once
from itda.core.pursuit.or_torch import KernelOrTorch
from itda.core.pursuit.triton_limits import power_of_two

TILE, MOST = 256, 1024
"""New atoms that a program of the kernel holds at once: if they are no more than `TILE`, and if they are."""


def first_change(
    rows: Rows, source: Correlations, atoms: Atoms, *, new: Int32[Tensor, " new"], first: int
) -> Int32[Tensor, " rows"]:
    """Return the first step of each row that may change, NEVER if none, now that atoms are gone and new ones there.

    Gone are those whose `born` is NEVER; new are atoms `first` + new, of which a row sees those born before it. With
    q_t = <r_t, d> = q_{t-1} - a_t G[d, j_t] for a new atom d, a pick stays if |q_t| < |<r_t, d_j>|. What rounding
    leaves open counts as a change: the pursuit is then taken up there, and decides exactly. Correlations must be those
    before the first step.
    """
    way = FIRST_CHANGED.on(rows.z.device, telling=lambda: bool(rows.step.any()))
    return way(rows, source, atoms, new, first)[0]


def first_changed_torch(
    rows: Rows, source: Correlations, atoms: Atoms, new: Int32[Tensor, " new"], first: int
) -> Int32[Tensor, " rows"]:
    """Return what `first_change` does, in torch on any device."""
    assert atoms.born is not None
    steps = torch.arange(rows.picks.shape[1], device=new.device)
    gone = (atoms.born[rows.picks.long()] == NEVER) & (steps < rows.step[:, None])
    changed = torch.where(gone, steps, NEVER).amin(dim=1).int()
    if len(new) == 0:
        return changed
    numbers, columns = torch.arange(len(rows.z), device=new.device), first + new.long()
    parts = numbers.split(rows_at_once(len(new), new.device))
    won = [_first_won(rows, source, atoms, columns, atoms.born[columns], part) for part in parts]
    return torch.minimum(changed, torch.cat(won))


def _first_won(
    rows: Rows, source: Correlations, atoms: Atoms, new: Tensor, born: Tensor, part: Int64[Tensor, " some"]
) -> Int32[Tensor, " some"]:
    picks, coefficients, step = rows.picks[part].long(), rows.coefficients[part], rows.step[part]
    seen = born < part[:, None]  # some new
    q = source.c[part[:, None], new].double()
    error = _error(rows, source)[part]
    changed = torch.full_like(step, NEVER)
    for t in range(int(step.max())):
        taken = (t < step) & (changed == NEVER)
        won = (seen & (q.abs() + error[:, None] >= coefficients[:, t, None].abs())).any(dim=1)
        changed[taken & won] = t
        weight = torch.where(t < step, coefficients[:, t], 0.0)
        q -= (weight / SCALE)[:, None] * atoms.gram[torch.where(t < step, picks[:, t], 0)[:, None], new]
        error = error + weight.abs() * _growth(atoms)
    # A row that had run out of atoms worth picking, or had none.
    wanting = (step < picks.shape[1]) & (rows.left[part] > rows.least[part]) & seen.any(dim=1)
    return torch.where((changed == NEVER) & wanting, step, changed)


def _error(rows: Rows, source: Correlations) -> Tensor:
    # The last term is for the rounding of these functions.
    return source.bound + 8 * UNIT * rows.energy.sqrt()


def _growth(atoms: Atoms) -> float:
    # Kernels get numbers in float32.
    return float(np.float32(atoms.entry_error))


def first_changed_triton(
    rows: Rows, source: Correlations, atoms: Atoms, new: Int32[Tensor, " new"], first: int
) -> Int32[Tensor, " rows"]:
    """Return what `first_change` does, by one program for each row."""
    from itda.core.training.replay_kernel import first_changed

    changed, k = torch.empty_like(rows.step), rows.picks.shape[1]
    state = (rows.picks, rows.coefficients, rows.step, rows.left, rows.least, rows.energy, source.bound)
    sizes = (_growth(atoms), 8 * UNIT, len(new), first, source.c.stride(0), atoms.gram.stride(0), k)
    settings = {"SCALE": SCALE, "NEVER": NEVER, "TILE": TILE if len(new) <= TILE else MOST, "STEPS": power_of_two(k)}
    settings |= {"num_warps": 4, "enable_fp_fusion": False}
    with torch.cuda.device_of(source.c):
        first_changed[(len(rows.z),)](source.c, *state, new, atoms.born, atoms.gram, changed, *sizes, **settings)
    return changed


FIRST_CHANGED = KernelOrTorch(
    "growth",
    lambda *arguments: (first_changed_triton(*arguments),),
    lambda *arguments: (first_changed_torch(*arguments),),
)
"""`first_changed_triton` where it can be trusted, else `first_changed_torch`."""
