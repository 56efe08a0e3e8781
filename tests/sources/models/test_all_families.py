"""In every causal family what is read is what the model computes, or it is refused in one line."""

from pathlib import Path

import pytest
import transformers
from sources.models.all_families import EVERY, MADE, NOT_TINY, lists, outcome

DOCS = Path(__file__).parents[3] / "docs" / "models.md"


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


def test_the_docs_say_what_came_of_each_family():
    text = DOCS.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__}" not in text:
        pytest.skip("the docs are of another transformers")
    assert lists() in text
