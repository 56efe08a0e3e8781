"""Pursuits that stop on the way and go on: their state, and the one function that takes them further, in torch.

A row is a target on its way through a matching pursuit. It stops when it is done; where its correlations are too coarse
to choose by, and have to be computed anew from its residual; or where a row of the Gram matrix is missing. Growth also
puts rows back to an earlier step, and lets each row see only atoms that came before it. `advance` is the plain form of
a step for any device; `gram_triton` has the same in one kernel, and both give the bits of `plain`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int16, Int32, Int64
from torch import Tensor

DONE, CROWDED, NEEDS_ROW = 0, 1, 2
"""Why a row stopped: it is done; too many atoms are near its best; the Gram row of an atom picked is not there."""

SCALE = 32700.0
"""A Gram matrix in 16 bits holds round(SCALE * <d_i, d_j>): |<d_i, d_j>| <= 1.00002, so nothing overflows."""


@dataclass(eq=False)
class Rows:
    """Some targets on their way through a pursuit, one per row of each tensor; `advance` changes those marked with *."""

    z: Float64[Tensor, "rows d_model"]
    """Targets, scaled by a power of two to a largest entry in [1/2, 1)."""
    exponent: Tensor
    energy: Float64[Tensor, " rows"]
    least: Float64[Tensor, " rows"]
    """A row is done once no more than this is left of its energy."""
    faint: Float64[Tensor, " rows"]
    """A row is done once its next coefficient is no larger than this."""
    picks: Int32[Tensor, "rows k"]
    """* The atom of each step so far."""
    coefficients: Float64[Tensor, "rows k"]
    """* <r, d> of each step so far."""
    step: Int32[Tensor, " rows"]
    """* Number of steps so far. What lies past them in `picks` and `coefficients` may be anything."""
    left: Float64[Tensor, " rows"]
    """* ||r||^2."""
    status: Int32[Tensor, " rows"]
    """* Why the row stopped."""


@dataclass(eq=False)
class Atoms:
    """A dictionary on a device, with its Gram matrix in 16 bits; either may have room for more than `number` atoms."""

    table: Float32[Tensor, "room d_model"]
    gram: Int16[Tensor, "slots width"]
    slots: Int32[Tensor, " width"] | None
    """Row of `gram` that an atom has, -1 for none; None if atom j has row j."""
    number: int
    entry_error: float
    """The largest error of gram / SCALE."""
    born: Int32[Tensor, " width"] | None = None
    """In growth, the row of the block that atom j comes from (-1: before the block; 2^31 - 1: not an atom now)."""


@dataclass(eq=False)
class Correlations:
    """Correlations of all atoms with the residuals of some rows, in float32, and how wrong they may be."""

    c: Float32[Tensor, "some width"]
    applied: Int32[Tensor, " some"]
    """The steps that c accounts for; those past them are still to be subtracted."""
    bound: Float64[Tensor, " some"]
    """The largest error of an entry of c."""
    keep: bool = True
    """Leave all three as they are; else they may be brought up to date, in place."""


def advance(
    rows: Rows, which: Int32[Tensor, " n"], source: Correlations, place: Int32[Tensor, " n"], atoms: Atoms, crowd: int
) -> None:
    """Take the rows `which` as far as they go, in place; the correlations of row which[i] are those at place[i].

    The steps that a row has already are taken for granted: its residual is made anew from z by subtracting them in
    order. Each further step picks the atom of the largest |<r, d>| in float64, the lowest index among equals, of those
    that the row may see: all, or with `born` those with born[j] < the row's own number. `status` says why it stopped;
    CROWDED only if there are more than `crowd` candidates, and the error is more than `COARSE` times that of a fresh
    product.
    """
    raise NotImplementedError
