"""The rank test of effects: what it says of atoms that are like their controls, and of one that is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from itda.core.exceeding import bootstrapped, control_windows, either, exceeding, p_values


@given(st.lists(st.integers(0, 9), min_size=4, max_size=40), st.data())
def test_controls_are_others_with_the_nearest_ranks(values, data):
    number = data.draw(st.integers(1, len(values) - 1))
    found = control_windows(np.array(values), number)
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    for atom, controls in enumerate(found):
        assert len(set(controls.tolist()) | {atom}) == number + 1
        together = sorted(rank[[atom, *controls]])
        assert together == list(range(together[0], together[0] + number + 1))
        below = int(rank[atom]) - together[0]
        assert below == number // 2 or together[0] == 0 or together[-1] == len(values) - 1


@given(arrays.arrays(np.float64, (7, 20), elements=st.floats(-5, 5)))
def test_p_counts_the_controls_that_are_as_large(table):
    own, controls = table[:, 0], table[:, 1:]
    expected = [(1 + sum(each >= o for each in row)) / 20 for o, row in zip(own, controls, strict=True)]
    assert p_values(own, controls).tolist() == expected


def test_an_atom_like_its_controls_exceeds_them_at_the_error_rate_and_another_one_does():
    random = np.random.default_rng(0)
    table = random.standard_normal((4000, 80)).astype(np.float32)
    p = p_values(table[:, 0], table[:, 1:]).astype(np.float32)
    assert exceeding(p, 0.05) == pytest.approx(0.05, abs=0.01)
    assert exceeding(either(p, p_values(table[:, 1], table[:, 2:]).astype(np.float32)), 0.05) < 0.06
    assert exceeding(p_values(table[:, 0] + 9, table[:, 1:]), 0.05) == 1.0
    # The fourth largest of 80 is within 5%, and the second largest within half of it: no rounding is in the way.
    for place, level in ((4, 0.05), (2, 0.025)):
        p = p_values(np.array([-place + 0.5]), -np.arange(1.0, 80.0)[None]).astype(np.float32)
        assert exceeding(p, level) == 1.0
        assert exceeding(either(p, p), 2 * level) == 1.0


def test_what_is_not_known_is_not_counted():
    p = p_values(np.array([np.nan, 1.0]), np.array([[0.0, 2.0], [np.nan, 2.0]]))
    assert np.isnan(p[0])
    assert p[1] == 1.0
    assert np.isnan(exceeding(np.array([np.nan]), 0.05))
    assert exceeding(np.array([0.01, 0.01, 1.0]), 0.05, np.array([False, True, True])) == 0.5
    assert np.isnan(either(np.array([np.nan]), np.array([np.nan])))


def test_intervals_are_those_of_means_of_drawn_contexts():
    random = np.random.default_rng(1)
    differences = random.standard_normal((3, 40)) + np.array([[0.0], [2.0], [0.0]])
    differences[2, 5:] = np.nan
    low, high = bootstrapped(differences, seed=0)
    middle = np.nanmean(differences, axis=1)
    assert (low < middle).all()
    assert (middle < high).all()
    error = differences[1].std() / np.sqrt(40)
    assert high[1] - low[1] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert high[2] - low[2] > 2 * (high[1] - low[1])
    again = bootstrapped(differences, seed=0)
    assert np.array_equal(low, again[0])
    assert np.array_equal(high, again[1])
    assert np.isnan(bootstrapped(np.full((1, 4), np.nan), seed=0)[0]).all()
