"""What comes before and after a pursuit, in Triton: one program for each row. Import only where Triton is.

`start` and `fixed_order` launch the kernels. Their bits are those of torch: the same float64 operations in the same
order, products and sums apart (`enable_fp_fusion=False`).
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from itda.core.pursuit.gram_triton_kernel import _atom, _fixed_sum, _places


@triton.jit
def _power_of_two(exponent):
    """Return 2 ** exponent, a normal number, from its bits."""
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _scaled(x, exponent):
    """Return `fixed_order.scaled` of x; the shift rounds down, as torch's division of whole numbers does."""
    half = exponent >> 1
    return x * _power_of_two(half) * _power_of_two(exponent - half)


@triton.jit
def _exponent(top):
    """Return the exponent of `frexp` of a number that is not negative: top = m 2 ** exponent with 1/2 <= m < 1."""
    small = (top > 0) & (top < 2.0**-1000)  # numbers below 2 ** -1022 have fewer bits, and say less
    bits = tl.where(small, top * 2.0**100, top).to(tl.int64, bitcast=True)
    exponent = ((bits >> 52) & 0x7FF) - 1022 - tl.where(small, 100, 0)
    return tl.where(top > 0, exponent, 0)


@triton.jit
def in_front(kept, column):
    """Return where each column goes if those kept come first, in their order, and the number of these."""
    up_to = tl.cumsum(kept.to(tl.int32), axis=0)
    number = tl.sum(kept.to(tl.int32), axis=0)
    return tl.where(kept, up_to - 1, number + column - up_to), number


@triton.jit
def begin(
    targets,  # [rows, d_model]
    z,  # float64 [rows, d_model]: written, as all that follows
    exponents,  # int32 [rows]
    energies,  # float64 [rows]
    faint,  # float64 [rows]
    width,
    RESOLUTION: tl.constexpr,  # a power of two
    LANES: tl.constexpr,
):
    """Write a row of `Start`, but for `least`."""
    row, numbers = tl.program_id(0).to(tl.int64), _places(LANES)
    inside = numbers < width
    x = tl.load(targets + row * width + numbers, mask=inside, other=0.0).to(tl.float64)
    exponent = _exponent(tl.max(tl.abs(x), axis=0))
    x = _scaled(x, -exponent)
    energy = _fixed_sum(x * x, LANES)
    tl.store(z + row * width + numbers, x, mask=inside)
    tl.store(exponents + row, exponent.to(tl.int32))
    tl.store(energies + row, energy)
    tl.store(faint + row, RESOLUTION * tl.sqrt(energy))


@triton.jit
def merge(
    picks,  # whole numbers [rows, k]
    coefficients,  # float64 [rows, k]
    counts,  # whole numbers [rows]
    indices,  # int64 [rows, k]: written, as all that follows
    sums,  # float64 [rows, k]
    numbers,  # int64 [rows]
    k,
    K: tl.constexpr,  # a power of two, no less than k
):
    """Write a row of `SparseCode.from_picks`."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, K)
    count = tl.load(counts + row).to(tl.int32)
    own = tl.load(picks + row * k + column, mask=column < count, other=-1).to(tl.int64)
    total, first = tl.zeros([K], tl.float64), tl.full([K], K, tl.int32)
    for t in range(count):
        same = own == tl.load(picks + row * k + t).to(tl.int64)
        total = tl.where(same, total + tl.load(coefficients + row * k + t), total)
        first = tl.where(same, tl.minimum(first, t), first)
    kept = first == column  # never past the count, where nothing is the same as -1
    place, number = in_front(kept, column)
    tl.store(indices + row * k + place, tl.where(kept, own, 0), mask=place < k)
    tl.store(sums + row * k + place, tl.where(kept, total, 0.0), mask=place < k)
    tl.store(numbers + row, number.to(tl.int64))


@triton.jit
def end(
    coefficients,  # float64 [rows, k]
    exponents,  # int32 [rows]
    energies,  # float64 [rows]
    left,  # float64 [rows]
    scaled,  # float32 or float64 [rows, k]: written
    shares,  # float64 [rows]: written
    k,
    K: tl.constexpr,  # a power of two, no less than k
):
    """Write the coefficients of a row at the scale of its target, and the share of energy left over."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, K)
    x = tl.load(coefficients + row * k + column, mask=column < k, other=0.0)
    x = _scaled(x, tl.load(exponents + row).to(tl.int64))
    tl.store(scaled + row * k + column, x.to(scaled.dtype.element_ty), mask=column < k)
    energy = tl.load(energies + row)
    some = energy > 0
    tl.store(shares + row, tl.where(some, tl.load(left + row) / tl.where(some, energy, 1.0), 0.0))


@triton.jit
def sum_of_atoms(
    coefficients,  # float64 [rows, k]
    indices,  # int64 [rows, k]
    atoms,  # [atoms, d_model]
    sums,  # float64 [rows, d_model]: written
    width,
    k,
    TILE: tl.constexpr,
):
    """Write a part of a row of `fixed_order.weighted_atoms`."""
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE], tl.float64)
    for t in range(k):
        a, j = tl.load(coefficients + row * k + t), tl.load(indices + row * k + t)
        total += a * _atom(atoms, j, width, numbers)
    tl.store(sums + row * width + numbers, total, mask=numbers < width)
