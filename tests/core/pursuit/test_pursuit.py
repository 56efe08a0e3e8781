"""The pursuits against float64 oracles, scikit-learn and algebra."""

import numpy as np
import pytest
import torch
from core.helpers import normal, same_bits, slow_pursuit, unit_rows
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp

from itda import pursue
from itda.core.pursuit import PURSUITS
from itda.core.pursuit.rules import RULES
from itda.core.pursuit.rules.base import magnitude

ALL = pytest.mark.parametrize("pursuit", PURSUITS)
OF_BOTH_SIGNS = pytest.mark.parametrize("pursuit", [name for name in PURSUITS if RULES[name].score is magnitude])


def as_dict(code, row: int) -> dict[int, float]:
    number = int(code.count[row])
    return dict(zip(code.indices[row, :number].tolist(), code.coefficients[row, :number].tolist(), strict=True))


@ALL
@pytest.mark.parametrize(("rows", "atoms", "width", "k"), [(40, 100, 24, 8), (10, 700, 64, 20), (30, 12, 48, 6)])
def test_equals_the_slow_loop_in_float64(pursuit, rows, atoms, width, k):
    x, d = normal(rows, width), unit_rows(atoms, width)
    code, left = pursue(x.double(), d, k, pursuit)
    for row in range(rows):
        expected, picks, error = slow_pursuit(x[row].numpy(), d.numpy(), k, pursuit)
        found = as_dict(code, row)
        assert list(found) == list(dict.fromkeys(picks))
        np.testing.assert_allclose([found[j] for j in expected], list(expected.values()), atol=1e-9)
        assert left[row].item() == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("pursuit", ["mp", "mp_refit", "omp"])
def test_planted_codes_on_orthonormal_atoms_are_recovered(pursuit):
    q = torch.linalg.qr(normal(32, 32).double())[0].float()
    d = torch.nn.functional.normalize(q, dim=1)
    planted = {7: 3.0, 21: -2.0, 2: 1.0}
    x = sum(value * d[atom].double() for atom, value in planted.items())[None]
    code, left = pursue(x, d, 8, pursuit)
    # Rounding the atoms to float32 leaves them orthogonal to 1e-7: what is found beyond the planted atoms is that.
    found = {atom: value for atom, value in as_dict(code, 0).items() if abs(value) > 1e-5}
    assert list(found) == [7, 21, 2]
    assert found == pytest.approx(planted, abs=1e-5)
    assert left.item() < 1e-12


def test_omp_recovers_planted_codes_on_incoherent_random_atoms_and_stops():
    d = unit_rows(256, 512)
    random = torch.Generator().manual_seed(3)
    for _ in range(20):
        support = torch.randperm(256, generator=random)[:6]
        values = 1 + torch.rand(6, generator=random, dtype=torch.float64)
        code, left = pursue((values @ d[support].double())[None], d, 12, "omp")
        assert as_dict(code, 0) == pytest.approx(dict(zip(support.tolist(), values.tolist(), strict=True)), abs=1e-9)
        assert left.item() < 1e-18


@pytest.mark.parametrize(("atoms", "width", "k"), [(50, 20, 5), (300, 64, 16), (64, 64, 40)])
def test_omp_equals_scikit_learn(atoms, width, k):
    x, d = normal(15, width).double(), unit_rows(atoms, width)
    code, _ = pursue(x, d, k, "omp")
    expected = orthogonal_mp(d.double().numpy().T, x.numpy().T, n_nonzero_coefs=k)
    np.testing.assert_allclose(code.dense(atoms).numpy(), expected.T, atol=1e-8)  # pyright: ignore[reportAttributeAccessIssue]


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_mp_splits_the_energy_between_picks_and_residual(seed, k):
    x, d = normal(5, 16, seed).double(), unit_rows(60, 16, seed)
    _, left = pursue(x, d, k, "mp")
    for row in range(5):
        residual, squares = x[row].numpy().copy(), 0.0
        for _ in range(k):
            scores = d.double().numpy() @ residual
            best = np.argmax(np.abs(scores))
            squares += scores[best] ** 2
            residual -= scores[best] * d[best].double().numpy()
        energy = (x[row] @ x[row]).item()
        assert left[row].item() * energy + squares == pytest.approx(energy, rel=1e-6)


