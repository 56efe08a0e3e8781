"""Matching pursuit by a Gram matrix in Triton: one program per row does all k steps, with the bits of `plain`.

Import this only where Triton is, as `gpu` does. As in `portable`, float32 correlations c only propose atoms; float64
correlations decide. What differs is where things are: the residual stays in registers, and so does c in `_on_chip`.
`_streaming`, for dictionaries too large for that, keeps c in memory, and updates it and finds its maxima in one pass.

The bits are those of `plain` because the float64 operations are. The terms of a sum are held in such an order that
halving the tensor adds the same pairs as `exact.fixed_sum`; and products and sums are compiled apart
(`enable_fp_fusion=False`), since a fused multiply-add rounds once where `plain` rounds twice.
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN202, N803, RET504
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.pursuit import portable
from itda.core.pursuit.exact import full_precision_products
from itda.core.pursuit.portable import Codes, Start

REGISTERS = 160 * 1024
"""Bytes of c and of a residual, padded to powers of two, that `_on_chip` may hold of the 256 KiB of registers of an
SM. Compiled for an H100, 2^14 atoms by 4096 fit without spilling; at this limit 50 instructions per step spill."""


@triton.jit
def _fixed_sum(terms, LEVELS: tl.constexpr):
    """`exact.fixed_sum` of 2 ** LEVELS terms in the order of `fold_order`: a sum of two has no order to choose."""
    for level in tl.static_range(LEVELS):
        terms = tl.sum(tl.reshape(terms, (2, 2 ** (LEVELS - 1 - level))), axis=0)
    return tl.sum(terms, axis=0)


@triton.jit
def _atom(atoms, index, width, place):
    """Atom `index` in float64; the places that `fold_order` leaves empty are 0."""
    return tl.load(atoms + index.to(tl.int64) * width + place, mask=place >= 0, other=0.0).to(tl.float64)


@triton.jit
def _cut(top, bound, FAST: tl.constexpr):
    """What |c| an atom needs so that it may be the best one; with 2 u off, so that rounding it cannot raise it."""
    cut = (top.to(tl.float64) * (1 - 2.0**-23) - 2 * bound).to(tl.float32)
    return top if FAST else cut


@triton.jit
def _decide(near, column, number, r, atoms, width, place, best, correlation, LEVELS: tl.constexpr):
    """Correlate `number` candidates exactly, by rising index: an equal one does not replace an earlier one."""
    candidate = -1
    for _ in range(number):
        candidate = tl.min(tl.where(near & (column > candidate), column, 2147483647), axis=0)
        score = _fixed_sum(r * _atom(atoms, candidate, width, place), LEVELS)
        better = tl.abs(score) > tl.abs(correlation)
        best = tl.where(better, candidate, best)
        correlation = tl.where(better, score, correlation)
    return best, correlation


@triton.jit
def _on_chip(
    c,  # float32 [batch, atoms]: correlations with z
    z,  # float64 [batch, d_model]
    energy,  # float64 [batch], and so the next three
    least,
    faint,
    bound,
    atoms,  # [atoms, d_model]
    gram,  # float32 [atoms, atoms]
    order,  # int32 [2 ** LEVELS]: fold_order(d_model)
    indices,  # int32 [batch, k]: written, as are the next three
    coefficients,  # float64 [batch, k]
    left_over,  # float64 [batch]
    count,  # int32 [batch]: -1 where the row is left to `portable`
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
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    real = column < number_of_atoms
    place = tl.load(order + tl.arange(0, 2**LEVELS))
    c_row = tl.load(c + row * number_of_atoms + column, mask=real, other=0.0)
    r = tl.load(z + row * width + place, mask=place >= 0, other=0.0)
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
            number = number * 0 + 1
        crowded = number > crowd
        number = tl.where(crowded, 0, number)
        best, correlation = _decide(near, column, number, r, atoms, width, place, step * 0, left * 0, LEVELS)
        picked = tl.abs(correlation) > smallest
        tl.store(indices + row * k + step, best, mask=picked)
        tl.store(coefficients + row * k + step, correlation, mask=picked)
        # If nothing is picked the row ends here, and nothing below changes it.
        a = tl.where(picked, correlation, left * 0)
        off += tl.abs(a) * growth + 2.0**-23 * tl.sqrt(left)
        r -= a * _atom(atoms, best, width, place)
        left = _fixed_sum(r * r, LEVELS)
        gram_row = tl.load(gram + best.to(tl.int64) * gram_stride + column, mask=real, other=0.0)
        c_row -= a.to(tl.float32) * gram_row
        step += picked.to(tl.int32)
        active = picked & (left > limit)
    tl.store(left_over + row, left)
    tl.store(count + row, tl.where(crowded, -1, step))


@triton.jit
def _streaming(
    c,  # as in `_on_chip`, but overwritten
    z,
    energy,
    least,
    faint,
    bound,
    atoms,
    gram,
    order,
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
    row = tl.program_id(0).to(tl.int64)
    c_row = c + row * number_of_atoms
    place = tl.load(order + tl.arange(0, 2**LEVELS))
    r = tl.load(z + row * width + place, mask=place >= 0, other=0.0)
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
        picked = (tl.abs(correlation) > smallest) & (number <= crowd)
        tl.store(indices + row * k + step, best, mask=picked)
        tl.store(coefficients + row * k + step, correlation, mask=picked)
        a = tl.where(picked, correlation, left * 0)
        off += tl.abs(a) * growth + 2.0**-23 * tl.sqrt(left)
        r -= a * _atom(atoms, best, width, place)
        left = _fixed_sum(r * r, LEVELS)
        step += picked.to(tl.int32)
        active = picked & (left > limit)
    tl.store(left_over + row, left)
    tl.store(count + row, tl.where(crowded, -1, step))


def pursue_triton(
    targets: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    k: int,
    pursuit: str = "mp",
    *,
    enough: float = 0.0,
    gram: Float32[Tensor, "atoms atoms"] | None = None,
    fast: bool = False,
    on_chip: bool | None = None,
    tile: int = 4096,
    crowd: int = portable.CROWD,
) -> Codes:
    """`plain.pursue`, to the bit; `gram` as in `portable.pursue`, and `omp` by it.

    `fast` is approximate: the pick is the largest entry of c as it stands, from a product that may be in TF32, so picks
    may differ where two atoms fit nearly as well. Coefficients and what is left are exact for the picks made.

    No setting below changes a result. `on_chip` picks the kernel (None: by `fits_on_chip`), `tile` the columns that
    `_streaming` takes at once; rows with more than `crowd` candidates are left to `portable`, which can refine c.
    """
    if pursuit == "omp" or len(atoms) == 0 or len(targets) == 0:
        return portable.pursue(targets, atoms, k, pursuit, enough=enough, gram=gram)
    atoms = atoms.contiguous()
    if gram is None:
        gram = portable.gram_of(atoms)
    if gram.stride(1) != 1:
        gram = gram.contiguous()
    if on_chip is None:
        on_chip = fits_on_chip(*atoms.shape)
    parts = []
    for part in targets.split(portable.rows_at_once(max(atoms.shape), targets.device)):
        start = Start.of(part, enough)
        codes, unfinished = _launch(start, atoms, gram, k, pursuit, part.dtype, fast, on_chip, tile, crowd)
        if len(unfinished) > 0:
            redone = portable.pursue(part[unfinished], atoms, k, pursuit, enough=enough, gram=gram)
            for kept, new in zip(_tensors(codes), _tensors(redone), strict=True):
                kept[unfinished] = new
        parts.append(codes)
    return portable.joined(parts)


def fits_on_chip(atoms: int, d_model: int) -> bool:
    """Whether the registers hold the correlations of one row with all atoms, and its residual."""
    return 4 * triton.next_power_of_2(atoms) + 8 * triton.next_power_of_2(d_model) <= REGISTERS


def fold_order(width: int, levels: int) -> list[int]:
    """Where each of 2 ** levels places takes its term from, -1 for none: halving these adds what `fixed_sum` adds.

    `fixed_sum` adds the term at `half + i` to that at `i`, for half = ceil(width / 2), and goes on with `half` terms.

    >>> fold_order(5, 3)
    [0, 1, 2, -1, 3, 4, -1, -1]
    """
    if levels == 0:
        return [0]
    half = (width + 1) // 2
    first = fold_order(half, levels - 1)
    return first + [half + i if 0 <= i < width - half else -1 for i in first]


def _launch(
    start: Start,
    atoms: Float[Tensor, "atoms d_model"],
    gram: Float32[Tensor, "atoms atoms"],
    k: int,
    pursuit: str,
    dtype: torch.dtype,
    fast: bool,
    on_chip: bool,
    tile: int,
    crowd: int,
) -> tuple[Codes, Tensor]:
    batch, (number, width), device = len(start.z), atoms.shape, atoms.device
    levels = (triton.next_power_of_2(width) - 1).bit_length()
    order = torch.tensor(fold_order(width, levels), dtype=torch.int32, device=device)
    error = portable.product_error(width)
    with _tf32() if fast else full_precision_products(device):
        c = start.z.float() @ atoms.float().T
    indices = torch.zeros(batch, k, dtype=torch.int32, device=device)
    coefficients = start.z.new_zeros(batch, k)
    left, count = torch.empty_like(start.energy), torch.empty(batch, dtype=torch.int32, device=device)
    arguments = (
        *(
            c,
            start.z.contiguous(),
            start.energy,
            start.least,
            start.faint,
            error * start.energy.sqrt(),
            atoms,
            gram,
            order,
        ),
        *(indices, coefficients, left, count, number, gram.stride(0), width, k, error + 4 * portable.UNIT, crowd),
    )
    settings = {"LEVELS": levels, "FAST": fast, "enable_fp_fusion": False}
    block = triton.next_power_of_2(number) if on_chip else tile
    # 32 numbers of c, or as many bytes of r, per thread; 128 registers each are enough and leave room for more programs.
    warps = min(32, max(4, block // 1024, 2**levels // 512))
    if warps <= 16:
        settings["maxnreg"] = 128
    with torch.cuda.device_of(c):
        if on_chip:
            _on_chip[(batch,)](*arguments, BLOCK=block, num_warps=warps, **settings)
        else:
            tiles = triton.next_power_of_2(triton.cdiv(number, tile))
            _streaming[(batch,)](*arguments, TILE=tile, TILES=tiles, num_warps=warps, **settings)
    # A count of -1 marks a row that the kernel left unfinished.
    picks = (indices.long(), coefficients, count.clamp(min=0).long(), left)
    return start.finish(picks, atoms, pursuit, dtype), (count < 0).nonzero().squeeze(1)


def _tensors(codes: Codes) -> tuple[Tensor, ...]:
    code, left = codes
    return code.indices, code.coefficients, code.count, left


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
