"""fvu where sums of squares lose digits: large means, constants, cuts."""

import math

import pytest
import torch
from core.helpers import normal
from hypothesis import given
from hypothesis import strategies as st

from itda import Unexplained


def measured(x: torch.Tensor, y: torch.Tensor, cuts: list[int] | None = None) -> Unexplained:
    measure = Unexplained(x.shape[1])
    for a, b in zip(torch.tensor_split(x, cuts or []), torch.tensor_split(y, cuts or []), strict=True):
        measure.update(a, b)
    return measure


@given(st.integers(0, 10**6), st.sets(st.integers(1, 59), max_size=6))
def test_fvu_does_not_depend_on_the_cut_into_batches(seed, cuts):
    x, y = normal(60, 5, seed).double(), normal(60, 5, seed + 1).double()
    assert measured(x, y, sorted(cuts)).value() == pytest.approx(measured(x, y).value(), rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
def test_fvu_keeps_its_digits_under_a_large_mean(mean):
    x = normal(200, 6).double() + mean
    y = x + 0.1 * normal(200, 6, 1).double()
    expected = ((x - y).square().sum() / (x - x.mean(0)).square().sum()).item()
    for cuts in ([], [1], [50, 51, 150]):
        assert measured(x, y, cuts).value() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 7.7, 1e3 / 7])
@pytest.mark.parametrize("rows", [1, 7, 10, 1000])
def test_fvu_of_constant_activations_is_not_a_number(value, rows):
    x = torch.full((rows, 3), value, dtype=torch.float64)
    assert math.isnan(measured(x, torch.zeros(rows, 3)).value())


def test_fvu_of_nothing_is_not_a_number():
    assert math.isnan(Unexplained(4).value())
