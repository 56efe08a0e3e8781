"""Which pursuits change if other atoms are to be had, and from which step on: k multiplications for each new atom."""

from __future__ import annotations

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from itda.core.pursuit.advance import NEVER, SCALE, Atoms, Correlations, Rows
from itda.core.pursuit.gram_torch import UNIT, rows_at_once


def first_change(
    rows: Rows,
    source: Correlations,
    atoms: Atoms,
    *,
    gone: Int64[Tensor, " gone"],
    new: Int64[Tensor, " new"],
    born: Int32[Tensor, " new"],
) -> Int32[Tensor, " rows"]:
    """Return the first step of each row that may change, NEVER if none, now that atoms are gone and new ones there.

    A row sees those of the `new` atoms that were `born` before it. With q_t = <r_t, d> = q_{t-1} - a_t G[d, j_t] for a
    new atom d, a pick stays if |q_t| < |<r_t, d_j>|. What rounding leaves open counts as a change: the pursuit is then
    taken up there, and decides exactly. Correlations must be those before the first step.
    """
    changed = torch.full_like(rows.step, NEVER)
    if len(gone) > 0:
        lost = torch.zeros(atoms.number, dtype=torch.bool, device=gone.device)
        lost[gone] = True
        steps = torch.arange(rows.picks.shape[1], device=gone.device)
        at = torch.where(lost[rows.picks.long()] & (steps < rows.step[:, None]), steps, NEVER)
        changed = at.amin(dim=1).int()
    if len(new) > 0:
        size = rows_at_once(len(new), new.device)
        for start in range(0, len(rows.z), size):
            part = slice(start, start + size)
            changed[part] = torch.minimum(changed[part], _first_won(rows, source, atoms, new, born, part))
    return changed


def _first_won(
    rows: Rows, source: Correlations, atoms: Atoms, new: Int64[Tensor, " new"], born: Tensor, part: slice
) -> Int32[Tensor, " some"]:
    """Return the first step of some rows that a new atom may win."""
    picks, coefficients, step = rows.picks[part].long(), rows.coefficients[part], rows.step[part]
    numbers = torch.arange(len(rows.z), device=new.device)[part]
    seen = born < numbers[:, None]  # rows new
    q = source.c[part][:, new].double()
    # The last term is for the rounding of this function.
    error = source.bound[part] + 8 * UNIT * rows.energy[part].sqrt()
    changed = torch.full_like(step, NEVER)
    for t in range(int(step.max())):
        taken = (t < step) & (changed == NEVER)
        won = (seen & (q.abs() + error[:, None] >= coefficients[:, t, None].abs())).any(dim=1)
        changed[taken & won] = t
        weight = torch.where(t < step, coefficients[:, t], 0.0)
        q -= (weight / SCALE)[:, None] * atoms.gram[new[None, :], torch.where(t < step, picks[:, t], 0)[:, None]]
        error = error + weight.abs() * atoms.entry_error
    # A row that had run out of atoms worth picking, or had none.
    wanting = (step < picks.shape[1]) & (rows.left[part] > rows.least[part]) & seen.any(dim=1)
    return torch.where((changed == NEVER) & wanting, step, changed)
