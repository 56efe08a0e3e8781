"""Matching pursuit by a Gram matrix in Triton: one program per row does all k steps, with the bits of `plain`.

Import this only where Triton is; `gram_triton` starts the kernels. As in `gram_torch`, correlations c in float32 only
propose atoms, and those in float64 decide. What differs is where things are: the residual stays in registers, and so
does c in `on_chip`. `streaming`, for more atoms, keeps c in memory, and updates it and finds its maxima in one pass.

The bits are those of `plain` because the float64 operations are. Sums are folded over axes of length 2, in the order of
`fixed_order.fixed_sum`, so that none is left to Triton; and products and sums are compiled apart
(`enable_fp_fusion=False`), since a fused multiply-add rounds once where `plain` rounds twice.
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false, reportAssignmentType=false

import triton
import triton.language as tl


@triton.jit
def _fixed_sum(terms, LEVELS: tl.constexpr):
    """Return `fixed_order.fixed_sum` of 2 ** LEVELS terms: a sum of two has no order."""
    WITHIN: tl.constexpr = 5 if LEVELS > 5 else LEVELS  # folds within a group of 32
    ACROSS: tl.constexpr = 3 if LEVELS > 8 else LEVELS - WITHIN  # folds of the sums of the groups, 8 at most
    for level in tl.static_range(LEVELS - WITHIN - ACROSS):
        terms = tl.sum(tl.reshape(terms, (2, 2 ** (LEVELS - 1 - level))), axis=0)
    for level in tl.static_range(WITHIN):
        terms = tl.sum(tl.reshape(terms, (2**ACROSS, 2, 2 ** (WITHIN - 1 - level))), axis=1)
    terms = tl.reshape(terms, (2**ACROSS,))
    for level in tl.static_range(ACROSS):
        terms = tl.sum(tl.reshape(terms, (2, 2 ** (ACROSS - 1 - level))), axis=0)
    return tl.sum(terms, axis=0) + 0.0  # never -0.0


@triton.jit
def _atom(atoms, index, width, place):
    """Return atom `index` in float64, and 0 past its end."""
    return tl.load(atoms + index.to(tl.int64) * width + place, mask=place < width, other=0.0).to(tl.float64)


@triton.jit
def _cut(top, bound, FAST: tl.constexpr):
    """Return the least |c| of an atom that may be the best one, less 2 u, so that rounding cannot raise it."""
    cut = (top.to(tl.float64) * (1 - 2.0**-23) - 2 * bound).to(tl.float32)
    return top if FAST else cut


@triton.jit
def _decide(near, column, number, r, atoms, width, place, best, correlation, LEVELS: tl.constexpr):
    """Correlate `number` candidates in float64, by rising index: an equal one does not replace an earlier one."""
    candidate = -1
    for _ in range(number):
        candidate = tl.min(tl.where(near & (column > candidate), column, 2147483647), axis=0)
        score = _fixed_sum(r * _atom(atoms, candidate, width, place), LEVELS)
        better = tl.abs(score) > tl.abs(correlation)
        best = tl.where(better, candidate, best)
        correlation = tl.where(better, score, correlation)
    return best, correlation


@triton.jit
def _subtract(r, a, best, left, off, atoms, width, place, growth, LEVELS: tl.constexpr):
    """Return r - a d, its energy, and the new bound on the error of c - a G[best]."""
    off += tl.abs(a) * growth + 2.0**-23 * tl.sqrt(left)
    r -= a * _atom(atoms, best, width, place)
    return r, _fixed_sum(r * r, LEVELS), off


@triton.jit
def on_chip(
    c,  # float32 [batch, atoms]: correlations with z
    z,  # float64 [batch, d_model]
    energy,  # float64 [batch], and so the next three
    least,
    faint,
    bound,
    atoms,  # [atoms, d_model]
    gram,  # float32 [atoms, atoms]
    indices,  # int32 [batch, k]: written, as are the next three
    coefficients,  # float64 [batch, k]
    left_over,  # float64 [batch]
    count,  # int32 [batch]: -1 where the row is left to `gram_torch`
    number_of_atoms,
    gram_stride,
    width,
    k,
    growth,  # of the bound, per |a|
    crowd,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
    FAST: tl.constexpr,
):
    """Take all steps of one row, with its correlations in registers."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    real = column < number_of_atoms
    place = tl.arange(0, 2**LEVELS)
    c_row = tl.load(c + row * number_of_atoms + column, mask=real, other=0.0)
    r = tl.load(z + row * width + place, mask=place < width, other=0.0)
    left, limit, smallest, off = tl.load(energy + row), tl.load(least + row), tl.load(faint + row), tl.load(bound + row)

    step = 0
    crowded = row < 0
    active = left > limit
    while active & (step < k):
        size = tl.abs(c_row)
        top = tl.max(tl.where(real, size, -1.0), axis=0)
        near = real & (size >= _cut(top, off, FAST))
        number = tl.sum(near.to(tl.int32), axis=0)
        if FAST:
            number = step * 0 + 1
        crowded = number > crowd
        number = tl.where(crowded, 0, number)
        best, correlation = _decide(near, column, number, r, atoms, width, place, step * 0, left * 0, LEVELS)
        picked = tl.abs(correlation) > smallest
        tl.store(indices + row * k + step, best, mask=picked)
        tl.store(coefficients + row * k + step, correlation, mask=picked)
        a = tl.where(picked, correlation, left * 0)  # if nothing is picked the row ends, and nothing below changes it
        r, left, off = _subtract(r, a, best, left, off, atoms, width, place, growth, LEVELS)
        gram_row = tl.load(gram + best.to(tl.int64) * gram_stride + column, mask=real, other=0.0)
        c_row -= a.to(tl.float32) * gram_row
        step += picked.to(tl.int32)
        active = picked & (left > limit)
    tl.store(left_over + row, left)
    tl.store(count + row, tl.where(crowded, -1, step))


