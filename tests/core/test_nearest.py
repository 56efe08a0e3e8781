"""The nearest activations of atoms are those of a slow loop in float64, in whatever batches the stream comes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda.core import nearest_search
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.core.nearest import Nearest
from itda.core.nearest_search import Candidates, NearestActivations, find_nearest
from itda.errors import ActivationError, SettingError


def slow(atoms: torch.Tensor, own: np.ndarray, x: torch.Tensor, document: np.ndarray, most: int):
    """For each atom the cosines of the nearest activations, one of each other document, the nearest first."""
    cosines = []
    for atom, mine in zip(atoms.double().tolist(), own, strict=True):
        best: dict[int, float] = {}
        for row, which in zip(x.double().tolist(), document.tolist(), strict=True):
            norm = math.sqrt(math.fsum(value * value for value in row)) or 1.0
            cosine = math.fsum(a * b / norm for a, b in zip(atom, row, strict=True))
            if which != mine:
                best[which] = max(cosine, best.get(which, -2.0))
        cosines.append(sorted(best.values(), reverse=True)[:most])
    return cosines


@st.composite
def streams(draw):
    """Small whole numbers make many equal cosines, far from each other where they differ."""
    tokens, width, atoms = draw(st.integers(0, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    x = torch.from_numpy(random.integers(-2, 3, (tokens, width))).float()
    directions = torch.from_numpy(random.integers(-2, 3, (atoms, width))).double()
    directions[directions.abs().sum(1) == 0, 0] = 1.0
    # Documents may come back later in the stream.
    document = np.repeat(random.integers(0, 6, tokens), random.integers(1, 5, tokens))[:tokens]
    own = random.integers(-1, 6, atoms)
    cuts = sorted(draw(st.lists(st.integers(0, tokens), max_size=6)))
    return x, (directions / directions.norm(dim=1, keepdim=True)).float(), document, own, cuts


@given(streams(), st.integers(1, 4), st.integers(1, 50))
def test_it_is_a_slow_loop_in_any_batches(stream, most, rows):
    x, atoms, document, own, cuts = stream
    cut, whole = NearestActivations(atoms, own, most), NearestActivations(atoms, own, most)
    whole.add(x, document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_search, "ROWS", rows)
        for start, end in zip([0, *cuts], [*cuts, len(x)], strict=True):
            cut.add(x[start:end], document[start:end])
    assert np.array_equal(cut.index, whole.index)
    assert np.array_equal(cut.cosines, whole.cosines)
    assert cut.seen == len(x)
    cosines = slow(atoms, own, x, document, most)
    for atom, expected in enumerate(cosines):
        assert whole.cosines[atom, : len(expected)] == pytest.approx(expected, abs=1e-12)
        assert (whole.index[atom] >= 0).sum() == len(expected)
        chosen = whole.index[atom, : len(expected)]
        assert len({document[place] for place in chosen}) == len(expected)
        assert own[atom] not in {document[place] for place in chosen}
        at = x[chosen].double()
        own_cosines = (at @ atoms[atom].double()) / at.norm(dim=1).clamp(min=1e-300)
        assert own_cosines.tolist() == pytest.approx(expected, abs=1e-12)


@given(streams(), st.integers(1, 4))
def test_a_search_that_goes_on_part_by_part_finds_what_one_search_finds(stream, most):
    """What each part brings is enough, as in the files of an index that was killed again and again."""
    x, atoms, document, own, cuts = stream
    whole = NearestActivations(atoms, own, most)
    whole.add(x, document)
    parts: list[Candidates] = []
    for start, end in zip([0, *cuts], [*cuts, len(x)], strict=True):
        search = NearestActivations(atoms, own, most)
        if parts:
            search.go_on(Candidates.concatenate(parts[::-1]), start)
        search.add(x[start:end], document[start:end])
        parts.append(search.candidates(start))
        assert search.seen == end
    last = NearestActivations(atoms, own, most)
    last.go_on(Candidates.concatenate(parts), len(x))
    assert np.array_equal(last.index, whole.index)
    assert np.array_equal(last.cosines, whole.cosines)
    again = last.candidates()
    assert np.array_equal(again.document, document[again.index])


def test_a_dictionary_finds_its_own_without_a_run_and_refuses_what_does_not_fit():
    labels = Labels.of(*(Label(name, 0, 0, 1, 5, "", name, "") for name in "abcd"))
    x = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 90.0], [-1.0, 0.0]])
    dictionary = ITDA(torch.eye(2), labels[:2], k=1, massive_norm=50.0)
    found = find_nearest(dictionary, x, labels)
    # Not its own document, nor the massive one, nor one on the other side.
    assert [[label.token for label, _ in found.atom(atom).nearest] for atom in (0, 1)] == [["b"], []]
    assert "Nearest activations in other documents" in found.atom(0)._repr_html_()
    assert "Nearest" not in found.atom(1)._repr_html_()
    with pytest.raises(SettingError, match="3 labels for 4 activations"):
        find_nearest(dictionary, x, labels[:3])
    with pytest.raises(ActivationError, match="width 3 for atoms of width 2"):
        find_nearest(dictionary, torch.ones(4, 3), labels)


def test_copies_of_one_activation_come_in_stream_order_and_one_of_a_document():
    x = torch.tensor([[3.0, 1.0]] * 6 + [[1.0, 3.0]])
    document = np.array([4, 4, 2, 9, 9, 1, 7])
    found = NearestActivations(torch.tensor([[1.0, 0.0]]), np.array([2]), most=5)
    for start in range(0, 7, 2):
        found.add(x[start : start + 2], document[start : start + 2])
    assert found.index.tolist() == [[0, 3, 5, 6, -1]]
    assert np.isneginf(found.cosines[0, 4])


def test_of_activations_that_float32_cannot_tell_apart_the_nearest_is_found():
    angles = torch.tensor([2e-5, 1e-5, 3e-5], dtype=torch.float64)
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = NearestActivations(torch.tensor([[1.0, 0.0]]), np.array([-1]), most=3)
    found.add(x, np.arange(3))
    assert found.index.tolist() == [[1, 0, 2]]
    one = NearestActivations(torch.tensor([[1.0, 0.0]]), np.array([-1]), most=3)
    one.add(x, np.zeros(3, np.int64))  # all of one document
    assert one.index.tolist() == [[1, -1, -1]]


def test_what_an_atom_is_near_to_is_listed_and_parts_that_do_not_fit_are_refused():
    labels = Labels.of(*(Label(name, 0, 0, 1, 5, "", name, "") for name in "abcd"))[np.array([[0, 1], [2, 3]])]
    cosines, count = np.array([[0.75, 0.5], [0.25, 0.0]], np.float32), np.array([2, 1])
    each = Nearest(labels, cosines, count)
    assert [(label.token, cosine) for label, cosine in each.of(0)] == [("a", 0.75), ("b", 0.5)]
    assert [(label.token, cosine) for label, cosine in each.of(1)] == [("c", 0.25)]
    assert repr(each) == "<Nearest of 2 atoms: up to 2 activations each>"
    for parts in ((labels[:1], cosines, count), (labels, cosines, count[:1])):
        with pytest.raises(SettingError, match="one label per cosine, and one count per atom"):
            Nearest(*parts)
