"""Measures against numpy."""

import math

import numpy as np
import pytest
import torch
from core.helpers import normal, unit_rows

from itda import SparseCode, Unexplained, atom_uses, ce_loss_score, l0, pursue
from itda.core import metrics
from itda.core.metrics import cross_entropy, kl_divergence


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


@pytest.fixture(params=[(256, 2**14), (3, 7), (1, 1)], ids=["whole", "tiles", "one by one"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(metrics, "TOKENS_AT_ONCE", request.param[0])
    monkeypatch.setattr(metrics, "VOCABULARY_AT_ONCE", request.param[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 60])
def test_cross_entropy_and_kl_are_torchs_whatever_is_computed_at_once(tiles, dtype, scale):
    p, q = ((scale * normal(10, 23, seed)).to(dtype) for seed in (1, 2))
    targets = torch.arange(10) * 2
    expected = torch.nn.functional.cross_entropy(p.double(), targets, reduction="none")
    torch.testing.assert_close(cross_entropy(p, targets), expected, rtol=1e-12, atol=1e-13)
    log_p, log_q = (x.double().log_softmax(-1) for x in (p, q))
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    torch.testing.assert_close(kl_divergence(p, q), expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(kl_divergence(p, p), torch.zeros(10, dtype=torch.float64))


def test_what_is_impossible_to_both_costs_nothing_and_is_never_predicted(tiles):
    p, q = normal(4, 12, 1), normal(4, 12, 2)
    possible = kl_divergence(p[:, :9], q[:, :9])
    p[:, 9:] = q[:, 9:] = -torch.inf
    torch.testing.assert_close(kl_divergence(p, q), possible, rtol=1e-12, atol=1e-13)
    assert torch.equal(cross_entropy(p, torch.full((4,), 10)), torch.full((4,), torch.inf, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_no_numbers_give_none(tiles, wrong):
    logits = normal(2, 12)
    logits[0, 5] = wrong
    found = cross_entropy(logits, torch.tensor([3, 3]))
    assert not math.isfinite(found[0])
    assert math.isfinite(found[1])
