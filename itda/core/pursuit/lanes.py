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
def sum_of_lanes(_context: Any, array: Any, at: Any) -> Any:
    """Return the sum of array[at : at + 32], of a contiguous float64 array, folded in halves."""
    _check(array)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _folded(builder, _loaded(context, builder, signature.args[0], arguments[0], arguments[1]))

    return types.float64(array, at), code


@intrinsic
def dot_of_lanes(_context: Any, a: Any, b: Any, at: Any) -> Any:
    """Return the sum of a[at : at + 32] * b[at : at + 32], of contiguous arrays of floats, folded in halves."""
    _check(a)
    _check(b)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = (
            _loaded(context, builder, kind, array, arguments[2])
            for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
        )
        return _folded(builder, builder.fmul(first, second))

    return types.float64(a, b, at), code


def _check(array: Any) -> None:
    if not isinstance(array, types.Array) or array.layout != "C" or not isinstance(array.dtype, types.Float):
        raise TypingError(f"lanes are read from a contiguous array of floats, not from {array}")


def _loaded(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Load 32 numbers as float64."""
    data = builder.gep(context.make_array(kind)(context, builder, array).data, [at])
    pointer = builder.bitcast(data, ir.VectorType(data.type.pointee, GROUP).as_pointer())
    numbers = builder.load(pointer, align=kind.dtype.bitwidth // 8)
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
