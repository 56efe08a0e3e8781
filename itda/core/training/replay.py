"""Which pursuits change if other atoms are to be had, and from which step on: k multiplications for each new atom."""

from __future__ import annotations

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from itda.core.pursuit.advance import NEVER, SCALE, Atoms, Correlations, Rows
from itda.core.pursuit.gram_torch import UNIT, rows_at_once
from itda.core.pursuit.or_torch import KernelOrTorch

TILE = 256
"""New atoms that a program of the kernel holds at once."""


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
        way = FIRST_WON.on(new.device, telling=lambda: bool(rows.step.any()))
        changed = torch.minimum(changed, way(rows, source, atoms, new, born)[0])
    return changed


def first_won_torch(
    rows: Rows, source: Correlations, atoms: Atoms, new: Int64[Tensor, " new"], born: Int32[Tensor, " new"]
) -> Int32[Tensor, " rows"]:
    """Return the first step of each row that a new atom may win, in torch on any device."""
    numbers = torch.arange(len(rows.z), device=new.device)
    parts = numbers.split(rows_at_once(len(new), new.device))
    return torch.cat([_first_won(rows, source, atoms, new, born, part) for part in parts])


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
        error = error + weight.abs() * atoms.entry_error
    # A row that had run out of atoms worth picking, or had none.
    wanting = (step < picks.shape[1]) & (rows.left[part] > rows.least[part]) & seen.any(dim=1)
    return torch.where((changed == NEVER) & wanting, step, changed)


def _error(rows: Rows, source: Correlations) -> Tensor:
    # The last term is for the rounding of these functions.
    return source.bound + 8 * UNIT * rows.energy.sqrt()


def first_won_triton(
    rows: Rows, source: Correlations, atoms: Atoms, new: Int64[Tensor, " new"], born: Int32[Tensor, " new"]
) -> Int32[Tensor, " rows"]:
    """Return the first step of each row that a new atom may win, by one program for each row."""
    from itda.core.training.replay_kernel import first_won

    changed = torch.empty_like(rows.step)
    growth = torch.tensor([atoms.entry_error], dtype=torch.float64, device=new.device)
    state = (rows.picks, rows.coefficients, rows.step, rows.left, rows.least, _error(rows, source))
    sizes = (len(new), source.c.stride(0), atoms.gram.stride(0), rows.picks.shape[1])
    constants = {"SCALE": SCALE, "NEVER": NEVER, "TILE": TILE, "num_warps": 4, "enable_fp_fusion": False}
    with torch.cuda.device_of(source.c):
        first_won[(len(rows.z),)](source.c, *state, new, born, atoms.gram, growth, changed, *sizes, **constants)
    return changed


FIRST_WON = KernelOrTorch(
    "growth", lambda *arguments: (first_won_triton(*arguments),), lambda *arguments: (first_won_torch(*arguments),)
)
"""`first_won_triton` where it can be trusted, else `first_won_torch`."""
