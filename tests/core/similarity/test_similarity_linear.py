"""Linear indices against their definitions on the data: Gram matrices, QR, least squares, explicit rotations."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from core.similarity.cases import gathered, normal, related, rotation

from itda.core.similarity import LINEAR, Linear, Statistics, directed_r2, regression_r2, undersampled
from itda.core.similarity.factors import clipped, few_threads
from itda.errors import ActivationError, SettingError


def both(x: torch.Tensor, y: torch.Tensor) -> Linear:
    return Linear(gathered([x, y]))


def centred(x: torch.Tensor) -> np.ndarray:
    return (x.double() - x.double().mean(dim=0)).numpy()


def gram_cka(x: np.ndarray, y: np.ndarray) -> float:
    h = np.eye(len(x)) - 1 / len(x)
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def hsic_1(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 5 of Song et al. 2012, with n x n matrices of features as they are, not centred."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    trace, sums = np.trace(k @ m), (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def canonical(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlations, and the variates of either side, by QR of the data."""
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    u, rho, vh = np.linalg.svd(qx.T @ qy, full_matrices=False)
    return rho, qx @ u, qy @ vh.T


def leading(x: np.ndarray) -> np.ndarray:
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = next(k for k in range(1, len(s) + 1) if (s[:k] ** 2).sum() >= 0.99 * (s**2).sum())
    return u[:, :kept] * s[:kept]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cka_is_that_of_whole_gram_matrices(seed):
    x, y = related(seed=seed, mean=3)
    assert both(x, y).cka(0, 1) == pytest.approx(gram_cka(x.numpy(), y.numpy()), rel=1e-10)


def test_cka_is_right_to_a_millionth_beside_an_outlier_dimension_and_a_large_mean():
    x, y = (site.float() for site in related(rows=400, seed=3, mean=20))
    x[:, 2] *= 1000
    for site in (x, (x.double() @ rotation(6)).float()):  # along an axis, and along none
        exact = gram_cka(site.double().numpy(), y.double().numpy())
        assert both(site, y).cka(0, 1) == pytest.approx(exact, rel=1e-6)


def test_cka_zscored_is_cka_of_standardised_features():
    x, y = related(seed=4, mean=3)
    expected = gram_cka((x / x.std(dim=0)).numpy(), (y / y.std(dim=0)).numpy())
    assert both(x, y).cka_zscored(0, 1) == pytest.approx(expected, rel=1e-10)
    still = torch.cat([x, torch.full((150, 1), 0.1)], dim=1)  # a feature that does not vary
    assert both(still, y).cka_zscored(0, 1) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rows", [12, 150])
def test_cka_unbiased_is_by_the_u_statistic_of_whole_gram_matrices(seed, rows):
    x, y = (site.numpy() for site in related(rows=rows, seed=seed, mean=3, widths=(20, 15)))
    expected = hsic_1(x, y) / np.sqrt(hsic_1(x, x) * hsic_1(y, y))
    assert both(torch.tensor(x), torch.tensor(y)).cka_unbiased(0, 1) == pytest.approx(expected, rel=1e-9)


def test_the_u_statistic_is_the_mean_over_quadruples_of_distinct_tokens():
    x, y = (site.numpy() for site in related(rows=7, seed=5, mean=2))
    k, m = x @ x.T, y @ y.T
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    assert hsic_1(x, y) == pytest.approx(np.mean(terms), rel=1e-10)


def test_independent_noise_with_more_dimensions_than_tokens_has_unbiased_cka_near_zero_but_not_biased():
    sites = [normal(60, 200, seed=seed) for seed in range(8)]
    index = Linear(gathered(sites))
    pairs = torch.triu_indices(8, 8, 1)
    unbiased, biased = (index.matrix(name)[pairs[0], pairs[1]] for name in ("cka_unbiased", "cka"))
    assert unbiased.abs().max() < 0.1
    assert abs(unbiased.mean()) < 0.02
    assert biased.min() > 0.7


