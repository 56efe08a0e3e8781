"""In every causal family what is read is what the model computes, or it is refused in one line."""

import pytest

from tests.sources.all_families import EVERY, MADE, NOT_TINY, outcome


@pytest.mark.parametrize("family", MADE)
def test_what_is_read_is_what_is_added_or_it_is_refused_in_one_line(family):
    found = outcome(family)
    for reason in found.refused.values():
        assert "\n" not in reason
        assert len(reason) < 300
    assert found.wrong == []


def test_all_families_are_made_but_few():
    assert len(MADE) >= 90
    assert set(MADE) | set(NOT_TINY) == set(EVERY)
    assert len(NOT_TINY) <= 10
