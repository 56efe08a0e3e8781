"""How long evaluating takes in passes through blocks, and progress in tokens that add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources.models.families import shared

from itda.core.batch import Site
from itda.sources.passes import LEAST, MOST, Passes, Steps, passes, tokens_as_long


@pytest.mark.parametrize(
    ("sites", "reading", "scoring"),
    [
        ([Site(0)], 1, 9 + 3 * 9 + 4 * 2),
        ([Site(9)], 10, 0 + 0 + 4 * 2),
        ([Site(9, "mlp_out")], 10, 0 + 3 + 4 * 2),
        ([Site(2), Site(6)], 7, 3 + 3 * (7 + 3) + 7 * 2),
    ],
)
def test_blocks_are_counted_from_each_site_on(sites, reading, scoring):
    assert passes(sites, 10, vocabulary=2 * 12 * 100, d_model=100) == Passes(float(reading), float(scoring))


def test_a_model_that_predicts_nothing_is_only_read():
    assert passes([Site(3)], 10, vocabulary=0, d_model=100) == Passes(4.0, 0.0)


@given(st.integers(1, 10**9), st.integers(1, 100), st.floats(0, 1000))
def test_the_default_is_as_long_as_training_within_its_bounds(trained, reading, scoring):
    cost = Passes(float(reading), scoring)
    tokens = tokens_as_long(trained, cost)
    assert LEAST <= tokens <= MOST
    if LEAST < tokens < MOST:
        took = tokens * (cost.reading + cost.scoring) / (trained * cost.reading)
        assert 0.9 < took <= 1


@given(st.lists(st.floats(0, 50), max_size=30))
def test_steps_add_up_to_the_whole(parts):
    told = []
    steps = Steps(told.append)
    for part in parts:
        steps.add(part)
    assert sum(told) <= sum(parts) + 1e-5
    assert sum(told) > sum(parts) - 1
    assert all(step > 0 for step in told)


@pytest.mark.parametrize("calls", [0, 1, 4, 9])
def test_a_flight_counts_where_the_model_says_that_it_is(calls):
    told, places, model = [], [], shared("llama")
    steps = Steps(told.append)
    with model.watched(places.append):
        with steps.flight(model, 100.0, 4):
            for call in range(calls):
                model.watch(str(call))
            assert sum(told) == 25 * min(calls, 4)
        model.watch("after")
    assert sum(told) == 100
    assert len(places) == calls + 1
