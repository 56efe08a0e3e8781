"""Codes by atom are the codes by token, turned: held to a slow loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from itda.core.transpose import by_atom

ATOMS, K = 6, 4
CODES = st.lists(
    st.lists(
        st.tuples(st.integers(0, ATOMS - 1), st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1.0, 1.5])),
        max_size=K,
        unique_by=lambda use: use[0],
    ),
    max_size=25,
)


def columns(codes):
    start = np.cumsum([0, *map(len, codes)]).astype(np.int64)
    flat = [use for code in codes for use in code]
    return start, np.array([a for a, _ in flat], np.int32), np.array([c for _, c in flat], np.float32)


def slow(codes):
    """[(token, coefficient)] of each atom, and how often it has each place."""
    uses, steps = [[] for _ in range(ATOMS)], np.zeros((ATOMS, K), int)
    for token, code in enumerate(codes):
        for step, (atom, coefficient) in enumerate(code):
            uses[atom].append((token, coefficient))
            steps[atom, step] += 1
    return [sorted(each, key=lambda use: (-use[1], use[0])) for each in uses], steps


@given(CODES)
def test_the_uses_of_each_atom_are_those_of_a_slow_loop(codes):
    found, (uses, steps) = by_atom(*columns(codes), ATOMS, K), slow(codes)
    for atom in range(ATOMS):
        own = slice(found.start[atom], found.start[atom + 1])
        assert list(zip(found.token[own].tolist(), found.coefficient[own].tolist(), strict=True)) == uses[atom]
    assert np.array_equal(found.steps, steps)
    assert found.start[-1] == len(found.token) == sum(map(len, codes))


def test_no_atoms_and_no_codes():
    found = by_atom(np.zeros(4, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 0, 3)
    assert found.start.tolist() == [0]
    assert found.steps.shape == (0, 3)


def test_many_uses_are_sorted_as_numpy_does_on_any_number_of_threads():
    import torch

    rng = np.random.default_rng(0)
    start = np.arange(0, 20_001, 4)
    atom = rng.permuted(np.tile(np.arange(40), (5_000, 1)), axis=1)[:, :4].ravel().astype(np.int32)
    coefficient = rng.integers(0, 50, len(atom)).astype(np.float32)
    order = np.lexsort((np.repeat(np.arange(5_000), 4), -coefficient, atom))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = by_atom(start, atom, coefficient, 40, 4)
            assert np.array_equal(found.token, (order // 4).astype(np.int32))
            assert np.array_equal(found.coefficient, coefficient[order])
    finally:
        torch.set_num_threads(before)
