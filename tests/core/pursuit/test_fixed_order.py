"""Sums whose order is fixed."""

import math

import pytest
import torch
from core.helpers import normal, same_bits

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
