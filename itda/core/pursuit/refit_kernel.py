"""Least squares in Triton: inner products, a fit, and what it leaves. Import only where Triton is.

`refit` launches the kernels. Their bits are those of torch: the same float64 operations in the same order, products and
sums apart (`enable_fp_fusion=False`).
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false

import triton
import triton.language as tl

from itda.core.pursuit.gram_triton_kernel import _atom, _fixed_sum, _places
from itda.core.pursuit.rows_kernel import in_front


@triton.jit
def products(
    z,  # float64 [rows, d_model]
    atoms,  # [atoms, d_model]
    indices,  # int64 [rows, k]
    counts,  # int64 [rows]
    gram,  # float64 [rows, k, k]: written, with_z too
    with_z,  # float64 [rows, k]
    width,
    k,
    LANES: tl.constexpr,
):
    """Write the inner products of one atom of a row with those before it, itself, and the target."""
    row, t = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if t < tl.load(counts + row):
        place = _places(LANES)
        own = _atom(atoms, tl.load(indices + row * k + t), width, place)
        target = tl.load(z + row * width + place, mask=place < width, other=0.0)
        tl.store(with_z + row * k + t, _fixed_sum(own * target, LANES))
        for s in range(t + 1):
            other = _atom(atoms, tl.load(indices + row * k + s), width, place)
            product = _fixed_sum(other * own, LANES)
            tl.store(gram + (row * k + t) * k + s, product)
            tl.store(gram + (row * k + s) * k + t, product)


@triton.jit
def _at(vector, column, s):
    """Return number s of a vector: a sum of it and zeros, none of which is -0.0."""
    return tl.sum(tl.where(column == s, vector, 0.0), axis=0)


@triton.jit
def fit(
    gram,  # float64 [rows, k, k]
    with_z,  # float64 [rows, k]
    indices,  # int64 [rows, k]
    counts,  # int64 [rows]
    fitted,  # int64 [rows, k]: written, as all that follows
    coefficients,  # float64 [rows, k]
    numbers,  # int64 [rows]
    k,
    DEPENDENT: tl.constexpr,
    K: tl.constexpr,  # a power of two, no less than k
):
    """Write atoms, coefficients and count of one row's fit: L L^T = gram, L y = with_z, L^T a = y.

    The matrix is symmetric, to the bit, and lies in registers. Of it a row is needed at a time, which a sum with zeros
    gives; a column that is done makes room for that of L.
    """
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, K)
    count = tl.load(counts + row).to(tl.int32)
    i, j = column[:, None], column[None, :]
    g = tl.load(gram + (row * k + i) * k + j, mask=(i < count) & (j < count), other=0.0)
    y = tl.load(with_z + row * k + column, mask=column < count, other=0.0)
    diagonal, kept = tl.full([K], 1.0, tl.float64), tl.zeros([K], tl.int32)
    for s in range(count):
        line = tl.sum(tl.where(i == s, g, 0.0), axis=0)
        pivot = _at(line, column, s)
        taken = pivot > DEPENDENT
        root = tl.sqrt(tl.where(taken, pivot, 1.0))
        # An atom that depends on those before it has no part in what follows: its column is 0.
        line = tl.where(column > s, tl.where(taken, line / root, 0.0), 0.0)
        solved = tl.where(taken, _at(y, column, s) / root, 0.0)
        g -= line[:, None] * line[None, :]
        g = tl.where((j == s) & (i > s), line[:, None], g)
        y = tl.where(column == s, solved, y - line * solved)
        diagonal = tl.where(column == s, root, diagonal)
        kept = tl.where(column == s, taken.to(tl.int32), kept)
    for back in range(count):
        s = count - 1 - back
        line = tl.sum(tl.where((i == s) & (j < s), g, 0.0), axis=0)
        solved = _at(y, column, s) / _at(diagonal, column, s)
        solved = tl.where(_at(kept, column, s) > 0, solved, 0.0)
        y = tl.where(column == s, solved, y - line * solved)
    own = tl.load(indices + row * k + column, mask=column < count, other=0)
    place, number = in_front(kept > 0, column)
    tl.store(fitted + row * k + place, tl.where(kept > 0, own, 0), mask=place < k)
    tl.store(coefficients + row * k + place, tl.where(kept > 0, y, 0.0), mask=place < k)
    tl.store(numbers + row, number.to(tl.int64))


@triton.jit
def left_over(
    z,  # float64 [rows, d_model]
    atoms,  # [atoms, d_model]
    indices,  # int64 [rows, k]
    coefficients,  # float64 [rows, k]
    counts,  # int64 [rows]
    left,  # float64 [rows]: written
    width,
    k,
    LANES: tl.constexpr,
):
    """Write the energy that a row's code leaves of its target: all terms are added up before they are subtracted."""
    row, place = tl.program_id(0).to(tl.int64), _places(LANES)
    total = tl.zeros([LANES], tl.float64)
    for t in range(tl.load(counts + row).to(tl.int32)):
        total += tl.load(coefficients + row * k + t) * _atom(atoms, tl.load(indices + row * k + t), width, place)
    r = tl.load(z + row * width + place, mask=place < width, other=0.0) - total
    tl.store(left + row, _fixed_sum(r * r, LANES))
