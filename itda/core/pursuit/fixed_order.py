"""Arithmetic whose last bit does not depend on how many rows are computed together, or where.

A matrix product may sum in another order for another number of rows, and then two runs of the same data disagree.
Elementwise operations are correctly rounded everywhere (IEEE 754), so sums made of elementwise additions in a fixed
order give the same bits for any batch size, thread count or device. All of it is in float64.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from itda.core.pursuit.or_torch import KernelOrTorch

LANES = 256
"""The partial sums that a sum is folded to first: on a GPU, all numbers that one thread holds become one."""

GROUP = 32
"""Neighbouring partial sums that are added next: on a GPU, those of one warp. The sums of the groups come last."""


def fixed_sum(terms: Float64[Tensor, "*batch width"]) -> Float64[Tensor, "*batch"]:
    """Sum the last axis in three stages, each by folds in half: i and i + half, for half a power of two.

    1. To 256 numbers: half = the largest power of two below the width, again and again. Numbers without a partner stay.
    2. Each 32 neighbours, of 256 numbers, to one: half = 16, 8, 4, 2, 1. Numbers that are missing at the end are 0.
    3. The 8 sums to one: half = 4, 2, 1.

    A GPU adds without a word to another thread in stage 1, within a warp in stage 2, and across warps in stage 3 only.
    A sum is never -0.0. Overwrites `terms`.

    >>> fixed_sum(torch.tensor([1e16, 1.0, -1e16, 1.0], dtype=torch.float64)).item()
    2.0
    """
    width = terms.shape[-1]
    while width > LANES:
        half = 2 ** ((width - 1).bit_length() - 1)
        terms[..., : width - half] += terms[..., half:width]
        width = half
    missing = -width % GROUP
    lanes = functional.pad(terms[..., :width], (0, missing)) if missing else terms[..., :width]
    lanes = lanes.unflatten(-1, (-1, GROUP))
    for half in (16, 8, 4):
        lanes = lanes[..., :half] + lanes[..., half:]
    first, second, third, fourth = lanes.unbind(-1)
    return _sum_of_groups((first + third) + (second + fourth))


def _sum_of_groups(sums: Float64[Tensor, "*batch groups"]) -> Float64[Tensor, "*batch"]:
    """Return the sum of at most 8 numbers, folded by half = 4, 2, 1; those that are missing are 0."""
    groups = list(sums.unbind(-1))
    for half in (4, 2, 1):
        groups = [a + b for a, b in zip(groups, groups[half:], strict=False)] + groups[
            max(0, len(groups) - half) : half
        ]
    return groups[0] + 0.0  # -0.0 becomes 0.0, as it does where missing numbers are added


def fixed_dot(a: Float64[Tensor, "*batch width"], b: Float64[Tensor, "*batch width"]) -> Float64[Tensor, "*batch"]:
    """Return <a, b> along the last axis, in the fixed order of `fixed_sum`."""
    return fixed_sum(a * b)


def root(x: Float64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
    """Return the correctly rounded square root; torch's own on the CPU is a vector library's and may be one bit off."""
    return torch.as_tensor(np.sqrt(x.numpy())) if x.device.type == "cpu" else x.sqrt()


def weighted_atoms(
    coefficients: Float64[Tensor, "batch k"], atoms: Tensor, indices: Tensor
) -> Float64[Tensor, "batch d_model"]:
    """Return sum_t coefficients[:, t] * atoms[indices[:, t]], one term after the other."""
    some = coefficients.numel() > 0 and atoms.numel() > 0
    form = WEIGHTED.on(atoms.device) if some else _weighted_torch
    return form(coefficients, atoms, indices)[0]


def _weighted_torch(coefficients: Tensor, atoms: Tensor, indices: Tensor) -> tuple[Float64[Tensor, "batch d_model"]]:
    total = coefficients.new_zeros(len(coefficients), atoms.shape[1])
    for step in range(coefficients.shape[1] if len(atoms) else 0):
        # A product and a sum, not addcmul: a fused multiply-add rounds once, and only where the hardware has one.
        total += coefficients[:, step, None] * atoms[indices[:, step]].double()
    return (total,)


def weighted_triton(coefficients: Tensor, atoms: Tensor, indices: Tensor) -> tuple[Float64[Tensor, "batch d_model"]]:
    """Return what `weighted_atoms` does in one kernel, a program for each row and some columns."""
    from itda.core.pursuit.rows_kernel import sum_of_atoms

    (rows, k), width = coefficients.shape, atoms.shape[1]
    total = coefficients.new_empty(rows, width)
    tile = min(TILE, max(32, 1 << (width - 1).bit_length()))
    settings = {"TILE": tile, "num_warps": max(1, tile // 256), "enable_fp_fusion": False}
    with torch.cuda.device_of(atoms):
        sum_of_atoms[(rows, -(-width // tile))](
            coefficients.contiguous(), indices.contiguous(), atoms.contiguous(), total, width, k, **settings
        )
    return (total,)


TILE = 1024
"""The most columns of a program of `weighted_triton`."""

WEIGHTED = KernelOrTorch("sums of atoms", weighted_triton, _weighted_torch)
"""`weighted_triton` where it can be trusted, else torch."""


def scaled(x: Float64[Tensor, "*batch"], exponent: Tensor) -> Float64[Tensor, "*batch"]:
    """Return x * 2 ** exponent without a rounding; `pow` and `ldexp` may round, or overflow on the way.

    The power is made of its bits, in two halves so that each is a normal number.
    """
    half = exponent.long() // 2
    for part in (half, exponent.long() - half):
        x = x * ((part + 1023) << 52).view(torch.float64)
    return x


@contextmanager
def full_precision_products(device: torch.device) -> Iterator[None]:
    """Compute float32 products in float32, even if the program allows TF32, bfloat16 or autocast elsewhere."""
    with torch.autocast(device.type, enabled=False), _common_precision() or _precision_by_backend():
        yield


def _common_precision() -> AbstractContextManager[None] | None:
    """Return a context of full precision for all backends; None where a backend has a setting of its own."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to name one precision when the backends' settings were used
        return None
    return _highest_precision(before)


@contextmanager
def _highest_precision(before: str) -> Iterator[None]:
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _precision_by_backend() -> Iterator[None]:
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    products = [backend.matmul for backend in backends]
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "ieee"
    try:
        yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision
