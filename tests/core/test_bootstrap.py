"""Intervals against a slow loop, and against the truth in simulated documents."""

import math

import numpy as np
import pytest
from scipy import stats

from itda import ItdaError
from itda.core.bootstrap import by_document, interval, ratio


def documents(count: int, seed: int) -> np.ndarray:
    """Sums (part, tokens) of documents of very different lengths; the truth of their ratio is 0.4."""
    rng = np.random.default_rng(seed)
    tokens = rng.lognormal(5, 1, count)
    return np.stack([tokens * rng.beta(4, 6, count), tokens], axis=1)


def test_by_document_sums_the_rows_of_each_document():
    rng = np.random.default_rng(0)
    columns, names = rng.normal(size=(50, 3)), rng.choice(["c", "a", "b"], 50)
    expected = np.stack([columns[names == name].sum(0) for name in ("a", "b", "c")])
    np.testing.assert_allclose(by_document(columns, names), expected, rtol=1e-12)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_interval_is_that_of_a_slow_loop(level):
    sums, n = documents(12, 3), 12
    rng, found = np.random.default_rng(7), []
    for _ in range(300):
        times = rng.multinomial(n, np.full(n, 1 / n))
        drawn = [row for row, t in zip(sums, times, strict=True) for _ in range(t)]
        found.append(sum(r[0] for r in drawn) / sum(r[1] for r in drawn))
    t = stats.t.ppf((1 + level) / 2, n - 1)
    tail = stats.norm.cdf(-t * math.sqrt(n / (n - 1)))
    got = interval(sums, level=level, resamples=300, seed=7)
    assert got.value == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum(), rel=1e-12)
    # The expansion of Student's quantile is good to 1e-6 of the tail, a sliver of the gap between two resamples.
    assert [got.low, got.high] == pytest.approx(np.quantile(found, [tail, 1 - tail]).tolist(), rel=1e-4)


@pytest.mark.parametrize("count", [7, 20])
def test_the_truth_lies_within_about_as_often_as_promised(count):
    intervals = [interval(documents(count, seed), resamples=400, seed=seed) for seed in range(400)]
    covered = np.mean([i.low <= 0.4 <= i.high for i in intervals])
    assert 0.90 < covered < 0.98  # percentiles that are not widened cover 86% and 89%


def test_several_values_and_differences_are_resampled_together():
    sums = np.hstack([documents(9, 1), documents(9, 2)])

    def measures(s):
        return np.stack([ratio(s[..., :2]), ratio(s[..., 2:]), ratio(s[..., :2]) - ratio(s[..., :2])], axis=-1)

    got = interval(sums, measures)
    assert got.low[0] == interval(sums[:, :2]).low
    assert got.high[1] == interval(sums[:, 2:]).high
    assert got.value[2] == got.low[2] == got.high[2] == 0


def test_it_is_deterministic_and_blind_to_the_scale_of_the_sums():
    sums = documents(10, 5)
    a, b, c = interval(sums), interval(sums), interval(sums * 1024)
    assert (a.low, a.high) == (b.low, b.high) == (c.low, c.high)
    assert interval(sums, seed=1).low != a.low


def test_resamples_without_a_value_are_left_out():
    sums = np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])  # nearly a third of the resamples lack the first
    got = interval(sums)
    assert got.low == got.high == got.value == 0.5
    nothing = interval(np.zeros((3, 2)))
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)
    assert math.isnan(nothing.high)


def test_one_document_has_a_value_but_no_interval():
    got = interval(np.array([[1, 4]]))
    assert got.value == 0.25
    assert math.isnan(got.low)
    assert math.isnan(got.high)


@pytest.mark.parametrize(("sums", "level"), [(np.zeros((0, 2)), 0.95), (np.ones((3, 2)), 1.0)])
def test_what_cannot_be_resampled_is_an_error_with_a_remedy(sums, level):
    with pytest.raises(ItdaError, match=r"give|must be"):
        interval(sums, level=level)
