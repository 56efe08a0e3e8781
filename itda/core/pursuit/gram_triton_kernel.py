"""The Gram pursuit in Triton: one program per row takes all of its steps, with the bits of `plain`.

Import this only where Triton is; `gram_triton` starts the kernels. As in `gram_torch`, correlations c in float32 only
propose atoms, and those in float64 decide. What differs is where things are: the residual stays in registers, and so
does c in `on_chip`. `streaming`, for more atoms, keeps c in memory, and updates it and finds its maxima in one pass.

The bits are those of `plain` because the float64 operations are: sums are folded in the order of `fixed_order`, and
products and sums are compiled apart (`enable_fp_fusion=False`), since a fused multiply-add rounds once where `plain`
rounds twice.

What a step costs is mostly waiting: for memory, and for the warps of a program to exchange numbers. Hence

- number i of a residual belongs to thread i mod 32 WARPS, for up to 8 warps. Loads are contiguous over the threads of
  a warp, and the first folds of a sum are between numbers of one thread, the next between threads of one warp; only 8
  numbers are exchanged between warps, once, and each thread folds them by itself (`_in_halves`);
- a step has three exchanges: of the largest |c|, of the number of candidates and the first one, and of <r, d>;
- ||r||^2 is estimated, and summed only where it decides something (`_left_after`).
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, ANN202, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportMissingImports=false

import triton
import triton.language as tl

NONE = tl.constexpr(2147483647)
"""The column of no atom."""

DONE, CROWDED, NEEDS_ROW = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""Why a row stopped, as in `advance`; a test compares them."""


UNLIKE = ["number", "crowd"]
"""Arguments that change as a dictionary grows: for each kind of number a kernel would be compiled anew."""


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _lower(a, b):
    return tl.minimum(a, b)


@triton.jit
def _together(a, b):
    """Add two numbers of candidates, in the upper halves, and take the lower of two columns, in the lower halves."""
    first = tl.minimum(a & 0xFFFFFFFF, b & 0xFFFFFFFF)
    return (((a >> 32) + (b >> 32)) << 32) | first


@triton.jit
def _in_halves(x, SIZE: tl.constexpr, COMBINE: tl.constexpr):
    """Combine SIZE values, a power of two: value i and i + SIZE / 2, and so on.

    `split` wants what it splits in one thread, so the first one hands all values to all threads: one exchange.
    """
    for level in tl.static_range(5):
        if (SIZE >> level) > 2:
            a, b = tl.split(tl.trans(tl.reshape(x, (2, SIZE >> (level + 1)))))
            x = COMBINE(a, b)
        elif (SIZE >> level) == 2:
            a, b = tl.split(x)
            x = COMBINE(a, b)
    return x


@triton.jit
def _places(LANES: tl.constexpr):
    """Return the numbers 0 .. LANES - 1, of which no thread has two neighbours, for the folds of `_fixed_sum`."""
    return tl.max_contiguous(tl.arange(0, LANES), 1)


@triton.jit
def _columns(BLOCK: tl.constexpr, EACH: tl.constexpr):
    """Return the numbers 0 .. BLOCK - 1 as [1, BLOCK], of which each thread has EACH neighbours.

    Two axes make them unlike the numbers of a residual: tensors of one shape would be given one layout.
    """
    return tl.max_contiguous(tl.arange(0, BLOCK), EACH)[None, :]


@triton.jit
def _fixed_sum(terms, LANES: tl.constexpr):
    """Return `fixed_order.fixed_sum` of LANES terms, a power of two of at least 256."""
    for level in tl.static_range(16):
        if (LANES >> level) > 256:
            terms = tl.sum(tl.reshape(terms, (2, LANES >> (level + 1))), axis=0)
    terms = tl.sum(tl.reshape(terms, (8, 2, 16)), axis=1)
    terms = tl.sum(tl.reshape(terms, (8, 2, 8)), axis=1)
    terms = tl.sum(tl.reshape(terms, (8, 2, 4)), axis=1)
    terms = tl.sum(tl.reshape(terms, (8, 2, 2)), axis=1)
    return _in_halves(tl.sum(terms, axis=1), 8, _add) + 0.0


@triton.jit
def _atom(table, index, width, place):
    """Return an atom in float64, with zeros past its width."""
    return tl.load(table + index.to(tl.int64) * width + place, mask=place < width, other=0.0).to(tl.float64)


