"""The kernel on chip for twice as many atoms: correlations in 16 bits, two in a register, with the bits of `plain`.

Import this only where Triton is. Columns 2 p and 2 p + 1 are a pair: the lower and the upper half of an int32. A half
is a whole number q, and the correlation c_j is q_j s, with a quantum s of the row. As in the other kernels c only
proposes atoms, and float64 decides; what 16 bits cost is added to the bound on the error of c:

- s / 2 for rounding c / s at first, and s / 2 for rounding a G[j] / s at each step: the sums are whole numbers, and
  exact. The bound counts 0.52 s, and so covers what float32 rounds in a quotient or product of less than 2^15;
- nothing overflows: before a G[j] is subtracted, `_shift` asks that the largest |q|, and |a| / s, and what rounding
  adds, come to less than 2^15 together, and where not, all q are halved and s is doubled, which costs up to the new s;
- where q and s leave room, q is doubled and s halved, which rounds nothing. So s stays within about 2^-14 of the
  largest |c|, however small that gets, and a step adds about as much as does an entry of G in 16 bits.

A float32 of 2^23 or more is a whole number, whose lower bits are those of its float: sums with such constants take the
place of conversions, which a GPU does at an eighth of the speed.
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportMissingImports=false

import triton
import triton.language as tl

from itda.core.pursuit.gram_triton_kernel import (
    CROWDED,
    NONE,
    UNLIKE,
    _atom,
    _by_warp,
    _columns,
    _fetch_ahead,
    _fixed_sum,
    _in_halves,
    _larger,
    _left_after,
    _lower,
    _norm,
    _places,
    _residual,
    _together,
)

WHOLE = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 of less than 2^15 it rounds that, and its 16 lower bits are those of the result."""

BIASED = tl.constexpr(8421376.0)
"""2^23 + 2^15, whose bits end in 16 that are no more than 0x8000; exclusive or with a 16-bit number adds that to it."""

BITS = tl.constexpr(0x4B008000)
"""The bits of `BIASED`."""

UPPER = tl.constexpr(-65536)
"""The bits of an upper half."""


@triton.jit
def _pack(low, high):
    """Return pairs from the lower halves of two int32."""
    return (low & 0xFFFF) | (high << 16)


@triton.jit
def _quotients(c, inverse, real):
    """Return round(c / s) in the lower half of an int32, and 0 for what is not an atom; c is given by its bits."""
    x = tl.fma(c.to(tl.int32).to(tl.float32, bitcast=True), inverse, WHOLE)
    return tl.where(real, x.to(tl.int32, bitcast=True), 0)


@triton.jit
def _packed(c, inverse, pair, number, reach):
    """Return the pairs of a row of c in float32, which is read as int64: two columns at once."""
    both = tl.load(c + pair, mask=pair < reach, other=0)
    low = _quotients(both, inverse, 2 * pair < number)
    return _pack(low, _quotients(both >> 32, inverse, 2 * pair + 1 < number))


@triton.jit
def _less_packed(q, gram_row, weight, pair, reach):
    """Return q - round(a G[j] / s), where `weight` is -a / s by the unit of G."""
    g = tl.load(gram_row + pair, mask=pair < reach, other=0)
    low = ((g & 0xFFFF) ^ BITS).to(tl.float32, bitcast=True) - BIASED
    high = (((g >> 16) & 0xFFFF) ^ BITS).to(tl.float32, bitcast=True) - BIASED
    low = tl.fma(low, weight, WHOLE).to(tl.int32, bitcast=True)
    high = tl.fma(high, weight, WHOLE).to(tl.int32, bitcast=True)
    return ((q + low) & 0xFFFF) | ((q + (high << 16)) & UPPER)