def test_refit_is_least_squares_on_the_atoms_that_mp_picked_and_never_worse():
    x, d = normal(40, 24).double(), unit_rows(80, 24)
    plain, left = pursue(x, d, 10, "mp")
    fitted, left_fitted = pursue(x, d, 10, "mp_refit")
    assert torch.equal(plain.indices, fitted.indices)
    assert (left_fitted <= left + 1e-15).all()
    for row in range(40):
        support = fitted.indices[row, : fitted.count[row]]
        expected = np.linalg.lstsq(d[support].double().numpy().T, x[row].numpy(), rcond=None)[0]
        np.testing.assert_allclose(fitted.coefficients[row, : fitted.count[row]], expected, atol=1e-9)


@OF_BOTH_SIGNS
def test_an_exact_tie_goes_to_the_lowest_index(pursuit):
    d = torch.eye(4)[[3, 1, 0, 2]]
    code, _ = pursue(torch.tensor([[2.0, -2.0, 2.0, 1.0]]), d, 3, pursuit)
    assert code.indices.tolist() == [[1, 2, 3]]
    assert code.coefficients.tolist() == [[-2.0, 2.0, 2.0]]


@OF_BOTH_SIGNS
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("target_sign", [1.0, -1.0])
def test_of_a_duplicate_or_an_atom_and_its_negative_the_first_is_used_with_the_right_sign(pursuit, sign, target_sign):
    d = unit_rows(300, 48)
    d[211] = sign * d[5]
    code, left = pursue(target_sign * 3 * d[5].double()[None], d, 4, pursuit)
    assert code.indices[0, 0].item() == 5
    assert code.count.item() == 1
    assert code.coefficients[0, 0].item() == pytest.approx(target_sign * 3.0, rel=1e-6)
    assert left.item() < 1e-12


def test_near_duplicates_that_float32_products_cannot_tell_apart_are_told_apart():
    base = unit_rows(1, 256, 1).double()
    nudges = 1e-7 * normal(400, 256, 2).double()
    d = torch.nn.functional.normalize(base + nudges, dim=1).float()
    x = base + 1e-3 * normal(20, 256, 3).double()
    code, _ = pursue(x, d, 1, "mp")
    exact = (x @ d.double().T).abs()
    assert torch.equal(code.indices[:, 0], exact.argmax(dim=1))


@ALL
def test_a_zero_activation_has_an_empty_code_and_no_error(pursuit):
    x = normal(3, 8)
    x[1] = 0
    code, left = pursue(x, unit_rows(20, 8), 4, pursuit)
    assert code.count.tolist() == [4, 0, 4]
    assert code.coefficients[1].tolist() == [0.0] * 4
    assert left[1].item() == 0.0


@OF_BOTH_SIGNS
def test_more_steps_than_atoms_give_a_shorter_code_padded_with_zeros(pursuit):
    code, _ = pursue(normal(6, 16), unit_rows(3, 16), 10, pursuit)
    assert code.indices.shape == (6, 10)
    assert (code.count == 3).all()
    assert (code.coefficients[:, 3:] == 0).all()
    assert (code.indices[:, 3:] == 0).all()


@ALL
def test_no_atoms_explain_nothing(pursuit):
    code, left = pursue(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.empty(0, 2), 3, pursuit)
    assert code.count.tolist() == [0, 0]
    assert left.tolist() == [1.0, 0.0]


@ALL
@pytest.mark.parametrize("exponent", [-140, -126, -30, 0, 30, 110])
def test_codes_scale_with_the_activation_from_subnormal_to_huge(pursuit, exponent):
    x, d = normal(8, 16), unit_rows(40, 16)
    x = (x * 2**6).round()  # whole numbers, so that subnormal float32 holds them exactly
    code, left = pursue(x, d, 5, pursuit)
    scaled = (x.double() * 2.0**exponent).float()
    assert torch.equal(scaled.double(), x.double() * 2.0**exponent)
    other, other_left = pursue(scaled, d, 5, pursuit)
    assert torch.equal(code.indices, other.indices)
    assert same_bits(left, other_left)
    expected = (code.coefficients.double() * 2.0**exponent).float()
    torch.testing.assert_close(other.coefficients, expected, rtol=1e-6, atol=2.0**-148)


