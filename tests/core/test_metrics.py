"""Measures against numpy."""

import math

import numpy as np
import pytest
import torch
from core.helpers import normal, unit_rows

from itda import SparseCode, Unexplained, atom_uses, ce_loss_score, l0, pursue


@pytest.mark.parametrize("sizes", [[40], [1, 39], [7] * 5 + [5]])
def test_fvu_is_residual_over_variance_however_the_tokens_are_cut(sizes):
    x, y = normal(40, 6, 1) + 5, normal(40, 6, 2) + 5
    measure = Unexplained(6)
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        measure.update(a, b)
    exact_x, exact_y = x.double().numpy(), y.double().numpy()
    expected = ((exact_x - exact_y) ** 2).sum() / ((exact_x - exact_x.mean(0)) ** 2).sum()
    assert measure.value() == pytest.approx(expected, rel=1e-11)
    np.testing.assert_allclose(measure.mean.numpy(), exact_x.mean(0), rtol=1e-12)


def test_fvu_is_zero_for_the_identity_one_for_the_mean_and_not_a_number_for_constants():
    x = normal(30, 4).double()
    same, mean, constant = Unexplained(4), Unexplained(4), Unexplained(4)
    same.update(x, x)
    mean.update(x, x.mean(0).expand_as(x))
    constant.update(torch.ones(5, 4), torch.zeros(5, 4))
    assert same.value() == 0.0
    assert mean.value() == pytest.approx(1.0)
    assert math.isnan(constant.value())


def test_l0_and_uses_count_the_entries_of_codes():
    code, _ = pursue(normal(50, 8), unit_rows(30, 8), 4)
    dense = code.dense(30)
    assert l0(code) == (dense != 0).sum(1).double().mean().item()
    assert torch.equal(atom_uses(code, 30), (dense != 0).sum(0))


def test_padding_is_no_use_of_atom_0():
    empty = SparseCode(torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    assert atom_uses(empty, 2).tolist() == [0, 0]
    assert l0(empty) == 0.0


def test_ce_loss_score_is_one_for_no_loss_and_zero_for_the_loss_of_zeros():
    assert ce_loss_score(clean=2.0, spliced=2.0, zero=7.0) == 1.0
    assert ce_loss_score(clean=2.0, spliced=7.0, zero=7.0) == 0.0
    assert math.isnan(ce_loss_score(clean=2.0, spliced=2.0, zero=2.0))
