"""SparseCode."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from itda import SparseCode


def test_picks_merge_at_the_first_pick_and_padding_is_zero():
    code = SparseCode.from_picks(
        torch.tensor([[5, 2, 5, 9], [1, 1, 7, 7]]),
        torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, -1.0, 3.0, 3.0]]),
        torch.tensor([4, 3]),
    )
    assert code.indices.tolist() == [[5, 2, 9, 0], [1, 7, 0, 0]]
    assert code.coefficients.tolist() == [[5.0, 2.0, 8.0, 0.0], [0.0, 3.0, 0.0, 0.0]]
    assert code.count.tolist() == [3, 2]
    assert code.k == 4


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), max_size=7), min_size=1, max_size=5))
def test_merging_keeps_the_sum_over_atoms(rows):
    indices, coefficients = torch.full((len(rows), 7), 5), torch.full((len(rows), 7), 99.0)
    expected = torch.zeros(len(rows), 6)
    for i, row in enumerate(rows):
        for step, (atom, value) in enumerate(row):
            indices[i, step], coefficients[i, step] = atom, value
            expected[i, atom] += value
    code = SparseCode.from_picks(indices, coefficients, torch.tensor([len(row) for row in rows]))
    assert torch.equal(code.dense(6), expected)
    for i, row in enumerate(rows):
        assert code.indices[i, : code.count[i]].tolist() == list(dict.fromkeys(atom for atom, _ in row))
        assert not code.coefficients[i, code.count[i] :].any()