def test_mp_picks_an_atom_again_and_adds_its_coefficients():
    c, s = np.cos(0.3), np.sin(0.3)
    d = torch.tensor([[1.0, 0.0], [c, s]], dtype=torch.float32)
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    expected, picks, _ = slow_pursuit(x[0].numpy(), d.numpy(), 6, "mp")
    assert picks == [1, 0, 1, 0, 1, 0]  # alternating, by hand
    code, _ = pursue(x, d, 6, "mp")
    assert code.indices[0].tolist() == [1, 0, 0, 0, 0, 0]
    assert code.count.item() == 2
    assert as_dict(code, 0) == pytest.approx(expected)


@pytest.mark.parametrize("pursuit", ["mp_refit", "omp"])
@pytest.mark.parametrize("apart", [1e-3, 1e-5, 1e-7, 0.0])
def test_nearly_collinear_atoms_do_not_blow_up(pursuit, apart):
    first, other = unit_rows(2, 32, 4)
    d = torch.nn.functional.normalize(torch.stack([first, first + apart * other, *unit_rows(30, 32, 5)]), dim=1)
    x = (first + 0.5 * apart * other)[None] + 0.3 * normal(20, 32, 6)
    code, left = pursue(x, d, 16, pursuit)
    _, plain = pursue(x, d, 16, "mp")
    assert torch.isfinite(code.coefficients).all()
    reconstruction = code.dense(len(d)).double() @ d.double()
    error = (x - reconstruction).square().sum(1) / x.double().square().sum(1)
    torch.testing.assert_close(error, left, rtol=1e-3, atol=1e-4)
    assert (left <= plain + 1e-6).all()


@ALL
@given(st.integers(0, 10**6), st.lists(st.integers(1, 29), max_size=4))
def test_the_bits_of_a_row_do_not_depend_on_the_rows_beside_it(pursuit, seed, cuts):
    x, d = normal(30, 24, seed), unit_rows(90, 24, seed)
    d[50:60] = d[:10]
    code, left = pursue(x, d, 6, pursuit)
    parts = [pursue(part, d, 6, pursuit) for part in torch.tensor_split(x, sorted(set(cuts)))]
    assert torch.equal(code.indices, torch.cat([c.indices for c, _ in parts]))
    assert same_bits(code.coefficients, torch.cat([c.coefficients for c, _ in parts]))
    assert same_bits(left, torch.cat([e for _, e in parts]))


@ALL
def test_the_bits_depend_neither_on_threads_nor_on_the_precision_of_products_elsewhere(pursuit):
    x, d = normal(64, 96), unit_rows(500, 96)
    results, threads = [], torch.get_num_threads()
    try:
        for number, precision in [(1, "highest"), (2, "highest"), (2, "medium")]:
            torch.set_num_threads(number)
            torch.set_float32_matmul_precision(precision)
            results.append(pursue(x, d, 8, pursuit))
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
    for code, left in results[1:]:
        assert torch.equal(code.indices, results[0][0].indices)
        assert same_bits(code.coefficients, results[0][0].coefficients)
        assert same_bits(left, results[0][1])


@ALL
def test_groups_of_rows_smaller_than_memory_allows_change_nothing(pursuit, monkeypatch):
    x, d = normal(40, 24), unit_rows(90, 24)
    whole = pursue(x, d, 6, pursuit)
    monkeypatch.setattr("itda.core.pursuit.plain.PRODUCT_SIZE", 200)
    pieces = pursue(x, d, 6, pursuit)
    assert torch.equal(whole[0].indices, pieces[0].indices)
    assert same_bits(whole[0].coefficients, pieces[0].coefficients)
