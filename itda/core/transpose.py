"""Codes by token turned into codes by atom: which tokens use an atom, and how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from itda.core.pursuit.compiled import as_written
from itda.core.pursuit.threads import over_rows


@dataclass(frozen=True, eq=False)
class Uses:
    """The uses of each atom: row `i` is `start[i]` to `start[i + 1]` of `token` and `coefficient`."""

    start: Int64[np.ndarray, " rows"]
    """Where each atom's uses begin, and where the last one's end, [atoms + 1]."""
    token: Int32[np.ndarray, " codes"]
    coefficient: Float32[np.ndarray, " codes"]
    """Coefficients of each atom, the largest first; equal ones in token order."""
    steps: Int32[np.ndarray, "atoms k"]
    """How often each atom has each place in a code, [atoms, k]."""


def by_atom(
    start: Int64[np.ndarray, " rows"],
    atom: Int32[np.ndarray, " codes"],
    coefficient: Float32[np.ndarray, " codes"],
    atoms: int,
    k: int,
) -> Uses:
    """Sort codes by atom; the code of token `t` is `start[t]` to `start[t + 1]` of `atom` and `coefficient`.

    Codes have at most `k` entries, and finite coefficients. Beside what is given, memory is that of the result.

    >>> codes = np.array([0, 2, 3]), np.array([1, 0, 1], np.int32), np.array([5, 2, 7], np.float32)
    >>> uses = by_atom(*codes, atoms=2, k=2)
    >>> uses.start.tolist(), uses.token.tolist(), uses.coefficient.tolist()
    ([0, 1, 3], [0, 1, 0], [2.0, 7.0, 5.0])
    >>> uses.steps.tolist()
    [[0, 1], [2, 0]]
    """
    steps = np.zeros((atoms, k), np.int32)
    _count(start, atom, steps)
    first = np.zeros(atoms + 1, np.int64)
    np.cumsum(steps.sum(axis=1, dtype=np.int64), out=first[1:])
    token, ranked = np.empty(len(atom), np.int32), np.empty(len(atom), np.float32)
    _place(start, atom, coefficient, first[:-1].copy(), token, ranked)
    if atoms:
        over_rows(_rank, np.arange(atoms), first, token, ranked)
    return Uses(first, token, ranked, steps)


@as_written
def _count(start: np.ndarray, atom: np.ndarray, steps: np.ndarray) -> None:
    for t in range(len(start) - 1):
        for u in range(start[t], start[t + 1]):
            steps[atom[u], u - start[t]] += 1


@as_written
def _place(
    start: np.ndarray,
    atom: np.ndarray,
    coefficient: np.ndarray,
    free: np.ndarray,
    token: np.ndarray,
    placed: np.ndarray,
) -> None:
    """Hand out codes to their atoms in token order; `free` has the next place of each."""
    for t in range(len(start) - 1):
        for u in range(start[t], start[t + 1]):
            place = free[atom[u]]
            token[place], placed[place] = t, coefficient[u]
            free[atom[u]] = place + 1


@as_written
def _rank(atoms: np.ndarray, start: np.ndarray, token: np.ndarray, coefficient: np.ndarray) -> None:
    """Sort the uses of some atoms in place; a merge sort leaves equal ones in their order."""
    for i in atoms:
        own = slice(start[i], start[i + 1])
        order = np.argsort(-coefficient[own], kind="mergesort")
        token[own] = token[own][order]
        coefficient[own] = coefficient[own][order]
