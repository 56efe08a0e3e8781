"""Probes against scikit-learn on dense rows, and on readouts whose best latents are known."""

import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from itda import ItdaError, SparseCode
from itda.core.bootstrap import interval
from itda.evaluation.probing import WIDEST, balanced_accuracy, held_out, pooled, probe, select, sparse_features

ROWS, LATENTS = 1200, 40


def data(seed: int = 0, share: float = 0.2):
    """Sparse features, two classes that some latents tell of, and documents."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, LATENTS)) * (rng.random((ROWS, LATENTS)) < share)
    score = x @ rng.normal(size=(LATENTS, 2)) * 2 + rng.normal(size=(ROWS, 2))
    classes = np.stack([score[:, 0] > 0.5, score[:, 1] > 2], axis=1)
    return x, classes, np.array([f"d{i // 50}" for i in range(ROWS)])


def code_of(x: np.ndarray) -> SparseCode:
    k = int((x != 0).sum(1).max())
    order = torch.tensor(np.argsort(x == 0, axis=1, kind="stable")[:, :k].copy())
    count = torch.tensor((x != 0).sum(1))
    kept = torch.arange(k) < count[:, None]
    values = torch.tensor(x).gather(1, order) * kept
    return SparseCode(order * kept, values, count)


@pytest.mark.parametrize("size", [1, 3, LATENTS])
def test_a_probe_is_scikit_learns_on_the_chosen_latents(size):
    x, y, documents = data()
    [result] = probe(x, y, documents, latent_counts=[size])
    test = held_out(documents)
    assert result.latents.shape == (2, size)
    for c in range(2):
        part = StandardScaler().fit(x[~test][:, result.latents[c]])
        model = LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=1000)
        model.fit(part.transform(x[~test][:, result.latents[c]]), y[~test, c])
        said = model.predict(part.transform(x[test][:, result.latents[c]]))
        assert result.accuracy.value[c] == pytest.approx(balanced_accuracy_score(y[test, c], said), abs=1e-12)
    assert result.mean.value == pytest.approx(result.accuracy.value.mean())
    assert (result.accuracy.low <= result.accuracy.value).all()
    assert (result.accuracy.value <= result.accuracy.high).all()


@pytest.mark.parametrize("selection", ["mean", "standardised", "stepwise"])
def test_dense_tensors_csr_matrices_and_codes_give_the_same(selection):
    x, y, documents = data()
    x = x.astype(np.float32).astype(np.float64)
    readouts = [x, torch.tensor(x), csr_matrix(x), (code_of(x), LATENTS)]
    results = [probe(r, y, documents, latent_counts=[2, 7], selection=selection) for r in readouts]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a.latents, b.latents)
            np.testing.assert_array_equal(a.sums, b.sums)


def slow_stepwise(x, y, most):
    """Forward selection by solving each weighted least-squares problem anew."""
    weight = np.sqrt(np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum()))
    target, picks = np.where(y, 1.0, -1.0) * weight, []
    for _ in range(most):
        errors = np.full(x.shape[1], np.inf)
        for j in set(range(x.shape[1])) - set(picks):
            design = np.column_stack([np.ones(len(x)), x[:, [*picks, j]]]) * weight[:, None]
            errors[j] = np.square(target - design @ np.linalg.lstsq(design, target, rcond=None)[0]).sum()
        picks.append(int(errors.argmin()))
    return picks


def test_selections_are_those_of_slow_loops():
    x, y, _ = data(3)
    gap = np.stack([x[c].mean(0) - x[~c].mean(0) for c in y.T])
    pooled_std = np.stack([np.sqrt((x[c].var(0) + x[~c].var(0)) / 2) for c in y.T])
    expected = {
        "mean": np.argsort(-np.abs(gap), axis=1)[:, :5],
        "standardised": np.argsort(-np.abs(gap) / pooled_std, axis=1)[:, :5],
        "stepwise": np.stack([slow_stepwise(x, c, 5) for c in y.T]),
    }
    for selection, latents in expected.items():
        np.testing.assert_array_equal(select(x, y, 5, selection), latents)
        np.testing.assert_array_equal(select(csr_matrix(x), y, 5, selection), latents)


def test_a_mean_that_dwarfs_the_variance_changes_no_choice():
    x, y, _ = data(4)
    far = (x + 1000 * np.arange(LATENTS)).astype(np.float32)
    for selection in ("mean", "standardised", "stepwise"):
        np.testing.assert_array_equal(select(far, y, 4, selection), select(x, y, 4, selection))


def test_stepwise_takes_no_copies_and_no_constants():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 600))
    y = (a + 0.6 * b > 0)[:, None]
    x = np.stack([np.full(600, 7.0), a, a + 1e-6 * rng.normal(size=600), 3 * a, b], axis=1)
    first, second = select(x, y, 2, "stepwise")[0]
    assert first in (1, 2, 3)
    assert second == 4
    assert not set(select(x, y, 2, "standardised")[0]) & {0, 4}
    assert sorted(select(x, y, 5, "stepwise")[0]) == [0, 1, 2, 3, 4]


def test_all_latents_sparse_dense_and_wider_than_the_directions_it_keeps():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 12)).astype(np.float32)
    y = x[:, :2] + 0.5 * rng.normal(size=(ROWS, 2)) > 0
    documents = np.arange(ROWS) // 50
    mixed = x @ rng.normal(size=(12, WIDEST + 88)).astype(np.float32)  # as many directions as x
    values = [probe(r, y, documents, latent_counts=[None])[0] for r in (x, csr_matrix(x), mixed)]
    assert values[0].latents is None
    assert all(v.mean.value > 0.8 for v in values)
    np.testing.assert_allclose(values[1].accuracy.value, values[0].accuracy.value, atol=0.02)
    np.testing.assert_allclose(values[2].accuracy.value, values[0].accuracy.value, atol=0.02)


def test_noise_is_worth_one_half_and_its_interval_says_so():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2000, 300)), rng.random((2000, 3)) < 0.1
    for result in probe(x, y, np.arange(2000) // 40, latent_counts=[1, 20]):
        assert result.mean.low < 0.5 < result.mean.high
        assert result.mean.high - result.mean.low < 0.2


def test_the_sums_of_two_readouts_give_the_interval_of_their_difference():
    x, y, documents = data()
    [good], [same] = probe(x, y, documents, latent_counts=[5]), probe(x * 2, y, documents, latent_counts=[5])
    width = good.sums.shape[1]

    def difference(sums):
        return balanced_accuracy(sums[..., :width]) - balanced_accuracy(sums[..., width:])

    found = interval(np.hstack([good.sums, same.sums]), difference)
    assert (found.low == 0).all()
    assert (found.high == 0).all()


def test_the_split_is_by_document_and_by_id_alone():
    documents = np.array([f"d{i % 20}" for i in range(300)])
    test = held_out(documents)
    assert len(np.unique(documents[test])) == 5
    assert not set(documents[test]) & set(documents[~test])
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(held_out(documents[order]), test[order])
    assert held_out(np.array(["a", "a", "b"])).sum() in (1, 2)


def test_sparse_features_leaves_padding_out():
    code = SparseCode(torch.tensor([[2, 0], [1, 3]]), torch.tensor([[0.5, 0.0], [-1.0, 2.0]]), torch.tensor([1, 2]))
    matrix = sparse_features(code, 4)
    assert matrix.nnz == 3
    np.testing.assert_array_equal(matrix.toarray(), code.dense(4).numpy())


@pytest.mark.parametrize("form", [np.asarray, csr_matrix])
def test_pooled_is_the_mean_over_each_text(form):
    x, _, _ = data()
    windows = np.array([7, 7, 3, 3, 3, 9])
    means, first = pooled(form(x[:6]), windows)
    dense = means if isinstance(means, np.ndarray) else means.toarray()
    np.testing.assert_allclose(dense, [x[:2].mean(0), x[2:5].mean(0), x[5]], rtol=1e-12)
    assert first.tolist() == [0, 2, 5]


def test_bad_input_is_an_error_with_a_remedy(monkeypatch):
    x, y, documents = data()
    with pytest.raises(ItdaError, match="give one row"):
        probe(x[:-1], y, documents)
    with pytest.raises(ItdaError, match="from 1 to 40"):
        probe(x, y, documents, latent_counts=[41])
    with pytest.raises(ItdaError, match="class 1 has 0 members"):
        probe(x, y & [True, False], documents)
    with pytest.raises(ItdaError, match="drop the rows"):
        probe(np.where(x > 3, np.nan, x), y, documents)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ItdaError, match=r"pip install 'itda\[probing\]'"):
        probe(x, y, documents)
