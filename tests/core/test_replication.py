"""Replication: halves of documents, and the numbers of atoms that come back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itda.core.replication import Replication, half_of
from itda.errors import SettingError

COUNTS = st.lists(st.integers(1, 1000), min_size=2, max_size=30)


@given(counts=COUNTS, seed=st.integers(0, 5), draw=st.integers(0, 5))
def test_the_halves_are_the_most_even_cut_of_the_documents_in_their_drawn_order(counts, seed, draw):
    names, tokens = [f"document {i}" for i in range(len(counts))], np.array(counts)
    first = half_of(names, tokens, seed=seed, draw=draw)
    assert 0 < first.sum() < len(names)
    # Each document alone gives its place: its hash does not depend on the others or on their tokens.
    again = half_of(names[::-1], tokens[::-1], seed=seed, draw=draw)
    assert np.array_equal(again[::-1], first)
    difference = abs(int(tokens[first].sum()) - int(tokens[~first].sum()))
    assert difference <= max(counts)


def test_draws_and_seeds_give_other_halves_and_the_same_ones_again():
    names, tokens = [f"document {i}" for i in range(40)], np.full(40, 10)
    drawn = {(seed, draw): half_of(names, tokens, seed=seed, draw=draw).tobytes() for seed in (0, 1) for draw in (0, 1)}
    assert len(set(drawn.values())) == 4
    assert half_of(names, tokens, seed=1, draw=1).tobytes() == drawn[1, 1]
    assert half_of(names, tokens, seed=0, draw=0).sum() == 20
    # So that no version of itda cuts an old run otherwise.
    assert np.flatnonzero(half_of(names[:8], tokens[:8], seed=0, draw=0)).tolist() == [0, 2, 4, 6]


def test_each_document_is_in_the_first_half_about_as_often_as_in_the_second():
    names, tokens = [f"document {i}" for i in range(10)], np.full(10, 5)
    often = np.sum([half_of(names, tokens, seed=0, draw=draw) for draw in range(400)], axis=0)
    assert (abs(often - 200) < 4 * math.sqrt(100)).all()


def test_one_document_has_no_halves():
    with pytest.raises(SettingError, match="one document, which cannot be split: train it on more documents"):
        half_of(["alone"], np.array([9]), seed=0, draw=0)


def found(**given) -> Replication:
    cosines = np.array([[0.9, 0.8, 0.1], [0.79, 0.0, 0.85], [0.3, 0.2, 0.1], [0.8, 0.95, 1.0]], np.float32)
    parts = {
        "cosines": cosines,
        "kept": np.array([1, 0, 0, 9], np.int32),
        "tokens": np.array([3, 0, 6, 9], np.int32),
        "halves": np.array([[0.5, 0.25], [0.75, 0.5], [0.25, 0.0]], np.float32),
        "chance": 0.125,
    }
    return Replication(**{**parts, **given})


def test_the_numbers_are_those_counted_by_hand():
    each = found()
    assert each.share.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 1])
    assert each.replicates.tolist() == [True, False, False, True]
    assert each.readout.tolist() == pytest.approx([1 / 3, float("nan"), 0, 1], nan_ok=True)
    assert each.order().tolist() == [3, 0, 1, 2]
    summary = each.summary()
    assert (summary["draws"], summary["cosine"], summary["chance"]) == (3, 0.8, 0.125)
    assert (summary["in_all"], summary["in_half"], summary["in_none"]) == (0.25, 0.5, 0.25)
    assert summary["mean"] == pytest.approx(0.5)
    assert summary["readout"] == pytest.approx(10 / 18)
    assert summary["halves"] == {"mean_cosine": 0.5, "within": 0.25}
    assert repr(each) == "<Replication of 4 atoms: 50% comes back in 3 draws>"


def test_equal_atoms_are_ordered_by_mean_cosine_and_then_by_number():
    cosines = np.array([[0.1, 0.3], [0.4, 0.4], [0.1, 0.3]], np.float32)
    numbers = np.zeros(3, np.int32)
    each = Replication(cosines, numbers, numbers, np.zeros((2, 2), np.float32), 0.0)
    assert each.order().tolist() == [1, 0, 2]


def test_a_dictionary_without_atoms_has_no_shares():
    numbers = np.zeros(0, np.int32)
    each = Replication(np.zeros((0, 2), np.float32), numbers, numbers, np.zeros((2, 2), np.float32), 0.0)
    summary = each.summary()
    assert [summary[name] for name in ("mean", "in_all", "in_half", "in_none", "mean_cosine", "readout")] == [None] * 6
    assert repr(each) == "<Replication of 0 atoms: nothing comes back in 2 draws>"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kept": np.zeros(3, np.int32)}, "give one row per atom"),
        ({"halves": np.zeros((2, 2), np.float32)}, "one row per atom, and per draw"),
        ({"cosine": 0.0}, "--cosine is 0.0: it must be above 0 and at most 1"),
        ({"cosines": np.zeros((4, 0), np.float32), "halves": np.zeros((0, 2), np.float32)}, "--draws is 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(given, message):
    with pytest.raises(SettingError, match=message):
        found(**given)