@triton.jit
def _exponent(x):
    """Return the whole part of log2 x for a positive normal float32."""
    return (x.to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _power(exponent):
    """Return 2^exponent in float64, for exponents of -126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _shift(top, change):
    """Return how often to double all q, or less 0 to halve them, before `change` = |a| / s times G[j] is subtracted.

    q is then less than 2^15: |G| <= 32767 / 32700. Doubling waits until there is an eighth of room beyond that, or it
    would be undone at once.
    """
    most = (top.to(tl.float64) + 1.01 * change + 2.0).to(tl.float32)
    down, up = 14 - _exponent(most), 14 - _exponent(1.125 * most)
    return tl.where(down < 0, tl.maximum(down, -15), tl.maximum(up, 0))


@triton.jit
def _shifted(q, shift):
    """Return pairs doubled `shift` times, or halved."""
    up, down = tl.maximum(shift, 0), tl.maximum(-shift, 0)
    low = (q << (16 + up)) >> (16 + down)
    return (low & 0xFFFF) | (((q & UPPER) << up >> down) & UPPER)


@triton.jit
def _quantum(norm, off):
    """Return s, and 1 / s, for correlations with a residual of some norm that are off by up to `off`.

    |c_j| <= 1.00002 ||r|| + off, so that |q| is no more than 32,000.
    """
    quantum = tl.maximum((1.0001 * norm + off) * (1 / 32000), 2.0**-100)
    return quantum, (1 / quantum.to(tl.float32)).to(tl.float64)


@triton.jit
def _with_room(q0, q1, q2, q3, top, a, quantum, inverse, off):
    """Return the quarters of a row with room to subtract a G[j], with s, 1 / s and the bound on the error."""
    shift = _shift(top, tl.abs(a) * inverse)
    if shift != 0:
        q0, q1, q2, q3 = _shifted(q0, shift), _shifted(q1, shift), _shifted(q2, shift), _shifted(q3, shift)
        quantum *= _power(-shift)
        inverse *= _power(shift)
        if shift < 0:
            off += quantum
    return q0, q1, q2, q3, quantum, inverse, off


@triton.jit
def _largest_here(q, PART: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr):
    """Return the largest |q| of a quarter, of those in each place of a warp: it moves nothing between threads."""
    high = _by_warp(q, PART, WARPS, EACH)  # as a whole, a pair is sorted by its upper half
    low = high << 16
    size = tl.maximum(tl.max(high, axis=0) >> 16, -(tl.min(high, axis=0) >> 16))
    return tl.maximum(size, tl.maximum(tl.max(low, axis=0) >> 16, -(tl.min(low, axis=0) >> 16)))


@triton.jit
def _low_is_near(q, lift, span):
    """Tell where the lower half has a |q| of some number or more, given as 0 <= q + number - 1 < 2 number - 1.

    `lift` is number - 1 and `span` the 2 number - 1 in an upper half, where what is negative is large, with no sign.
    """
    # Not as (q << 16) + ..: a shift that `_largest_here` has too would be kept, in registers that are not there.
    return ((q + lift) << 16).to(tl.uint32, bitcast=True) >= span


@triton.jit
def _high_is_near(q, lift, span):
    """Tell where the upper half has."""
    return (q + (lift << 16)).to(tl.uint32, bitcast=True) >= span


@triton.jit
def _halves(QUARTER: tl.constexpr, pairs):
    """Number the columns of each place of a warp: return the numbers of lower halves. Those of upper ones follow."""
    repeats: tl.constexpr = pairs.shape[0]
    return 2 * (QUARTER * repeats + tl.arange(0, repeats)[:, None, None])


@triton.jit
def _column(half, WARPS: tl.constexpr):
    """Return the column that has a number, for each place of a warp."""
    part: tl.constexpr = half.shape[1]
    place = tl.arange(0, WARPS)[:, None] * part + tl.arange(0, part)[None, :]
    return 2 * ((half >> 1) * (WARPS * part) + place) + (half & 1)


@triton.jit
def _marks(q, lift, span, QUARTER: tl.constexpr, PART: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr):
    """Mark the columns of a quarter that are near the best, summed for each place of a warp.

    A mark is 2^16 and the number of the column in its place: there are no more than 256, so that neither sum runs into
    the other.
    """
    pairs = _by_warp(q, PART, WARPS, EACH)
    mark = 65536 + _halves(QUARTER, pairs)
    marks = tl.where(_low_is_near(pairs, lift, span), mark, 0)
    marks += tl.where(_high_is_near(pairs, lift, span), mark + 1, 0)
    return tl.sum(marks, axis=0)


@triton.jit
def _number_and_one(marks, WARPS: tl.constexpr):
    """Return how many columns are marked, and the column if it is one; if there are more, anything."""
    column = tl.where(marks >= 65536, _column(marks & 0xFFFF, WARPS), NONE)
    both = (tl.sum(marks >> 16, axis=1).to(tl.int64) << 32) | tl.min(column, axis=1).to(tl.int64)
    both = _in_halves(both, WARPS, _together)
    return (both >> 32).to(tl.int32), (both & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def _passed(start, like, WARPS: tl.constexpr):
    """Return how many columns of each place of a warp come before column `start`."""
    part: tl.constexpr = like.shape[1]
    place = tl.arange(0, WARPS)[:, None] * part + tl.arange(0, part)[None, :]
    pair = start >> 1
    here = pair % (WARPS * part)
    return 2 * (pair // (WARPS * part)) + tl.where(place < here, 2, tl.where(place == here, start & 1, 0))


@triton.jit
def _next(q, lift, span, passed, QUARTER: tl.constexpr, PART: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr):
    """Return the number of the first column of a quarter that is near the best, of those not passed, by place."""
    pairs = _by_warp(q, PART, WARPS, EACH)
    half = _halves(QUARTER, pairs)
    low = tl.where(_low_is_near(pairs, lift, span) & (half >= passed[None, :, :]), half, NONE)
    high = tl.where(_high_is_near(pairs, lift, span) & (half + 1 >= passed[None, :, :]), half + 1, NONE)
    return tl.min(tl.minimum(low, high), axis=0)


@triton.jit(do_not_specialize=UNLIKE)
def packed(
    which,  # int32 [rows of this call]: the row that a program takes
    place,  # int32 [rows of this call]: where its correlations are
    z,  # float64 [rows, d_model], as in `advance.Rows`, and so on to `status`
    energy,
    least,
    faint,
    picks,
    coefficients,
    steps,
    left_over,
    status,
    c,  # int64 [some, c_stride]: pairs of float32, as in `advance.Correlations`, and so the next two
    applied,
    bound,
    table,  # [room, d_model], as in `advance.Atoms`, and so the next
    gram,  # int32 [atoms, gram_stride]: pairs of int16, of which those past the atoms are 0
    number,
    c_stride,
    gram_stride,
    reach,  # pairs of c and the Gram matrix that may be read
    width,
    k,
    growth,  # of the bound, per |a|
    coarse,  # only a larger bound than this, per ||r||, lets a row pause
    unit,  # 1 / SCALE
    crowd,  # more candidates than this in the steps of this call, beside the picks, let a row pause
    PAIRS: tl.constexpr,
    LANES: tl.constexpr,
    WARPS: tl.constexpr,
    EACH: tl.constexpr,  # neighbouring pairs that a thread has
    FAST: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """Take one row as far as it goes, with its correlations in registers, in 16 bits."""
    row = tl.load(which + tl.program_id(0)).to(tl.int64)
    at = tl.load(place + tl.program_id(0)).to(tl.int64)
    picks += row * k
    coefficients += row * k
    # Pairs come in four quarters, or the compiler would ask for a whole Gram row at once, in registers it has not.
    PART: tl.constexpr = PAIRS // 4
    pair = _columns(PART, EACH)
    numbers = _places(LANES)
    step, whole = tl.load(steps + row), tl.load(energy + row)
    limit, smallest = tl.load(least + row), tl.load(faint + row)

    r = _residual(z + row * width, picks, coefficients, step, table, width, numbers)
    left = _fixed_sum(r * r, LANES)
    slack = left * 0
    off, done = tl.load(bound + at), tl.load(applied + at)
    # Of what was left when c was computed.
    then = _norm(tl.where(done < step, whole, left), slack)
    quantum, inverse = _quantum(then, off)
    c_row, scale = c + at * c_stride, inverse.to(tl.float32)
    q0 = _packed(c_row, scale, pair, number, reach)
    q1 = _packed(c_row, scale, PART + pair, number, reach)
    q2 = _packed(c_row, scale, 2 * PART + pair, number, reach)
    q3 = _packed(c_row, scale, 3 * PART + pair, number, reach)
    off += 0.52 * quantum

    why = step * 0
    looked = step * 0  # candidates beside the picks
    going = (left > limit) & (step < k)
    while going:
        largest = tl.maximum(_largest_here(q0, PART, WARPS, EACH), _largest_here(q1, PART, WARPS, EACH))
        largest = tl.maximum(largest, _largest_here(q2, PART, WARPS, EACH))
        largest = tl.maximum(largest, _largest_here(q3, PART, WARPS, EACH))
        top = _in_halves(tl.max(largest, axis=1), WARPS, _larger)
        if done < step:  # c does not account for all steps yet
            best, a = tl.load(picks + done), tl.load(coefficients + done)
        else:
            # The least |q| of an atom that may be the best one.
            cut = tl.floor(tl.maximum(top.to(tl.float64) - 2 * off * inverse, -1.0).to(tl.float32)).to(tl.int32)
            if FAST:
                cut = top
            lift = tl.maximum(cut, 1) - 1
            span = tl.where(cut < 1, 0, (2 * lift + 1) << 16).to(tl.uint32, bitcast=True)
            marks = _marks(q0, lift, span, 0, PART, WARPS, EACH) + _marks(q1, lift, span, 1, PART, WARPS, EACH)
            marks += _marks(q2, lift, span, 2, PART, WARPS, EACH) + _marks(q3, lift, span, 3, PART, WARPS, EACH)
            found, best = _number_and_one(marks, WARPS)
            alone = (found == 1) & (cut >= 1)
            if cut < 1:  # every atom may be the best; columns past them come after all
                found = number
            a = left * 0
            crowded = (looked + found > crowd) & (off > coarse * _norm(left, slack))
            if crowded:
                why = crowded.to(tl.int32) * CROWDED
                going = row < 0
            else:
                candidate = best
                if alone:
                    _fetch_ahead(gram + best.to(tl.int64) * gram_stride, reach, PAIRS // 32, 32, COMPILED)
                else:
                    candidate, best = step * 0 - 1, step * 0
                looked += found - 1
                for _ in range(1 if FAST else found):
                    if alone == 0:
                        passed = _passed(candidate + 1, marks, WARPS)
                        # Adds 0, which the compiler does not know: or it would keep what this needs of every column.
                        lift += (candidate + 1) >> 17
                        first = tl.minimum(
                            _next(q0, lift, span, passed, 0, PART, WARPS, EACH),
                            _next(q1, lift, span, passed, 1, PART, WARPS, EACH),
                        )
                        first = tl.minimum(first, _next(q2, lift, span, passed, 2, PART, WARPS, EACH))
                        first = tl.minimum(first, _next(q3, lift, span, passed, 3, PART, WARPS, EACH))
                        first = tl.where(first < NONE, _column(first, WARPS), NONE)
                        candidate = _in_halves(tl.min(first, axis=1), WARPS, _lower)
                    other = _fixed_sum(r * _atom(table, candidate, width, numbers), LANES)
                    better = tl.abs(other) > tl.abs(a)  # by rising index: an equal one wins nothing
                    best = tl.where(better, candidate, best)
                    a = tl.where(better, other, a)
                going = tl.abs(a) > smallest
                if going:
                    tl.store(picks + step, best)
                    tl.store(coefficients + step, a)
                    step += 1
                    r -= a * _atom(table, best, width, numbers)
                    left, slack = _left_after(left, slack, a, whole)
                    if left - slack <= limit:
                        left, slack = _fixed_sum(r * r, LANES), slack * 0
                        going = left > limit
                    going = going & (step < k)
        if going:
            q0, q1, q2, q3, quantum, inverse, off = _with_room(q0, q1, q2, q3, top, a, quantum, inverse, off)
            weight = (-a * unit * inverse).to(tl.float32)
            gram_row = gram + best.to(tl.int64) * gram_stride
            q0 = _less_packed(q0, gram_row, weight, pair, reach)
            q1 = _less_packed(q1, gram_row, weight, PART + pair, reach)
            q2 = _less_packed(q2, gram_row, weight, 2 * PART + pair, reach)
            q3 = _less_packed(q3, gram_row, weight, 3 * PART + pair, reach)
            off += tl.abs(a) * growth + 0.52 * quantum
            done += 1
    if slack > 0:
        left = _fixed_sum(r * r, LANES)
    tl.store(steps + row, step)
    tl.store(left_over + row, left)
    tl.store(status + row, why)
