"""Sums of 32 neighbouring numbers by vector operations, for compiled loops: folded in halves, 16, 8, 4, 2 and 1.

LLVM gets whole vectors to add, so nothing is left to its vectoriser, and no operation may change place.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

GROUP = 32
"""Numbers that are folded together: on a GPU, one for each thread of a warp."""


@intrinsic
def pointer_to(_context: Any, array: Any) -> Any:
    """Return the address of the first number of a contiguous array of floats.

    A pointer is passed on without counting references, and an index of it is never taken from the end.
    """
    if not isinstance(array, types.Array) or array.layout != "C" or not isinstance(array.dtype, types.Float):
        raise TypingError(f"numbers are read from a contiguous array of floats, not from {array}")

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), code


@intrinsic
def sum_of_lanes(_context: Any, numbers: Any, at: Any) -> Any:
    """Return the sum of numbers[at : at + 32], float64, folded in halves."""

    def code(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _folded(builder, _loaded(builder, signature.args[0], arguments[0], arguments[1]))

    return types.float64(numbers, at), code


@intrinsic
def dot_of_lanes(_context: Any, a: Any, b: Any, at: Any) -> Any:
    """Return the sum of a[at : at + 32] * b[at : at + 32], in float64, folded in halves."""

    def code(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = (
            _loaded(builder, kind, pointer, arguments[2])
            for kind, pointer in zip(signature.args[:2], arguments[:2], strict=True)
        )
        return _folded(builder, builder.fmul(first, second))

    return types.float64(a, b, at), code


def _loaded(builder: Any, kind: Any, pointer: Any, at: Any) -> Any:
    """Load 32 numbers as float64."""
    start = builder.gep(pointer, [at])
    lanes = builder.bitcast(start, ir.VectorType(start.type.pointee, GROUP).as_pointer())
    numbers = builder.load(lanes, align=kind.dtype.bitwidth // 8)
    double = ir.VectorType(ir.DoubleType(), GROUP)
    return numbers if numbers.type == double else builder.fpext(numbers, double)


def _folded(builder: Any, numbers: Any) -> Any:
    number = GROUP
    while number > 1:
        number //= 2
        first, second = (_part(builder, numbers, start, number) for start in (0, number))
        numbers = builder.fadd(first, second)
    return builder.extract_element(numbers, ir.IntType(32)(0))


def _part(builder: Any, numbers: Any, start: int, number: int) -> Any:
    places = ir.Constant(ir.VectorType(ir.IntType(32), number), list(range(start, start + number)))
    return builder.shuffle_vector(numbers, ir.Constant(numbers.type, ir.Undefined), places)
