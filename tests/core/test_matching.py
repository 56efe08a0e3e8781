"""Matching of two dictionaries is that of a slow loop in float64, whatever the rows are cut into."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda.core import matching
from itda.core.code import SparseCode
from itda.core.matching import cosine_sizes, largest_cosines, same_readout, strongest_atoms


def units(number: int, width: int, seed: int) -> torch.Tensor:
    x = torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=1, keepdim=True)).float()


def slow(atoms: torch.Tensor, others: torch.Tensor) -> tuple[list[float], list[int]]:
    """The largest |cosine| of each atom and the first atom that has it, by exact sums."""
    found: tuple[list[float], list[int]] = ([], [])
    for atom in atoms.double().tolist():
        best, partner = 0.0, -1
        for number, other in enumerate(others.double().tolist()):
            size = abs(math.fsum(a * b for a, b in zip(atom, other, strict=True)))
            if partner < 0 or size > best + 1e-14:  # two sums of equal terms in other orders are this near
                best, partner = size, number
        found[0].append(best)
        found[1].append(partner)
    return found


@given(
    atoms=st.integers(0, 12),
    others=st.integers(0, 9),
    width=st.sampled_from([1, 2, 7, 300]),
    chunk=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_the_match_is_that_of_a_slow_loop_in_any_chunks(atoms, others, width, chunk, seed):
    a, b = units(atoms, width, seed), units(others, width, seed + 100)
    if others > 3:
        b[3] = -b[1]  # a tie: the first counts
        a[: atoms // 2] = b[torch.arange(atoms // 2) % others]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "CHUNK", chunk)
        patch.setattr(matching, "RECOMPUTED", 5)
        cosines, partner = largest_cosines(a, b)
    whole = largest_cosines(a, b)
    assert torch.equal(cosines, whole[0])
    assert torch.equal(partner, whole[1])
    expected = slow(a, b)
    assert cosines.tolist() == pytest.approx(expected[0], abs=1e-14)
    if width > 1:
        assert partner.tolist() == expected[1]


def test_of_partners_that_float32_cannot_tell_apart_the_nearest_is_found():
    atom = torch.tensor([[1.0, 0.0, 0.0]])
    angles = torch.tensor([1e-4, 0.5e-4, 2e-4], dtype=torch.float64)
    others = torch.stack([angles.cos(), angles.sin(), torch.zeros(3, dtype=torch.float64)], dim=1)
    cosines, partner = largest_cosines(atom, (-others).float())
    exact = (others.float().double()[:, 0]).tolist()
    assert partner.item() == exact.index(max(exact))
    assert cosines.item() == max(exact)


def test_each_row_depends_on_itself_alone():
    a, b = units(40, 33, 0), units(25, 33, 1)
    whole = largest_cosines(a, b)
    for rows in ([3], [39, 0], list(range(0, 40, 7))):
        some = largest_cosines(a[rows], b)
        assert torch.equal(some[0], whole[0][rows])
        assert torch.equal(some[1], whole[1][rows])


def test_a_dictionary_matches_itself_and_nothing_matches_nothing():
    a = units(5, 8, 3)
    cosines, partner = largest_cosines(a, a.flip(0))
    assert cosines.tolist() == pytest.approx([1.0] * 5)
    assert partner.tolist() == [4, 3, 2, 1, 0]
    assert [each.tolist() for each in largest_cosines(a, a[:0])] == [[0.0] * 5, [-1] * 5]
    assert [each.tolist() for each in largest_cosines(a[:0], a)] == [[], []]


@given(rows=st.lists(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-2.0, -1.0, 0.5, 1.0, 2.0])), max_size=4)))
def test_the_strongest_atom_is_that_of_a_loop(rows):
    width = max(map(len, rows), default=0)
    indices, coefficients = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    expected = []
    for place, row in enumerate(rows):
        for step, (atom, coefficient) in enumerate(row):
            indices[place, step], coefficients[place, step] = atom, coefficient
        # `max` gives the first of equal ones.
        expected.append(max(row, key=lambda entry: abs(entry[1]))[0] if row else -1)
    count = torch.tensor([len(row) for row in rows], dtype=torch.long)
    assert strongest_atoms(SparseCode(indices, coefficients, count)).tolist() == expected


def test_a_readout_is_the_same_where_both_have_one_and_the_directions_are_near():
    a, b = units(6, 5, 0), units(4, 5, 1)
    pairs = list(itertools.product([-1, 0, 3, 5], [-1, 0, 2]))
    mine, theirs = torch.tensor(pairs).T
    found = same_readout(mine, theirs, a, b, 0.3)
    expected = [i >= 0 and j >= 0 and abs(float(a[i].double() @ b[j].double())) >= 0.3 for i, j in pairs]
    assert found.tolist() == expected
    assert len(set(expected)) == 2
    assert same_readout(mine[:0], theirs[:0], a, b, 0.3).tolist() == []
    sizes = cosine_sizes(a, b, torch.tensor([5, 3]), torch.tensor([2, 0]))
    assert sizes.tolist() == pytest.approx([abs(float(a[i].double() @ b[j].double())) for i, j in ((5, 2), (3, 0))])