@triton.jit
def streaming(
    c,  # as in `on_chip`, but overwritten
    z,
    energy,
    least,
    faint,
    bound,
    atoms,
    gram,
    indices,
    coefficients,
    left_over,
    count,
    number_of_atoms,
    gram_stride,
    width,
    k,
    growth,
    crowd,
    TILE: tl.constexpr,
    TILES: tl.constexpr,  # a power of two
    LEVELS: tl.constexpr,
    FAST: tl.constexpr,
):
    """Take all steps of one row, with its correlations in memory, TILE of them at a time."""
    row = tl.program_id(0).to(tl.int64)
    c_row = c + row * number_of_atoms
    place = tl.arange(0, 2**LEVELS)
    r = tl.load(z + row * width + place, mask=place < width, other=0.0)
    left, limit, smallest, off = tl.load(energy + row), tl.load(least + row), tl.load(faint + row), tl.load(bound + row)

    step = 0
    crowded = row < 0
    active = left > limit
    best, a = step * 0, left * 0  # of the step before
    while active & (step < k):
        tops = tl.full([TILES], -1.0, tl.float32)
        for tile in range(tl.cdiv(number_of_atoms, TILE)):
            column = tile * TILE + tl.arange(0, TILE)
            real = column < number_of_atoms
            part = tl.load(c_row + column, mask=real, other=0.0)
            # At the first step there is nothing to subtract yet.
            row_of_best = gram + best.to(tl.int64) * gram_stride
            part -= a.to(tl.float32) * tl.load(row_of_best + column, mask=real & (step > 0), other=0.0)
            tl.store(c_row + column, part, mask=real & (step > 0))
            top = tl.max(tl.where(real, tl.abs(part), -1.0), axis=0)
            tops = tl.where(tl.arange(0, TILES) == tile, top, tops)
        tl.debug_barrier()  # what one thread wrote another may read

        cut = _cut(tl.max(tops, axis=0), off, FAST)
        number, correlation = step * 0, left * 0
        for tile in range(tl.cdiv(number_of_atoms, TILE)):
            if tl.max(tl.where(tl.arange(0, TILES) == tile, tops, -1.0), axis=0) >= cut:
                column = tile * TILE + tl.arange(0, TILE)
                real = column < number_of_atoms
                near = real & (tl.abs(tl.load(c_row + column, mask=real, other=0.0)) >= cut)
                found = tl.sum(near.to(tl.int32), axis=0)
                if FAST:
                    found = tl.where(number == 0, 1, 0)
                number += found
                found = tl.where(number > crowd, 0, found)
                best, correlation = _decide(near, column, found, r, atoms, width, place, best, correlation, LEVELS)
        tl.debug_barrier()
        crowded = number > crowd
        correlation = tl.where(crowded, left * 0, correlation)
        picked = tl.abs(correlation) > smallest
        tl.store(indices + row * k + step, best, mask=picked)
        tl.store(coefficients + row * k + step, correlation, mask=picked)
        a = tl.where(picked, correlation, left * 0)  # if nothing is picked the row ends, and nothing below changes it
        r, left, off = _subtract(r, a, best, left, off, atoms, width, place, growth, LEVELS)
        step += picked.to(tl.int32)
        active = picked & (left > limit)
    tl.store(left_over + row, left)
    tl.store(count + row, tl.where(crowded, -1, step))
