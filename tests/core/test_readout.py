"""Similarity against a float64 loop; what it selects is the same for every cut of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import itda
from itda import ITDA, Label, Labels
from itda.core import readout
from itda.errors import ActivationError, SettingError


def model_of(atoms, offset=None):
    labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(len(atoms))))
    return ITDA(atoms, labels, k=2, offset=offset)


def problem(atoms, d_model, rows, seed, offset=True):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(atoms, d_model, generator=generator)
    mean = torch.randn(d_model, generator=generator) if offset else None
    x = 50 * torch.randn(rows, d_model, generator=generator)
    return model_of(table / table.norm(dim=1, keepdim=True), mean), x


def oracle(model, x):
    """Cosines one by one, in float64."""
    z = x.double() - (model.offset.double() if model.offset is not None else 0)
    return torch.tensor([[torch.dot(row, atom) / row.norm() for atom in model.atoms.double()] for row in z])


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 9), st.integers(0, 999), st.booleans())
@settings(max_examples=25, deadline=None)
def test_all_cosines_are_those_of_a_loop(atoms, d_model, rows, seed, offset):
    model, x = problem(atoms, d_model, rows, seed, offset)
    assert torch.allclose(model.similarity(x).double(), oracle(model, x), atol=2e-6)


@given(st.integers(1, 40), st.integers(2, 20), st.integers(1, 9), st.integers(0, 999), st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_the_top_are_the_largest_in_order(atoms, d_model, rows, seed, top):
    model, x = problem(atoms, d_model, rows, seed)
    found, full = model.similarity(x, top=top), oracle(model, x)
    assert found.k == top
    assert (found.count == min(top, atoms)).all()
    for row in range(rows):
        expected = full[row].sort(descending=True, stable=True)
        n = min(top, atoms)
        assert torch.allclose(found.coefficients[row, :n].double(), expected.values[:n], atol=1e-6)
        assert found.indices[row, :n].tolist() == expected.indices[:n].tolist()
        assert not found.coefficients[row, n:].any()


@given(st.integers(1, 40), st.integers(2, 20), st.integers(1, 9), st.integers(0, 999), st.floats(-1, 1))
@settings(max_examples=25, deadline=None)
def test_least_keeps_exactly_the_cosines_at_or_above(atoms, d_model, rows, seed, least):
    model, x = problem(atoms, d_model, rows, seed)
    found, full = model.similarity(x, least=least), oracle(model, x)
    near = ((full - least).abs() < 1e-6).any()
    if not near:
        assert found.count.tolist() == (full >= least).sum(dim=1).tolist()
    assert (found.coefficients[found.coefficients != 0] >= least - 1e-6).all()


def test_top_and_least_together():
    model, x = problem(30, 4, 6, 0)
    found = model.similarity(x, top=5, least=0.5)
    assert found.k == 5
    full = oracle(model, x)
    assert found.count.tolist() == (full >= 0.5).sum(dim=1).clamp(max=5).tolist()


def test_what_is_selected_has_the_same_bits_for_every_cut_of_the_batch(monkeypatch):
    model, x = problem(300, 48, 60, 1)
    whole = model.similarity(x, top=7)
    monkeypatch.setattr(readout, "CHUNK", 4 * 300)
    for size in (1, 7, 60):
        parts = [model.similarity(part, top=7) for part in x.split(size)]
        assert torch.equal(torch.cat([p.indices for p in parts]), whole.indices)
        assert torch.equal(torch.cat([p.coefficients for p in parts]), whole.coefficients)


def test_equal_cosines_come_lowest_atom_first():
    model = model_of(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    assert model.similarity(torch.tensor([[2.0, 0.1]]), top=3).indices.tolist() == [[1, 2, 3]]


def test_memory_is_that_of_a_chunk(monkeypatch):
    model, x = problem(50, 8, 40, 2)
    largest = []
    chunks = readout._chunks

    def watched(*args):
        for start, units, cosines in chunks(*args):
            largest.append(cosines.numel())
            yield start, units, cosines

    monkeypatch.setattr(readout, "CHUNK", 200)
    monkeypatch.setattr(readout, "_chunks", watched)
    model.similarity(x, top=3)
    assert max(largest) <= 200
    assert sum(largest) == 40 * 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    model, x = problem(20, 6, 5, 3)
    x = (x / 50).to(dtype)
    assert torch.allclose(model.similarity(x).double(), oracle(model, x.double()), atol=1e-5)


def test_a_zero_activation_is_like_nothing_and_huge_ones_do_not_overflow():
    model = model_of(torch.eye(3))
    zero = model.similarity(torch.zeros(1, 3), least=0.1)
    assert zero.count.tolist() == [0]
    huge = model.similarity(torch.tensor([[3e38, 3e38, 0.0]]))
    assert torch.allclose(huge, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0]]))


def test_shapes_lead_and_empty_batches():
    model, _ = problem(20, 6, 5, 4)
    assert model.similarity(torch.randn(2, 3, 6)).shape == (2, 3, 20)
    assert model.similarity(torch.randn(2, 3, 6), top=4).indices.shape == (2, 3, 4)
    assert model.similarity(torch.randn(0, 6)).shape == (0, 20)
    assert model.similarity(torch.randn(0, 6), top=4).indices.shape == (0, 4)


@pytest.mark.parametrize("settings", [{"top": 0}, {"least": 1.5}, {"least": float("nan")}])
def test_settings_out_of_range(settings):
    with pytest.raises(SettingError, match="must be"):
        problem(20, 6, 5, 5)[0].similarity(torch.randn(2, 6), **settings)


def test_activations_that_do_not_fit():
    model, _ = problem(20, 6, 5, 6)
    with pytest.raises(ActivationError, match="width"):
        model.similarity(torch.randn(2, 5))
    with pytest.raises(ActivationError, match="not finite"):
        model.similarity(torch.full((1, 6), float("nan")))


def test_refined_and_plain_atoms_alike():
    model, x = problem(20, 6, 200, 7)
    refined = itda.refine(model, x, passes=2)
    assert torch.allclose(refined.similarity(x).double(), oracle(refined, x), atol=2e-6)
