"""Exact arithmetic: relative error against fsum, and bits for every shape and stride."""

import math

import pytest
import torch
from core.helpers import normal, same_bits
from hypothesis import given
from hypothesis import strategies as st

from itda.core.pursuit.fixed_order import fixed_dot, fixed_sum, full_precision_products, scaled, weighted_atoms


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=33))
def test_sums_of_positive_terms_are_within_1e_12_of_fsum(terms):
    found = fixed_sum(torch.tensor([terms], dtype=torch.float64))
    assert found.item() == pytest.approx(math.fsum(terms), rel=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=33))
def test_dots_are_within_1e_12_of_the_size_of_their_terms_of_fsum(terms):
    a = torch.tensor(terms, dtype=torch.float64)
    size = math.fsum(abs(t * t) for t in terms)
    flipped = a * torch.where(torch.arange(len(terms)) % 2 == 0, 1.0, -1.0).double()
    expected = math.fsum(x * y for x, y in zip(terms, flipped.tolist(), strict=True))
    assert abs(fixed_dot(a, flipped).item() - expected) <= 1e-12 * size


@pytest.mark.parametrize("width", range(1, 34))
def test_sums_have_the_same_bits_in_every_batch_shape_and_stride(width):
    terms = normal(24, width, width).double()
    flat = fixed_sum(terms.clone())
    shaped = fixed_sum(terms.clone().view(2, 3, 4, width))
    strided = fixed_sum(terms.T.contiguous().T)
    alone = torch.stack([fixed_sum(row.clone()) for row in terms])
    for other in (shaped.reshape(24), strided, alone):
        assert same_bits(flat, other)


def test_dot_leaves_its_arguments_alone():
    a, b = normal(5, 9).double(), normal(5, 9, 1).double()
    copies = a.clone(), b.clone()
    fixed_dot(a, b)
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


def test_weighted_atoms_of_a_row_has_the_same_bits_alone():
    weights, atoms = normal(20, 7).double(), normal(30, 9, 2)
    indices = torch.randint(30, (20, 7), generator=torch.Generator().manual_seed(1))
    together = weighted_atoms(weights, atoms, indices)
    alone = [weighted_atoms(weights[i : i + 1], atoms, indices[i : i + 1])[0] for i in range(20)]
    assert same_bits(together, torch.stack(alone))


def test_weighted_atoms_adds_from_the_first_to_the_last():
    atoms = torch.ones(1, 1)
    weights = torch.tensor([[1e17, 1.0, -1e17], [1e17, -1e17, 1.0]], dtype=torch.float64)
    assert weighted_atoms(weights, atoms, torch.zeros(2, 3, dtype=torch.long)).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_scaling_takes_exponents_of_either_width_and_keeps_the_shape(dtype):
    exponents = torch.tensor([[0, -1], [-1022, 1023]], dtype=dtype)
    assert scaled(torch.ones(2, 2, dtype=torch.float64), exponents).tolist() == [[1.0, 0.5], [2.0**-1022, 2.0**1023]]


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_of_products_is_highest_inside_and_restored_after(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision_products(torch.device("cpu")):
            inside = torch.get_float32_matmul_precision()
            # What a product on a GPU asks; torch raises where the common setting and the backend's disagree.
            tf32 = torch.backends.cuda.matmul.allow_tf32
        assert (inside, tf32, torch.get_float32_matmul_precision()) == ("highest", False, precision)
    finally:
        torch.set_float32_matmul_precision("highest")