def test_cca_and_pwcca_are_by_qr_of_the_data():
    x, y = related(seed=6, mean=3)
    rho, left, right = canonical(centred(x), centred(y))
    one, other = (abs(variates.T @ centred(site)).sum(axis=1) for variates, site in ((left, x), (right, y)))
    index = both(x, y)
    assert index.cca(0, 1) == pytest.approx(rho.mean(), rel=1e-10)
    assert index.pwcca(0, 1) == pytest.approx((rho @ one / one.sum() + rho @ other / other.sum()) / 2, rel=1e-10)
    assert index.pwcca(1, 0) == index.pwcca(0, 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_svcca_is_cca_of_the_components_with_99_percent_of_the_variance(seed):
    x, y = related(seed=seed, mean=3, widths=(12, 9))
    x, y = x * torch.logspace(0, -2, 12), y * torch.logspace(0, -2, 9)
    one, other = leading(centred(x)), leading(centred(y))
    assert 1 < one.shape[1] < 12
    assert both(x, y).svcca(0, 1) == pytest.approx(canonical(one, other)[0].mean(), rel=1e-9)


def test_procrustes_is_the_cosine_after_the_best_rotation():
    x, y = centred(related(seed=7)[0]), centred(related(seed=7)[1])
    wide = np.hstack([y, np.zeros((len(y), 1))])  # as wide as x
    turn, _ = scipy.linalg.orthogonal_procrustes(x, wide)
    expected = (x @ turn * wide).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    assert both(torch.tensor(x), torch.tensor(y)).procrustes(0, 1) == pytest.approx(expected, rel=1e-10)


def least_squares(x: torch.Tensor, y: torch.Tensor, held_x: torch.Tensor, held_y: torch.Tensor) -> float:
    known, new = (np.hstack([part.numpy(), np.ones((len(part), 1))]) for part in (x, held_x))
    residual = held_y.numpy() - new @ np.linalg.lstsq(known, y.numpy(), rcond=None)[0]
    return 1 - (residual**2).sum() / (centred(held_y) ** 2).sum()


def test_regression_is_least_squares_with_an_intercept_measured_on_held_out_tokens():
    x, y = related(seed=8, mean=3)
    y = y + 0.1 * x[:, :5] * torch.linspace(-2, 2, 150)[:, None]  # what is held out is not quite like the rest
    known, new = [x[:90], y[:90]], [x[90:], y[90:]]
    there = least_squares(x[:90], y[:90], x[90:], y[90:])
    back = least_squares(y[:90], x[:90], y[90:], x[90:])
    directed = directed_r2(Linear(gathered(known)), gathered(new))
    assert directed[0, 1].item() == pytest.approx(there, rel=1e-9)
    assert directed[1, 0].item() == pytest.approx(back, rel=1e-9)
    both_ways = regression_r2(Linear(gathered(known)), gathered(new))
    assert both_ways[0, 1].item() == both_ways[1, 0].item() == pytest.approx((there + back) / 2, rel=1e-9)


def test_regression_between_independent_sites_explains_nothing_held_out():
    known, new = ([normal(200, 50, seed=seed), normal(200, 50, seed=seed + 1)] for seed in (0, 2))
    directed = directed_r2(Linear(gathered(known)), gathered(new))
    assert directed[0, 1] < 0
    in_sample = directed_r2(Linear(gathered(known)), gathered(known))
    assert in_sample[0, 1] > 0.2


def test_sites_without_full_rank_give_what_their_distinct_directions_give():
    x, y = related(seed=9, mean=3)
    doubled = torch.cat([x, x[:, :3], x @ normal(6, 2)], dim=1)
    held = related(seed=10, mean=3)
    full, lacking = both(x, y), both(doubled, y)
    assert len(lacking.factor(0).variances) == 6
    assert lacking.cca(0, 1) == pytest.approx(full.cca(0, 1), rel=1e-7)
    got = directed_r2(lacking, gathered([torch.cat([held[0], held[0][:, :3], held[0] @ normal(6, 2)], 1), held[1]]))
    assert got[0, 1].item() == pytest.approx(directed_r2(full, gathered(list(held)))[0, 1].item(), rel=1e-7)


def test_fewer_tokens_than_dimensions_give_numbers_and_cca_gives_one():
    index = Linear(gathered([normal(10, 30), normal(10, 40, seed=1)]))
    assert all(torch.isfinite(index.matrix(name)).all() for name in LINEAR)
    assert index.cca(0, 1) == pytest.approx(1, abs=1e-6)


def test_all_pairs_are_the_pairs_one_by_one():
    sites = [*related(seed=11), *related(seed=12, widths=(3, 8))]
    index = Linear(gathered(sites))
    for name in LINEAR:
        got = index.matrix(name)
        for i, j in itertools.permutations(range(4), 2):
            assert got[i, j].item() == pytest.approx(LINEAR[name](both(sites[i], sites[j]), 0, 1), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_site_that_does_not_vary_is_an_error_naming_it(value):
    statistics = Statistics([6, 3], names=["layer_0", "layer_1"])
    statistics.add([normal(3000, 6), torch.full((3000, 3), value)])
    with pytest.raises(ActivationError, match="layer_1 is the same at every token: leave"):
        Linear(statistics)
    varying = Linear(gathered([normal(3000, 6), normal(3000, 3)]))
    with pytest.raises(ActivationError, match="layer_1 is the same at every token: leave"):
        regression_r2(varying, statistics)


def test_unbiased_cka_of_too_few_tokens_or_of_one_that_differs_is_an_error():
    with pytest.raises(ActivationError, match="at least 4"):
        both(normal(3, 2), normal(3, 2, seed=1)).cka_unbiased(0, 1)
    one = torch.zeros(10, 2)
    one[4] = 3
    with pytest.raises(ActivationError, match="site 1 varies at one token only"):
        both(normal(10, 2), one).cka_unbiased(0, 1)


def test_sites_with_fewer_than_ten_rows_per_dimension_are_named():
    assert undersampled(gathered([normal(50, 5), normal(50, 6), normal(50, 4)])) == ("site 1",)


def test_rows_added_later_and_other_sites_or_names_are_errors():
    statistics = gathered([*related()])
    index = Linear(statistics)
    index.cka(0, 1)
    statistics.add([*related(seed=1)])
    for use in (lambda: index.cka(0, 1), lambda: regression_r2(index, statistics)):
        with pytest.raises(SettingError, match="150 rows were added since: make a new"):
            use()
    with pytest.raises(SettingError, match="choose from cka"):
        index.matrix("ckka")
    with pytest.raises(SettingError, match="give the same sites"):
        regression_r2(Linear(statistics), Statistics([6, 6]))


def test_threads_are_as_they_were_after_what_uses_one():
    index = both(*related())
    torch.set_num_threads(2)
    try:
        index.matrix("cca")
        assert torch.get_num_threads() == 2
        with few_threads(6):
            assert torch.get_num_threads() == 1
        with few_threads(1000):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_correlations_beyond_rounding_above_one_are_not_clipped():
    assert clipped(torch.tensor([1 + 1e-7, 0.5], dtype=torch.float64)).tolist() == [1, 0.5]
    with pytest.raises(AssertionError, match="canonical correlation"):
        clipped(torch.tensor([1 + 1e-5], dtype=torch.float64))
