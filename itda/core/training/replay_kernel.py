"""`replay` in Triton: one program for each row goes through its steps beside all new atoms. Only where Triton is."""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["number_of_new", "first"])  # each kind of number would be compiled anew
def first_changed(
    c,  # float32 [rows, width]: correlations of all atoms with the targets
    picks,  # int32 [rows, k]
    coefficients,  # float64 [rows, k]
    step,  # int32 [rows]
    left,  # float64 [rows], and so the next two
    least,
    energy,
    bound,  # of the error of c
    new,  # int32 [new]: atoms `first` + new are new
    born,  # int32 [atoms]: the rows that atoms come from, NEVER for those that are gone
    gram,  # int16 [atoms, width]
    changed,  # int32 [rows]: written
    growth,  # of the error, per |a|
    rounding,  # of what is computed here, per ||z||
    number_of_new,
    first,
    c_stride,
    gram_stride,
    k,
    SCALE: tl.constexpr,
    NEVER: tl.constexpr,
    TILE: tl.constexpr,
    STEPS: tl.constexpr,  # a power of two, no less than k
):
    """Write the first step of one row whose atom is gone or that a new atom may win, NEVER if there is none."""
    row = tl.program_id(0).to(tl.int64)
    steps, some = tl.load(step + row), tl.program_id(0) * 0
    taken = tl.arange(0, STEPS)
    own = tl.load(picks + row * k + taken, mask=taken < steps, other=0)
    gone = (tl.load(born + own, mask=taken < steps, other=0) == NEVER) & (taken < steps)
    found = tl.min(tl.where(gone, taken, NEVER), axis=0)
    least_off = tl.load(bound + row) + rounding * tl.sqrt(tl.load(energy + row))
    for tile in range(tl.cdiv(number_of_new, TILE)):
        at = tile * TILE + tl.arange(0, TILE)
        column = first + tl.load(new + at, mask=at < number_of_new, other=0)
        seen = (at < number_of_new) & (tl.load(born + column, mask=at < number_of_new, other=NEVER) < row)
        some = tl.maximum(some, tl.max(seen.to(tl.int32), axis=0))
        q = tl.load(c + row * c_stride + column, mask=seen, other=0.0).to(tl.float64)
        off, t, won = least_off, steps * 0, steps * 0
        while (t < steps) & (t < found) & (won == 0):
            weight = tl.load(coefficients + row * k + t)
            won = tl.max((seen & (tl.abs(q) + off >= tl.abs(weight))).to(tl.int32), axis=0)
            found = tl.where(won > 0, t, found)
            pick = tl.load(picks + row * k + t).to(tl.int64)
            q -= (weight / SCALE) * tl.load(gram + pick * gram_stride + column, mask=seen, other=0).to(tl.float64)
            off += tl.abs(weight) * growth
            t += 1
    # A row that had run out of atoms worth picking, or had none.
    wanting = (found == NEVER) & (some > 0) & (steps < k) & (tl.load(left + row) > tl.load(least + row))
    tl.store(changed + row, tl.where(wanting, steps, found))
