"""Relative representations, RBF-CKA and shared neighbours against plain loops."""

import itertools

import numpy as np
import pytest
import torch
from core.similarity.cases import normal, related
from hypothesis import given
from hypothesis import strategies as st

from itda.core.similarity import Relative, rbf_cka_matrix, shared_neighbours_matrix
from itda.core.similarity import relative as relative_module
from itda.errors import ActivationError, SettingError

X, Y = related(rows=60, seed=1, mean=2)
MEANS = [X.mean(dim=0), Y.mean(dim=0)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow_relative(centred: bool, centred_codes: bool) -> float:
    """Of X and Y, of which the first 20 tokens are anchors, by a loop over tokens and one over anchors."""
    x, y = ((site - centred * mean).numpy() for site, mean in zip((X, Y), MEANS, strict=True))
    found = []
    for token in range(20, 60):
        codes = [np.array([cosine(site[token], site[anchor]) for anchor in range(20)]) for site in (x, y)]
        found.append(cosine(*(code - centred_codes * code.mean() for code in codes)))
    return float(np.mean(found))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("centred_codes", [False, True])
def test_relative_is_that_of_a_double_loop(centred, centred_codes):
    relative = Relative([X[:20], Y[:20]], means=MEANS if centred else None, centred_codes=centred_codes)
    relative.add([X[20:], Y[20:]])
    expected = slow_relative(centred, centred_codes)
    assert 0.1 < expected < 0.99
    assert relative.matrix()[0, 1].item() == pytest.approx(expected, rel=1e-10)


@given(cuts=st.lists(st.integers(20, 60), max_size=6), cells=st.sampled_from([1, 100, 2**23]))
def test_relative_of_chunks_of_any_size_is_that_of_one(cuts, cells):
    relative, whole = (Relative([X[:20], Y[:20]]) for _ in range(2))
    whole.add([X[20:], Y[20:]])
    edges = sorted({20, *cuts, 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relative_module, "CELLS", cells)
        for start, end in itertools.pairwise(edges):
            relative.add([X[start:end], Y[start:end]])
    assert relative.count == 40
    assert (relative.matrix() - whole.matrix()).abs().max() < 1e-12


def slow_rbf(site: torch.Tensor, unbiased: bool) -> np.ndarray:
    n = len(site)
    distances = np.array([[np.linalg.norm(a - b) for b in site.numpy()] for a in site.numpy()])
    pairs = sorted(distances[i, j] for i, j in itertools.combinations(range(n), 2))
    k = np.exp(-(distances**2) / (2 * (0.4 * pairs[(len(pairs) - 1) // 2]) ** 2))
    if unbiased:
        np.fill_diagonal(k, 0)
        return k
    h = np.eye(n) - 1 / n
    return h @ k @ h


def slow_hsic(k: np.ndarray, m: np.ndarray, unbiased: bool) -> float:
    if not unbiased:
        return (k * m).sum()
    n = len(k)
    return (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("cells", [1, 1000, 2**23])
def test_rbf_cka_is_that_of_whole_kernel_matrices(unbiased, cells, monkeypatch):
    monkeypatch.setattr("itda.core.similarity.neighbours.CELLS", cells)
    k, m = (slow_rbf(site, unbiased) for site in (X, Y))
    expected = slow_hsic(k, m, unbiased) / np.sqrt(slow_hsic(k, k, unbiased) * slow_hsic(m, m, unbiased))
    assert 0.05 < expected < 0.95
    assert rbf_cka_matrix([X, Y], unbiased=unbiased)[0, 1].item() == pytest.approx(expected, rel=1e-9)


def test_rbf_cka_of_independent_noise_is_near_zero_where_unbiased_and_not_where_biased():
    sites = [normal(60, 200, seed=seed) for seed in range(6)]
    pairs = torch.triu_indices(6, 6, 1)
    assert rbf_cka_matrix(sites, unbiased=True)[pairs[0], pairs[1]].abs().max() < 0.15
    assert rbf_cka_matrix(sites)[pairs[0], pairs[1]].min() > 0.5


def slow_nearest(site: torch.Tensor, k: int) -> list[set[int]]:
    x = (site - site.mean(dim=0)).numpy()
    others = [[j for j in range(len(x)) if j != i] for i in range(len(x))]
    return [set(sorted(others[i], key=lambda j: -cosine(x[i], x[j]))[:k]) for i in range(len(x))]


@pytest.mark.parametrize("k", [1, 10, 59])
def test_neighbours_are_those_of_a_loop_over_pairs(k):
    pairs = list(zip(slow_nearest(X, k), slow_nearest(Y, k), strict=True))
    jaccard = np.mean([len(a & b) / len(a | b) for a, b in pairs])
    assert shared_neighbours_matrix([X, Y], k=k)[0, 1].item() == pytest.approx(jaccard, rel=1e-12)
    overlap = np.mean([len(a & b) / k for a, b in pairs])
    assert shared_neighbours_matrix([X, Y], k=k, share="overlap")[0, 1].item() == pytest.approx(overlap, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_site_that_does_not_vary_is_an_error_naming_it(value):
    still, names = torch.full((60, 3), value), ["layer_0", "layer_1"]
    for index in (rbf_cka_matrix, shared_neighbours_matrix):
        with pytest.raises(ActivationError, match=r"layer_1 .*leave"):
            index([X, still], names=names)
    with pytest.raises(ActivationError, match=r"layer_1 .*leave"):
        Relative([X, still], means=[X.mean(dim=0), still.double().mean(dim=0)], names=names)


def test_a_token_without_a_direction_is_an_error_naming_site_and_row():
    relative = Relative([X[:20], Y[:20]], means=MEANS)
    at_mean = Y[20:].clone()
    at_mean[7] = MEANS[1]
    with pytest.raises(ActivationError, match="site 1 has no direction in row 7"):
        relative.add([X[20:], at_mean])
    with pytest.raises(ActivationError, match="add some first"):
        relative.matrix()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Relative([X[:1], Y[:1]]), "1 anchors: give at least 2"),
        (lambda: Relative([X, Y[:20]]), "site 1 has 20 rows, and site 0 60: give"),
        (lambda: Relative([X, Y], means=[MEANS[0], MEANS[0]]), "give one of each site"),
        (lambda: Relative([X, Y]).add([X, X]), "site 1 has width 6 instead of 5: give"),
        (lambda: Relative([]), "give at least one"),
        (lambda: shared_neighbours_matrix([X, Y], k=60), "at most 59 others"),
        (lambda: shared_neighbours_matrix([X, Y], k=0), "at least 1"),
        (lambda: shared_neighbours_matrix([X, Y[:20]]), "site 1 has 20 rows, and site 0 60: give"),
        (lambda: rbf_cka_matrix([X[:3], Y[:3]]), "at least 4"),
        (lambda: rbf_cka_matrix([X, Y], width=0.0), "must be above 0"),
        (lambda: rbf_cka_matrix([X, Y * torch.nan]), "site 1 has a NaN or an infinity in row 0: leave"),
    ],
)
def test_what_cannot_be_compared_is_an_error_with_a_remedy(use, message):
    with pytest.raises((ActivationError, SettingError), match=message):
        use()
