"""Two ways to compile a loop: one keeps every rounding, the other is faster and may change the last bits.

What numba keeps of a loop has the loops that it calls in it, but numba looks at the source of the one alone. So what is
kept here is kept for one state of all of them: else a loop that was changed would live on in its callers.

`unwrap`: what checks annotations in the test run would be in the way of the compiler.
"""

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def _state_of_sources() -> str:
    """Hash the modules whose loops are called by others."""
    folder, hasher = Path(__file__).parent, hashlib.sha256()
    for path in sorted((*folder.glob("*_kernel.py"), folder / "lanes.py", folder / "compiled.py")):
        with suppress(OSError):  # a package in an archive has no such files, and does not change
            hasher.update(path.read_bytes())
    return hasher.hexdigest()


SOURCES = _state_of_sources()


def as_written(function: F) -> F:
    """Compile as written: IEEE arithmetic, nothing contracted or reordered."""
    return _compiled(function)


def inlined(function: F) -> F:
    """Compile as `as_written`, but into the caller: passing dozens of array pointers costs as much as a short step."""
    return _compiled(function, inline="always")


def may_reorder(function: F) -> F:
    """Compile with leave to reorder and contract, which vectorises. All numbers must be finite."""
    return _compiled(function, fastmath={"contract", "reassoc", "nsz", "nnan", "ninf", "arcp"})


def _compiled(function: F, **options: Any) -> F:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **options)(inspect.unwrap(function))
    except RuntimeError:  # no folder for compiled code can be written to: then each process compiles for itself
        return cast(F, numba.njit(**options)(inspect.unwrap(function)))
    cache: Any = made._cache  # pyright: ignore[reportAttributeAccessIssue]
    cache._cache_file._source_stamp = (cache._cache_file._source_stamp, SOURCES)
    keep, find = cache.save_overload, cache.load_overload

    def find_if_readable(*entry: Any) -> Any:
        try:
            return find(*entry)
        except (ImportError, AttributeError):  # kept by an older itda, whose modules had other names
            cache.flush()
            return None

    def keep_if_possible(*entry: Any) -> None:
        with suppress(OSError):  # nor where the disk is full
            keep(*entry)

    cache.save_overload, cache.load_overload = keep_if_possible, find_if_readable
    return cast(F, made)


@intrinsic
def prefetch(_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]`, of a contiguous array, ahead of its use."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        )
        line = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(call, [line, int32(0), int32(2), int32(1)])  # to read, into the second level, data
        return context.get_dummy_value()

    return types.void(array, index), code
