"""Empirical null, p-values and false discovery rates."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from itda.core.diffing.significance import FEWEST, Null, empirical_null, findings, p_values, q_values
from itda.errors import SettingError

CHANCES = st.lists(st.floats(0, 1), min_size=1, max_size=50).map(np.array)


@given(CHANCES)
def test_q_values_are_those_of_scipy(p):
    np.testing.assert_allclose(q_values(p), scipy.stats.false_discovery_control(p), rtol=1e-12)


@pytest.mark.parametrize("both", [True, False])
def test_p_values_are_tails_of_the_normal_distribution(both):
    values = np.linspace(-4, 6, 23)
    z = (values - 1) / 2
    expected = 2 * scipy.stats.norm.sf(np.abs(z)) if both else scipy.stats.norm.sf(z)
    np.testing.assert_allclose(p_values(values, Null(1.0, 2.0), both=both), expected, rtol=1e-9)


def test_the_null_is_that_of_the_bulk_whatever_stands_out():
    rng = np.random.default_rng(0)
    bulk = rng.normal(2.0, 3.0, 2000)
    null = empirical_null(np.concatenate([bulk, np.full(60, 1e6)]))
    assert null.centre == pytest.approx(2.0, abs=0.3)
    assert null.spread == pytest.approx(3.0, rel=0.1)


def test_noise_has_no_more_findings_than_its_rate_and_what_stands_out_is_found():
    rng = np.random.default_rng(1)
    some = sum(bool(findings(rng.normal(0, 7.0, 300), rate=0.05).any()) for _ in range(200))
    assert some <= 20  # of 200 sets of pure noise about 10 have a finding
    values = rng.normal(0, 7.0, 300)
    values[:3] = 80.0
    assert findings(values)[:3].all()


def test_few_statistics_and_equal_ones_have_no_finding():
    assert not findings(np.array([0.0] * (FEWEST - 2) + [99.0])).any()
    assert not findings(np.zeros(100)).any()


def test_a_rate_out_of_range_is_refused():
    with pytest.raises(SettingError, match="between 0 and 1"):
        findings(np.zeros(30), rate=1.0)
    with pytest.raises(SettingError, match="give at least one"):
        empirical_null(np.zeros(0))
