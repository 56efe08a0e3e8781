"""Sums whose order is fixed."""

import math

import numpy as np
import pytest
import torch
from core.helpers import normal, same_bits
from core.pursuit.slow_sum import slow_sum
from hypothesis import given
from hypothesis import strategies as st

from itda.core.pursuit import fixed_order, fixed_order_kernel
from itda.core.pursuit.fixed_order import (
    fixed_dot,
    fixed_sum,
    full_precision_products,
    scaled,
    weighted_atoms,
)


@pytest.mark.parametrize("width", [*range(1, 34), 768])
def test_sum_equals_the_correctly_rounded_one_to_rounding(width):
    terms = normal(5, width).double()
    expected = torch.tensor([math.fsum(row) for row in terms.tolist()], dtype=torch.float64)
    torch.testing.assert_close(fixed_sum(terms.clone()), expected, rtol=0, atol=1e-13)


@given(st.integers(1, 3000), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 10**6))
def test_sums_have_the_bits_of_the_slow_loop_for_any_width_and_leading_shape(width, shape, seed):
    random = torch.Generator().manual_seed(seed)
    terms = torch.randn(*shape, width, generator=random, dtype=torch.float64) ** 5
    found = fixed_sum(terms.clone())
    assert found.shape == tuple(shape)
    assert found.flatten().tolist() == [slow_sum(row) for row in terms.reshape(-1, width).tolist()]


@given(st.integers(1, 3000), st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_compiled_dots_have_the_bits_of_the_slow_loop_for_any_width(width, seed, dtype):
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((2, width)) ** 3
    for first, second in ((a, b.astype(dtype)), (a.astype(dtype), b.astype(dtype))):
        wanted = slow_sum([x * y for x, y in zip(first.tolist(), second.tolist(), strict=True)])
        assert fixed_order_kernel.fixed_dot(first, second, fixed_order_kernel.scratch(width)) == wanted


@pytest.mark.parametrize("width", [4096, 5000, 16384, 18432])
def test_wide_sums_have_the_bits_of_the_slow_loop(width):
    a, b = normal(1, width, 1)[0].double() ** 3, normal(1, width, 2)[0]
    wanted = slow_sum((a * b.double()).tolist())
    assert fixed_dot(a, b.double()).item() == wanted
    assert fixed_order_kernel.fixed_dot(a.numpy(), b.numpy(), fixed_order_kernel.scratch(width)) == wanted


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 64, 100, 256, 257, 512, 1000])
def test_no_sum_is_a_negative_zero(width):
    nothing = torch.full((width,), -0.0, dtype=torch.float64)
    compiled = fixed_order_kernel.fixed_dot(
        nothing.numpy(), np.ones(width, np.float32), fixed_order_kernel.scratch(width)
    )
    assert [math.copysign(1, x) for x in (fixed_sum(nothing).item(), compiled)] == [1, 1]


def test_the_compiled_sum_has_the_stages_of_the_one_of_torch():
    assert (fixed_order_kernel.LANES, fixed_order_kernel.GROUP) == (fixed_order.LANES, fixed_order.GROUP)


@pytest.mark.parametrize("width", [3, 33, 192])
def test_dot_of_a_row_has_the_same_bits_alone(width):
    a, b = normal(50, width, 1).double(), normal(50, width, 2).double()
    together = fixed_dot(a, b)
    assert same_bits(together, torch.stack([fixed_dot(a[i], b[i]) for i in range(50)]))


@pytest.mark.parametrize("x", [1.0, -1.75, 5e-324, 1.5e308])
def test_scaling_by_a_power_of_two_is_exact_over_the_whole_range_of_float64(x):
    # Those of the exponents that a pursuit needs whose result is a normal number.
    exponents = [e for e in range(-1100, 1101) if -1021 <= math.frexp(x)[1] + e <= 1024]
    found = scaled(torch.full((len(exponents),), x, dtype=torch.float64), torch.tensor(exponents))
    assert found.tolist() == [math.ldexp(x, e) for e in exponents]


def test_weighted_atoms_is_the_weighted_sum():
    weights, atoms = normal(4, 3).double(), normal(10, 6, 2)
    indices = torch.tensor([[0, 1, 2], [9, 9, 9], [3, 4, 5], [0, 0, 1]])
    expected = torch.einsum("bk,bkd->bd", weights, atoms[indices].double())
    torch.testing.assert_close(weighted_atoms(weights, atoms, indices), expected, rtol=0, atol=1e-14)


def test_the_precision_of_products_is_restored_after_an_error_too():
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), full_precision_products(torch.device("cpu")):
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
