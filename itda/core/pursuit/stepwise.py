"""Pursuits from any step to their end: rows that stop on the way get what they need, and go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int32
from torch import Tensor

from itda.core.pursuit.advance import (
    CROWDED,
    NEEDS_ROW,
    Atoms,
    Correlations,
    Rows,
    advance,
    columns_of,
    units,
)
from itda.core.pursuit.gram_torch import crowd_of
from itda.core.pursuit.products import UNIT, correlations, product_error
from itda.machine import missing_for_triton


class Ways(NamedTuple):
    """The two functions of a pursuit that depend on the device: both in torch, or both as Triton kernels."""

    advance: Callable[[Rows, Tensor, Correlations, Tensor, Atoms, int], None]
    """`advance`, or what does the same."""
    units: Callable[[Rows, Tensor, Tensor], Tensor]
    """`units`, or what does the same."""


def ways_on(device: torch.device) -> Ways:
    """Choose Triton's kernels where they run, torch elsewhere."""
    if device.type == "cuda" and not missing_for_triton(device):
        from itda.core.pursuit import gram_triton

        return Ways(gram_triton.advance_triton, gram_triton.units_triton)
    return Ways(advance, units)


Fetch = Callable[[Rows, Tensor, Tensor, Tensor], None]
"""Puts the Gram rows in place that some rows wait for: called with all rows, the numbers of those just advanced and of
those that wait, and the steps that the correlations of the latter account for."""


def run(
    rows: Rows,
    which: Int32[Tensor, " n"],
    source: Correlations,
    place: Int32[Tensor, " n"],
    atoms: Atoms,
    ways: Ways | None = None,
    fetch: Fetch | None = None,
) -> None:
    """Take the rows `which` to their end, in place; the correlations of row which[i] are those at place[i].

    Rows that are crowded wait for one another, and get correlations computed anew in one product. `fetch` is needed
    where `atoms.slots` says that Gram rows may be missing.
    """
    ways = ways or ways_on(which.device)
    work = [(which, source, place)]
    while work:
        which, source, place = work.pop()
        if len(which) == 0:
            continue
        ways.advance(rows, which, source, place, atoms, crowd_of(atoms.number))
        status = rows.status[which]
        crowded = which[status == CROWDED]
        if len(crowded) > 0:
            everyone = torch.arange(len(crowded), dtype=torch.int32, device=which.device)
            work.append((crowded, fresh(rows, crowded, atoms, ways), everyone))
        if fetch is not None and len(waiting := which[status == NEEDS_ROW]) > 0:
            there = place[status == NEEDS_ROW]
            fetch(rows, which, waiting, source.applied[there])
            work.append((waiting, source, there))


def fresh(rows: Rows, which: Int32[Tensor, " n"], atoms: Atoms, ways: Ways | None = None) -> Correlations:
    """Compute the correlations of some rows anew, from their residuals: their error is a share of what is left."""
    norm = rows.left[which].sqrt()
    unit = (ways or ways_on(which.device)).units(rows, which, atoms.table)
    c = torch.empty(len(which), columns_of(atoms.number), device=unit.device)
    correlations(unit, atoms.table[: atoms.number], out=c[:, : atoms.number])
    c *= norm.float()[:, None]
    bound = (product_error(unit.shape[1]) + 2 * UNIT) * norm
    return Correlations(c, rows.step[which], bound, keep=False)
