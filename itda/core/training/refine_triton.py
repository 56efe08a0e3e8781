"""The sum over an atom's uses in Triton: one program for each atom and slice of the width. Import only where Triton is.

The uses of an atom are added one after the other, as the compiled loop of a CPU does, so the bits are its bits:
products and sums are compiled apart (`enable_fp_fusion=False`), since a fused multiply-add rounds once and not twice.
"""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float64, Int64
from torch import Tensor

SLICE = 256
"""Columns of a program: a popular atom's sum is long, and more programs share it where slices are narrow."""


@triton.jit
def _add_uses(starts, rows, coefficients, residual, total, width, SLICE: tl.constexpr) -> None:
    atom = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SLICE + tl.arange(0, SLICE)
    inside = column < width
    first, end = tl.load(starts + atom), tl.load(starts + atom + 1)
    if first < end:
        summed = tl.load(total + atom * width + column, mask=inside, other=0.0)
        for use in range(first, end):
            row = tl.load(rows + use)
            left = tl.load(residual + row * width + column, mask=inside, other=0.0)
            summed += tl.load(coefficients + use) * left
        tl.store(total + atom * width + column, summed, mask=inside)


def add_uses_by_kernel(
    starts: Int64[Tensor, " atoms+1"],
    rows: Int64[Tensor, " uses"],
    coefficients: Float64[Tensor, " uses"],
    residual: Float64[Tensor, "rows d_model"],
    total: Float64[Tensor, "atoms d_model"],
) -> None:
    """Do what `refine_step.add_uses` does; `total` is contiguous."""
    atoms, width = total.shape
    if atoms == 0 or width == 0:
        return
    grid = (atoms, triton.cdiv(width, SLICE))
    settings: dict[str, Any] = {"SLICE": SLICE, "num_warps": 4, "enable_fp_fusion": False}
    with torch.cuda.device_of(total):
        _add_uses[grid](starts, rows, coefficients, residual.contiguous(), total, width, **settings)
