"""Dictionaries made to fool the float32 proposal: the float64 pick must be found all the same."""

import numpy as np
import pytest
import torch
from core.helpers import normal, slow_pursuit, unit_rows
from hypothesis import given
from hypothesis import strategies as st

from itda import pursue
from itda.core.pursuit import PURSUITS

ALL = pytest.mark.parametrize("pursuit", PURSUITS)


def ulp_neighbours(number: int, width: int, seed: int) -> torch.Tensor:
    """Copies of one unit vector; in each, a few coordinates are moved by one last float32 bit."""
    random = np.random.default_rng(seed)
    atoms = np.repeat(unit_rows(1, width, seed).numpy(), number, axis=0)
    moved = random.random(atoms.shape) < 4 / width
    away = np.where(random.random(atoms.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
    return torch.from_numpy(np.where(moved, np.nextafter(atoms, away), atoms))


def clear_best(x: torch.Tensor, atoms: torch.Tensor, gap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64: the best atom, and whether it leads by more than the rounding of a float64 sum."""
    scores = (x.double() @ atoms.double().T).abs()
    top = scores.topk(2, dim=1)
    return scores.argmax(dim=1), top.values[:, 0] - top.values[:, 1] > gap


@pytest.mark.parametrize("width", [8, 64, 512])
def test_atoms_one_last_bit_apart_are_told_apart(width):
    d = ulp_neighbours(600, width, width)
    x = d[:1].double() + 0.5 * normal(50, width).double()
    best, clear = clear_best(x, d, 1e-12)
    assert clear.sum() > 25
    found = pursue(x, d, 1)[0].indices[:, 0]
    assert torch.equal(found[clear], best[clear])
    proposal = (x.float() @ d.T).abs().argmax(dim=1)
    assert not torch.equal(proposal[clear], best[clear])  # or the dictionary fools nobody


@ALL
def test_every_pick_is_that_of_the_slow_loop_among_clusters_of_near_duplicates(pursuit):
    d = torch.cat([ulp_neighbours(25, 32, seed) for seed in range(20)])[torch.randperm(500).argsort()]
    x = normal(25, 32).double()
    code, _ = pursue(x, d, 4, pursuit)
    for row in range(25):
        expected, _, error = slow_pursuit(x[row].numpy(), d.numpy(), 4, pursuit)
        assert code.indices[row, : code.count[row]].tolist() == list(expected)
        assert error < 1


@pytest.mark.parametrize("width", [64, 2048])
def test_atoms_whose_norms_are_off_by_what_a_dictionary_allows_are_ranked_by_correlation(width):
    d = ulp_neighbours(200, width, 3)
    d = (d.double() * (1 + 9e-6 * torch.linspace(-1, 1, 200).double()[:, None])).float()[torch.arange(200).flip(0)]
    x = d[:1].double() + 0.1 * normal(30, width).double()
    best, clear = clear_best(x, d, 1e-12)
    assert clear.all()
    assert torch.equal(pursue(x, d, 1)[0].indices[:, 0], best)


@pytest.mark.parametrize(("size", "picked"), [(1e-4, 1), (1e-5, 1), (1e-7, 0)])
def test_an_activation_nearly_orthogonal_to_every_atom_gets_the_best_until_float32_ends(size, picked):
    d = unit_rows(300, 64)
    d[:, 0] = size * normal(1, 300)[0]
    d = torch.nn.functional.normalize(d, dim=1)
    x = torch.eye(1, 64, dtype=torch.float64)
    best, clear = clear_best(x, d, 1e-15)
    assert clear.all()
    code, _ = pursue(x, d, 1)
    assert code.count.tolist() == [picked]  # below 2 ** -20 the atoms' own rounding is all there is
    assert code.indices[0].tolist() == (best.tolist() if picked else [0])


@ALL
@given(st.integers(0, 10**6))
def test_whole_number_ties_go_to_the_lowest_index_wherever_the_tied_atoms_stand(pursuit, seed):
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(16, generator=random)
    d = torch.cat([torch.eye(8), -torch.eye(8)])[order]  # every axis twice, with both signs
    x = torch.randint(-3, 4, (6, 8), generator=random).float()
    code, left = pursue(x, d, 8, pursuit)
    for row in range(6):
        expected, _, error = slow_pursuit(x[row].numpy(), d.numpy(), 8, pursuit)
        number = int(code.count[row])
        assert code.indices[row, :number].tolist() == list(expected)
        assert code.coefficients[row, :number].tolist() == list(expected.values())
        assert left[row].item() == error == 0.0


def test_of_more_picked_atoms_than_their_span_has_dimensions_refit_keeps_those_that_come_first():
    plane = torch.linalg.qr(normal(16, 2))[0].T
    angles = torch.linspace(0.1, 1.3, 5)[:, None]
    d = torch.nn.functional.normalize(angles.cos() * plane[:1] + angles.sin() * plane[1:], dim=1)
    x = (normal(20, 2).double() @ plane.double()) + 0.01 * normal(20, 16).double()
    picked, _ = pursue(x, d, 6, "mp")
    fitted, left = pursue(x, d, 6, "mp_refit")
    assert (picked.count > 2).any()
    assert (fitted.count <= 2).all()
    assert torch.equal(fitted.indices[:, 0], picked.indices[:, 0])
    best = x @ torch.linalg.pinv(d.double(), rtol=1e-5) @ d.double()
    expected = (x - best).square().sum(1) / x.square().sum(1)
    torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-9)
