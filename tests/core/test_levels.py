"""Two levels: the code against a slow loop, the broad atoms, and the groups."""

import pickle

import numpy as np
import pytest
import torch
from core.helpers import labels, normal, same_bits, slow_pursuit, unit_rows

from itda import ITDA, SparseCode
from itda.core.levels import TwoLevels, two_levels
from itda.errors import ActivationError, SettingError


def model(atoms: int = 60, width: int = 12, **parts) -> ITDA:
    return ITDA(**{"atoms": unit_rows(atoms, width), "labels": labels(atoms), "k": 6, **parts})


def slow_levels(x: np.ndarray, levels: TwoLevels) -> dict[int, float]:
    """One activation in float64: coefficients by atom."""
    atoms, broad = levels.dictionary.atoms.double().numpy(), levels.broad.tolist()
    left, code = x.astype(np.float64), {}
    for _ in range(levels.k_broad):
        scores = atoms[broad] @ left
        best = int(scores.argmax())
        if scores[best] <= 2.0**-20 * np.linalg.norm(x):
            break
        code[broad[best]] = code.get(broad[best], 0.0) + scores[best]
        left = left - scores[best] * atoms[broad[best]]
    others = [i for i in range(len(atoms)) if i not in broad]
    detail = slow_pursuit(left, atoms[others], levels.dictionary.k - levels.k_broad, "mp")[0]
    return code | {others[i]: value for i, value in detail.items()}


@pytest.mark.parametrize("settings", [{}, {"k_broad": 1}, {"k_broad": 6}, {"broad": 1}, {"broad": 40, "k_broad": 4}])
def test_codes_are_those_of_a_slow_loop(settings):
    levels, x = two_levels(model(), **settings), normal(30, 12).double()
    code = levels.encode(x)
    for row, indices, values, count in zip(x, code.indices, code.coefficients, code.count, strict=True):
        expected = slow_levels(row.numpy(), levels)
        assert indices[:count].tolist() == list(expected)
        np.testing.assert_allclose(values[:count].numpy(), list(expected.values()), rtol=1e-9)


def test_what_the_code_leaves_is_no_more_than_what_its_first_level_leaves():
    levels, x = two_levels(model(offset=normal(1, 12, 7)[0])), normal(30, 12).double()
    code = levels.encode(x)
    broad = torch.isin(code.indices, levels.broad)
    first = SparseCode(code.indices, code.coefficients.where(broad, 0.0), code.count)
    z = x - normal(1, 12, 7)[0].double()
    left = [(x - levels.decode(part)).square().sum(1) for part in (first, code)]
    assert bool((left[0] < z.square().sum(1)).all())
    assert bool((left[1] < left[0]).all())
    slow = [slow_levels(row.numpy(), levels) for row in z]
    residual = [
        row.numpy() - sum(v * levels.dictionary.atoms[i].double().numpy() for i, v in c.items())
        for row, c in zip(z, slow, strict=True)
    ]
    np.testing.assert_allclose((x - levels.decode(code)).numpy(), np.stack(residual), atol=1e-9)


def test_broad_atoms_come_first_and_are_never_negative():
    levels, x = two_levels(model()), normal(200, 12)
    code = levels.encode(x)
    filled = torch.arange(code.k) < code.count[:, None]
    broad = torch.isin(code.indices, levels.broad) & filled
    assert bool((code.coefficients[broad] > 0).all())
    assert bool((code.coefficients[filled & ~broad] < 0).any())
    assert bool((broad.int().diff(dim=1) <= 0).all())
    assert bool((broad.sum(1) <= levels.k_broad).all())


def test_a_row_is_the_same_in_any_batch_shape_and_size_of_numbers():
    levels, x = two_levels(model(offset=normal(1, 12, 7)[0])), normal(700, 12)
    whole = levels.encode(x)
    for rows in (x[:1], x[:7], x[100:103]):
        start = 100 if len(rows) == 3 else 0
        assert same_bits(levels.encode(rows).coefficients, whole.coefficients[start : start + len(rows)])
    shaped = levels.encode(x.view(7, 25, 4, 12))
    assert shaped.indices.shape == (7, 25, 4, 6)
    assert shaped.count.shape == (7, 25, 4)
    assert same_bits(shaped.coefficients.view(700, 6), whole.coefficients)
    plain = two_levels(model())
    for power in (2.0**-100, 2.0**100):
        assert torch.equal(plain.encode(x * power).indices, plain.encode(x).indices)
        assert same_bits(plain.encode(x * power).coefficients, plain.encode(x).coefficients * power)


def test_threads_change_no_bit():
    x, before, found = normal(300, 48), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            levels = two_levels(model(500, 48))
            found.append((levels.broad, levels.groups, levels.encode(x).coefficients))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert same_bits(found[0][2], found[1][2])


