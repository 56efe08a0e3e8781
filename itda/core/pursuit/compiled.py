"""Two ways to compile a loop: one that keeps every rounding, one that may not matter to the last bit.

`unwrap`: what checks annotations in the test run would be in the way of the compiler.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def exact(function: F) -> F:
    """Compile as written: IEEE arithmetic, nothing contracted or reordered."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(inspect.unwrap(function)))


def fast(function: F) -> F:
    """Compile with leave to reorder and contract, which vectorises. All numbers must be finite."""
    flags = {"contract", "reassoc", "nsz", "nnan", "ninf", "arcp"}
    return cast(F, numba.njit(nogil=True, cache=True, fastmath=flags, error_model="numpy")(inspect.unwrap(function)))