@triton.jit
def _by_warp(x, BLOCK: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr):
    """Arrange a block as [repeats, warps, numbers of a warp], which moves nothing where a thread has EACH in a row."""
    part: tl.constexpr = BLOCK // WARPS if BLOCK < 32 * EACH * WARPS else 32 * EACH
    return tl.reshape(x, (BLOCK // (part * WARPS), WARPS, part))


@triton.jit
def _largest(size, BLOCK: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr, COMPILED: tl.constexpr):
    """Return the largest number; compiled, what is not a number is passed over."""
    if not COMPILED:
        size = tl.where(size >= 0, size, -1.0)
    x = tl.max(tl.max(_by_warp(size, BLOCK, WARPS, EACH), axis=0), axis=1)
    return _in_halves(x, WARPS, _larger) if WARPS > 1 else tl.max(x, axis=0)


@triton.jit
def _lowest(column, BLOCK: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr):
    x = tl.min(tl.min(_by_warp(column, BLOCK, WARPS, EACH), axis=0), axis=1)
    return _in_halves(x, WARPS, _lower) if WARPS > 1 else tl.min(x, axis=0)


@triton.jit
def _number_and_first(near, column, BLOCK: tl.constexpr, WARPS: tl.constexpr, EACH: tl.constexpr):
    """Return how many columns are near the best, and the first of them."""
    number = tl.sum(tl.sum(_by_warp(near.to(tl.int32), BLOCK, WARPS, EACH), axis=0), axis=1)
    first = tl.min(tl.min(_by_warp(tl.where(near, column, NONE), BLOCK, WARPS, EACH), axis=0), axis=1)
    both = (number.to(tl.int64) << 32) | first.to(tl.int64)
    both = _in_halves(both, WARPS, _together) if WARPS > 1 else tl.max(both, axis=0)
    return (both >> 32).to(tl.int32), (both & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def _cut(top, off, FAST: tl.constexpr):
    """Return the least |c| of an atom that may be the best one, less 2 u, so that rounding cannot raise it."""
    cut = (top.to(tl.float64) * (1 - 2.0**-23) - 2 * off).to(tl.float32)
    return top if FAST else cut


@triton.jit
def _norm(left, slack):
    """Return no less than ||r||, or hardly less: it is for bounds that are doubled."""
    return tl.sqrt(tl.maximum(left + slack, 0.0).to(tl.float32)).to(tl.float64)


@triton.jit
def _fetch_ahead(gram_row, reach, LINES: tl.constexpr, LINE: tl.constexpr, COMPILED: tl.constexpr):
    """Bring the start of a Gram row nearer, to the second cache, while other things are waited for: lines of LINE."""
    if COMPILED:
        line = tl.minimum(tl.arange(0, LINES) * LINE, reach - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [gram_row + line], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def _left_after(left, slack, a, energy):
    """Return an estimate of ||r - a d||^2 from that of ||r||^2, and the largest error of it.

    It is ||r||^2 - 2 a <r, d> + a^2 ||d||^2, where a is <r, d> up to rounding and ||d||^2 is 1 up to 2.1e-5.
    """
    return left - a * a, slack + 2.5e-5 * a * a + 1e-11 * energy


@triton.jit
def _residual(z, picks, coefficients, steps, table, width, numbers):
    """Return z less the steps of a row so far, one after the other."""
    r = tl.load(z + numbers, mask=numbers < width, other=0.0)
    for t in range(steps):
        r -= tl.load(coefficients + t) * _atom(table, tl.load(picks + t), width, numbers)
    return r


@triton.jit
def residual_units(which, z, left_over, picks, coefficients, steps, table, unit, width, k, LANES: tl.constexpr):
    """Write the residual of one row, scaled to norm 1, in float32 [rows of this call, d_model]."""
    row = tl.load(which + tl.program_id(0)).to(tl.int64)
    numbers = _places(LANES)
    r = _residual(z + row * width, picks + row * k, coefficients + row * k, tl.load(steps + row), table, width, numbers)
    out = unit + tl.program_id(0).to(tl.int64) * width + numbers
    tl.store(out, (r / tl.sqrt(tl.load(left_over + row))).to(tl.float32), mask=numbers < width)


@triton.jit
def _less(c, gram_row, a, unit, column, reach, POLICY: tl.constexpr):
    """Return c - a G[j] for the columns of a tile; both have 0 or anything where there is no atom."""
    values = tl.load(gram_row + column, mask=column < reach, other=0, eviction_policy=POLICY)
    return tl.fma(values.to(tl.float32), (-a * unit).to(tl.float32), c)


@triton.jit
def _near(c, born, column, number, reach, row, cut, GROWING: tl.constexpr):
    """Tell which columns of a tile in memory have a |c| of `cut` or more, and are atoms that the row may see."""
    real = column < number
    near = real & (tl.abs(tl.load(c + column, mask=column < reach, other=0.0)) >= cut)
    if GROWING:
        near = near & (tl.load(born + column, mask=real, other=NONE) < row.to(tl.int32))
    return near


@triton.jit
def _slot_of(slots, atom, SLOTS: tl.constexpr):
    return tl.load(slots + atom) if SLOTS else atom


@triton.jit(do_not_specialize=UNLIKE)
def on_chip(
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
    c,  # float32 [some, c_stride], as in `advance.Correlations`, and so the next two
    applied,
    bound,
    table,  # [room, d_model], as in `advance.Atoms`, and so the next three
    gram,
    slots,
    born,
    number,
    c_stride,
    gram_stride,
    reach,  # columns of c and the Gram matrix that may be read: `number` or a few more, which may hold anything
    width,
    k,
    growth,  # of the bound, per |a|
    coarse,  # only a larger bound than this, per ||r||, lets a row pause
    unit,  # 1 / SCALE
    crowd,  # more candidates than this in the steps of this call, beside the picks, let a row pause
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    WARPS: tl.constexpr,
    EACH: tl.constexpr,  # neighbouring columns that a thread has
    SLOTS: tl.constexpr,
    GROWING: tl.constexpr,
    FAST: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """Take one row as far as it goes, with its correlations in registers."""
    row = tl.load(which + tl.program_id(0)).to(tl.int64)
    at = tl.load(place + tl.program_id(0)).to(tl.int64)
    picks += row * k
    coefficients += row * k
    column = _columns(BLOCK, EACH)
    numbers = _places(LANES)
    step, whole = tl.load(steps + row), tl.load(energy + row)
    limit, smallest = tl.load(least + row), tl.load(faint + row)

    r = _residual(z + row * width, picks, coefficients, step, table, width, numbers)
    left = _fixed_sum(r * r, LANES)
    slack = left * 0

    # What is not an atom, or not one that this row may see, is not a number: it is in no maximum, and near nothing.
    c_row = tl.load(c + at * c_stride + column, mask=column < reach, other=float("nan"))
    c_row = tl.where(column < number, c_row, float("nan"))
    if GROWING:
        c_row = tl.where(
            tl.load(born + column, mask=column < number, other=NONE) < row.to(tl.int32), c_row, float("nan")
        )
    off = tl.load(bound + at)
    why = step * 0
    looked = step * 0  # candidates beside the picks
    for t in range(tl.load(applied + at), step):
        a, slot = tl.load(coefficients + t), _slot_of(slots, tl.load(picks + t), SLOTS)
        if slot < 0:
            why = step * 0 + NEEDS_ROW
        else:
            c_row = _less(c_row, gram + slot.to(tl.int64) * gram_stride, a, unit, column, reach, "")
            off += tl.abs(a) * growth + 2.0**-23 * _norm(whole, slack)

    going = (left > limit) & (why == 0)
    while going & (step < k):
        size = tl.abs(c_row)
        top = _largest(size, BLOCK, WARPS, EACH, COMPILED)
        near = size >= _cut(top, off, FAST)
        found, best = _number_and_first(near, column, BLOCK, WARPS, EACH)
        if FAST:
            found = tl.minimum(found, 1)
        crowded = (looked + found > crowd) & (off > coarse * _norm(left, slack))
        if crowded | (found == 0):
            why = crowded.to(tl.int32) * CROWDED
            going = row < 0
        else:
            slot = _slot_of(slots, best, SLOTS)
            _fetch_ahead(gram + tl.maximum(slot, 0).to(tl.int64) * gram_stride, reach, BLOCK // 64, 64, COMPILED)
            correlation = _fixed_sum(r * _atom(table, best, width, numbers), LANES)
            looked += found - 1
            if found > 1:
                candidate = best
                for _ in range(1, found):
                    candidate = _lowest(tl.where(near & (column > candidate), column, NONE), BLOCK, WARPS, EACH)
                    other = _fixed_sum(r * _atom(table, candidate, width, numbers), LANES)
                    better = tl.abs(other) > tl.abs(correlation)  # by rising index: an equal one wins nothing
                    best = tl.where(better, candidate, best)
                    correlation = tl.where(better, other, correlation)
                slot = _slot_of(slots, best, SLOTS)
            going = tl.abs(correlation) > smallest
            if going:
                tl.store(picks + step, best)
                tl.store(coefficients + step, correlation)
                step += 1
                r -= correlation * _atom(table, best, width, numbers)
                norm = _norm(left, slack)
                left, slack = _left_after(left, slack, correlation, whole)
                if left - slack <= limit:
                    left, slack = _fixed_sum(r * r, LANES), slack * 0
                    going = left > limit
                if going & (step < k):
                    if slot < 0:
                        why = step * 0 + NEEDS_ROW
                        going = row < 0
                    else:
                        gram_row = gram + slot.to(tl.int64) * gram_stride
                        c_row = _less(c_row, gram_row, correlation, unit, column, reach, "")
                        off += tl.abs(correlation) * growth + 2.0**-23 * norm
    if slack > 0:
        left = _fixed_sum(r * r, LANES)
    tl.store(steps + row, step)
    tl.store(left_over + row, left)
    tl.store(status + row, why)


@triton.jit(do_not_specialize=UNLIKE)
def streaming(
    which,  # as in `on_chip`, but c, `applied` and `bound` are brought up to date
    place,
    z,
    energy,
    least,
    faint,
    picks,
    coefficients,
    steps,
    left_over,
    status,
    c,
    applied,
    bound,
    table,
    gram,
    slots,
    born,
    number,
    c_stride,
    gram_stride,
    reach,
    width,
    k,
    growth,
    coarse,
    unit,
    crowd,
    BLOCK: tl.constexpr,  # columns of a tile
    LINES: tl.constexpr,  # lines of a Gram row, of 64 numbers each, that are fetched ahead: a power of two
    LANES: tl.constexpr,
    WARPS: tl.constexpr,
    EACH: tl.constexpr,  # neighbouring columns that a thread has
    SLOTS: tl.constexpr,
    GROWING: tl.constexpr,
    FAST: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """Take one row as far as it goes, with its correlations in memory, a tile of them at a time."""
    row = tl.load(which + tl.program_id(0)).to(tl.int64)
    at = tl.load(place + tl.program_id(0)).to(tl.int64)
    picks += row * k
    coefficients += row * k
    c += at * c_stride
    column = _columns(BLOCK, EACH)
    numbers = _places(LANES)
    step, whole = tl.load(steps + row), tl.load(energy + row)
    limit, smallest = tl.load(least + row), tl.load(faint + row)
    tiles = tl.cdiv(number, BLOCK)

    r = _residual(z + row * width, picks, coefficients, step, table, width, numbers)
    left = _fixed_sum(r * r, LANES)
    slack = left * 0
    off, done = tl.load(bound + at), tl.load(applied + at)
    why = step * 0
    looked = step * 0  # candidates beside the picks
    for t in range(done, step):
        if _slot_of(slots, tl.load(picks + t), SLOTS) < 0:
            why = step * 0 + NEEDS_ROW
    if (why == 0) & (done < step):
        for tile in range(tiles):
            here = tile * BLOCK + column
            part = tl.load(c + here, mask=here < reach, other=0.0)
            for t in range(done, step):
                slot = _slot_of(slots, tl.load(picks + t), SLOTS)
                a, gram_row = tl.load(coefficients + t), gram + slot.to(tl.int64) * gram_stride
                part = _less(part, gram_row, a, unit, here, reach, "evict_first")
            tl.store(c + here, part, mask=here < reach)
        for t in range(done, step):
            off += tl.abs(tl.load(coefficients + t)) * growth + 2.0**-23 * _norm(whole, slack)
        done = step
        tl.debug_barrier()  # what one thread wrote another may read

    going = (left > limit) & (why == 0)
    a, gram_row = left * 0, gram  # of the step before, if c does not account for it yet
    while going & (step < k):
        # In one pass: bring c up to date, and find the two largest |c| of each column of the tiles.
        largest = tl.full([1, BLOCK], -1.0, tl.float32)
        second = largest
        where = tl.zeros([1, BLOCK], tl.int32)
        for tile in range(tiles):
            here = tile * BLOCK + column
            real = here < number
            part = tl.load(c + here, mask=here < reach, other=0.0, eviction_policy="evict_last")
            if done < step:
                part = _less(part, gram_row, a, unit, here, reach, "evict_first")
                tl.store(c + here, part, mask=here < reach, eviction_policy="evict_last")
            if GROWING:
                real = real & (tl.load(born + here, mask=real, other=NONE) < row.to(tl.int32))
            size = tl.where(real, tl.abs(part), -1.0)
            second = tl.maximum(second, tl.minimum(largest, size))
            where = tl.where(size > largest, tile, where)
            largest = tl.maximum(largest, size)
        done = step
        tl.debug_barrier()
        top = _largest(largest, BLOCK, WARPS, EACH, True)
        cut = _cut(top, off, FAST)
        near = (largest >= cut) & (largest >= 0)
        found, best = _number_and_first(near, where * BLOCK + column, BLOCK, WARPS, EACH)
        second = tl.where((second >= cut) & (second >= 0), 1, 0)
        more, _ = _number_and_first(second > 0, column, BLOCK, WARPS, EACH)
        crowded = row < 0
        found += more  # no less than 2 where there are 2, which is all that is asked of it
        if FAST:
            found = tl.minimum(found, 1)
        slot = 0 * best
        correlation = left * 0
        if (found == 1) & (crowd > 0):
            slot = _slot_of(slots, best, SLOTS)
            _fetch_ahead(gram + tl.maximum(slot, 0).to(tl.int64) * gram_stride, reach, LINES, 64, COMPILED)
            correlation = _fixed_sum(r * _atom(table, best, width, numbers), LANES)
        elif found > 0:
            many = tl.zeros([1, BLOCK], tl.int32)
            for tile in range(tiles):
                many += _near(c, born, tile * BLOCK + column, number, reach, row, cut, GROWING).to(tl.int32)
            found = tl.sum(tl.sum(many, axis=1), axis=0)
            crowded = (looked + found > crowd) & (off > coarse * _norm(left, slack))
            looked += found - 1
            if crowded == 0:
                for tile in range(tiles):
                    here = tile * BLOCK + column
                    near = _near(c, born, here, number, reach, row, cut, GROWING)
                    number_here, candidate = _number_and_first(near, here, BLOCK, WARPS, EACH)
                    for _ in range(number_here):
                        other = _fixed_sum(r * _atom(table, candidate, width, numbers), LANES)
                        better = tl.abs(other) > tl.abs(correlation)  # by rising index: an equal one wins nothing
                        best = tl.where(better, candidate, best)
                        correlation = tl.where(better, other, correlation)
                        candidate = _lowest(tl.where(near & (here > candidate), here, NONE), BLOCK, WARPS, EACH)
                slot = _slot_of(slots, best, SLOTS)
        tl.debug_barrier()
        why = crowded.to(tl.int32) * CROWDED
        going = tl.abs(correlation) > smallest
        if going:
            tl.store(picks + step, best)
            tl.store(coefficients + step, correlation)
            step += 1
            r -= correlation * _atom(table, best, width, numbers)
            norm = _norm(left, slack)
            left, slack = _left_after(left, slack, correlation, whole)
            if left - slack <= limit:
                left, slack = _fixed_sum(r * r, LANES), slack * 0
                going = left > limit
            if going & (step < k):
                if slot < 0:
                    why = step * 0 + NEEDS_ROW
                    going = row < 0
                else:
                    a, gram_row = correlation, gram + slot.to(tl.int64) * gram_stride
                    off += tl.abs(correlation) * growth + 2.0**-23 * norm
    if slack > 0:
        left = _fixed_sum(r * r, LANES)
    tl.store(steps + row, step)
    tl.store(left_over + row, left)
    tl.store(status + row, why)
    tl.store(applied + at, done)
    tl.store(bound + at, off)
