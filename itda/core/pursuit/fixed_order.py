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


def fixed_sum(terms: Float64[Tensor, "*batch width"]) -> Float64[Tensor, "*batch"]:
    """Sum the last axis by folding it in halves. Overwrites `terms`."""
    width = terms.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0].clone()


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
    total = coefficients.new_zeros(len(coefficients), atoms.shape[1])
    for step in range(coefficients.shape[1] if len(atoms) else 0):
        # A product and a sum, not addcmul: a fused multiply-add rounds once, and only where the hardware has one.
        total += coefficients[:, step, None] * atoms[indices[:, step]].double()
    return total


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

    @contextmanager
    def highest() -> Iterator[None]:
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    return highest()


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