def test_clusters_are_found_and_stood_for_by_their_middle():
    centres = torch.eye(8)[:3]
    atoms = torch.nn.functional.normalize(centres.repeat_interleave(20, 0) + 0.1 * normal(60, 8), dim=1)
    for g in range(3):
        atoms[20 * g + 5] = torch.nn.functional.normalize(atoms[20 * g : 20 * g + 20].sum(0), dim=0)
    levels = two_levels(ITDA(atoms, labels(60), k=4), broad=3)
    assert levels.broad.tolist() == [5, 25, 45]
    assert levels.groups.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert levels.dictionary.labels[levels.broad].position.tolist() == [5, 25, 45]


def test_a_small_cluster_is_found_beside_large_ones():
    sizes = torch.tensor([50, 47, 3])
    atoms = torch.nn.functional.normalize(torch.eye(8)[:3].repeat_interleave(sizes, 0) + 0.1 * normal(100, 8), dim=1)
    levels = two_levels(ITDA(atoms, labels(100), k=4), broad=3)
    assert torch.bincount(levels.groups).tolist() == [50, 47, 3]


def test_each_group_holds_the_atom_that_stands_for_it():
    levels = two_levels(model(200))
    assert torch.equal(levels.groups[levels.broad], torch.arange(len(levels.broad)))
    assert levels.broad.diff().min() > 0
    assert len(levels.broad) == 12


def test_the_number_of_broad_atoms_unless_given():
    assert len(two_levels(model(200, k=5)).broad) == 10
    assert len(two_levels(model(20)).broad) == 5
    assert two_levels(model(k=7)).k_broad == 3
    tiny = two_levels(model(1, k=1))
    assert (tiny.broad.tolist(), tiny.k_broad, tiny.encode(normal(3, 12)).k) == ([0], 1, 1)


def test_atoms_that_coincide_are_one_group():
    levels = two_levels(ITDA(torch.eye(3)[[0, 0, 0, 1]], labels(4), k=2), broad=4)
    assert levels.broad.tolist() == [0, 3]
    assert levels.groups.tolist() == [0, 0, 0, 1]


def test_no_other_atoms_and_no_activations():
    levels = two_levels(model(3), broad=3)
    assert bool((levels.encode(normal(5, 12)).count <= 3).all())
    assert two_levels(model()).encode(torch.zeros(0, 12)).indices.shape == (0, 6)
    assert two_levels(model()).encode(torch.zeros(2, 12)).count.tolist() == [0, 0]


def test_grouped_adds_up_what_each_group_has():
    levels, x = two_levels(model()), normal(40, 12)
    for code in (levels.encode(x.view(8, 5, 12)), levels.dictionary.encode(x.view(8, 5, 12))):
        summed = levels.grouped(code)
        assert summed.count.shape == (8, 5)
        assert bool((summed.count <= code.count).all())
        dense, expected = summed.dense(60), torch.zeros(8, 5, 60)
        expected.index_add_(-1, levels.broad[levels.groups], code.dense(60))
        torch.testing.assert_close(dense, expected)
        torch.testing.assert_close(summed.coefficients.sum(-1), code.coefficients.sum(-1))


def test_similar_are_the_largest_cosines_to_broad_atoms():
    levels, x = two_levels(model(offset=normal(1, 12, 7)[0])), normal(40, 12)
    cosines = levels.dictionary.similarity(x.view(8, 5, 12))
    assert isinstance(cosines, torch.Tensor)
    best = cosines[..., levels.broad].topk(4, dim=-1)
    found = levels.similar(x.view(8, 5, 12), top=4)
    assert torch.equal(found.indices, levels.broad[best.indices])
    torch.testing.assert_close(found.coefficients, best.values)
    assert levels.similar(x).k == 6


def test_dtype_of_the_code_is_that_of_the_dictionary():
    for given in (torch.bfloat16, torch.float32, torch.float64):
        assert two_levels(model()).encode(normal(3, 12).to(given)).coefficients.dtype == (
            torch.float64 if given == torch.float64 else torch.float32
        )


def test_a_copy_made_by_pickle_gives_the_same_codes():
    levels, x = two_levels(model()), normal(5, 12)
    code = levels.encode(x)
    assert same_bits(pickle.loads(pickle.dumps(levels)).encode(x).coefficients, code.coefficients)


@pytest.mark.parametrize("settings", [{"broad": 0}, {"broad": 61}, {"k_broad": 0}, {"k_broad": 7}])
def test_settings_out_of_range(settings):
    with pytest.raises(SettingError, match="it must be from 1 to"):
        two_levels(model(), **settings)


def test_activations_of_another_model():
    with pytest.raises(ActivationError, match="width 5"):
        two_levels(model()).encode(torch.ones(2, 5))
    with pytest.raises(ActivationError, match="not finite"):
        two_levels(model()).encode(torch.full((2, 12), torch.nan))
