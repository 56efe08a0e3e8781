"""Limits on the pursuits of this process: memory for Gram matrices, and whether a GPU may approximate."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace

from itda import machine
from itda.errors import SettingError

LEAST_MEMORY = 2**20
"""The lowest memory limit in bytes: less has no room for a useful number of Gram rows."""


@dataclass(frozen=True)
class PursuitLimits:
    """What the pursuits of one dictionary may use; None is for what `set_memory` and `set_fast` say.

    >>> PursuitLimits(memory=8 * 2**30).shared_by(2).memory // 2**30
    4
    """

    memory: int | None = None
    """Bytes that the Gram matrix may take; None for what `set_memory` says."""
    fast: bool | None = None
    """True if pursuits on a GPU may approximate; None for what `set_fast` says."""

    def shared_by(self, number: int) -> PursuitLimits:
        """Return the limits of each of `number` dictionaries that are used together."""
        if self.memory is None:
            return self
        return replace(self, memory=max(LEAST_MEMORY, self.memory // max(1, number)))


NO_LIMITS = PursuitLimits()

_limit: int | None = None
_granted: dict[int, int] = {}
_fast = False


def set_memory(limit: int | None) -> None:
    """Let Gram matrices take at most `limit` bytes. None, the default: half of the memory that is free at the time.

    Pursuits are fast if the Gram matrix of the dictionary fits, with 2 bytes per pair of atoms: 0.5 GB for 16,384
    atoms, 8.6 GB for 65,536. If it does not fit, they keep the rows used last. The results are the same. The limit that
    counts is that at the time when a dictionary first encodes, or a trainer is made. Raises `SettingError` below 1 MiB.

    >>> import itda
    >>> itda.set_memory(8 * 2**30)
    >>> itda.set_memory(None)
    """
    global _limit
    if limit is not None and limit < 2**20:
        raise SettingError(f"a memory limit of {limit} bytes: it must be at least 1 MiB, 1048576")
    _limit = limit


def set_fast(allowed: bool) -> None:
    """Let pursuits on a GPU approximate: pick atoms by TF32 products, without a second look in float64.

    It is off by default; then results are the same on every device. Nothing changes on a CPU.

    >>> import itda
    >>> itda.set_fast(False)
    """
    global _fast
    _fast = allowed


def fast() -> bool:
    """Return True if pursuits on a GPU may approximate."""
    return _fast


def limit() -> int | None:
    """Return the limit in bytes that `set_memory` was given; None for none."""
    return _limit


def available() -> int:
    """Return the bytes that Gram matrices may take now."""
    if _limit is None:
        return machine.free_memory() // 2
    return max(0, _limit - sum(_granted.values()))


def claim(owner: object, size: int) -> None:
    """Count `size` bytes as taken for as long as `owner` lives, in place of what it claimed before."""
    if id(owner) not in _granted:
        weakref.finalize(owner, _granted.pop, id(owner), None)
    _granted[id(owner)] = size
