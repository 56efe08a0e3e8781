"""Pursuits: ways to find a sparse code. One contract, `plain.pursue`; faster ones must agree with it."""

from typing import Literal, get_args

from itda.core.pursuit.plain import pursue

Pursuit = Literal["mp", "mp_refit", "omp"]
PURSUITS: tuple[Pursuit, ...] = get_args(Pursuit)

__all__ = ["PURSUITS", "Pursuit", "pursue"]
