"""Sums whose order is fixed."""

import math

import pytest
import torch
from core.helpers import normal, same_bits

from itda.core.pursuit.exact import (
    fixed_dot,
    fixed_sum,
    full_precision_products,
    power_of_two,
    weighted_atoms,
)


@pytest.mark.parametrize("width", [*range(1, 34), 768])
def test_sum_equals_the_correctly_rounded_one_to_rounding(width):
    terms = normal(5, width).double()
    expected = [math.fsum(row) for row in terms.tolist()]
    torch.testing.assert_close(fixed_sum(terms.clone()), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("width", [3, 33, 192])
def test_dot_of_a_row_has_the_same_bits_alone(width):
    a, b = normal(50, width, 1).double(), normal(50, width, 2).double()
    together = fixed_dot(a, b)
    assert same_bits(together, torch.stack([fixed_dot(a[i], b[i]) for i in range(50)]))


def test_powers_of_two_are_exact_over_the_range_of_normal_float64():
    exponents = torch.arange(-1022, 1024)
    assert power_of_two(exponents).tolist() == [2.0**e for e in exponents.tolist()]


def test_weighted_atoms_is_the_weighted_sum():
    weights, atoms = normal(4, 3).double(), normal(10, 6, 2)
    indices = torch.tensor([[0, 1, 2], [9, 9, 9], [3, 4, 5], [0, 0, 1]])
    expected = torch.einsum("bk,bkd->bd", weights, atoms[indices].double())
    torch.testing.assert_close(weighted_atoms(weights, atoms, indices), expected, rtol=0, atol=1e-14)


def test_the_precision_of_products_is_restored_after_an_error_too():
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), full_precision_products():
            assert torch.get_float32_matmul_precision() == "highest"
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
