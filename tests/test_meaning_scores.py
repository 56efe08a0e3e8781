"""benchmarks/meaning_scores.py and around it: choice of features, probes, areas, matching, by their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meaning_ce import by_document
from meaning_docs import written
from meaning_methods import leaders
from meaning_model import batched
from meaning_prompts import drawn
from meaning_saelens import load_sae, save_sae
from meaning_scores import (
    PENALTIES,
    auroc,
    by_mean_difference,
    choose,
    cosines_to_nearest,
    logistic,
    paired,
    probe_auc,
    probed,
    ratio,
    split,
)
from meaning_text import Text, joined
from saelens_sae import Recipe, TrainedSae
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_auroc_is_scikit_learns_also_where_scores_tie(seed: int, positives: int, negatives: int) -> None:
    positive = np.arange(positives + negatives) < positives
    scores = np.random.default_rng(seed).integers(0, 6, (len(positive), 3)).astype(float)
    assert auroc(scores, positive) == pytest.approx([roc_auc_score(positive, column) for column in scores.T])


@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [1.0, 50.0, 0.02]])
def test_logistic_regression_is_scikit_learns_at_each_penalty(scales: list[float]) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 3)) * scales
    y = (x @ (np.array([1.0, -1.0, 0.5]) / scales) + generator.normal(size=120) > 0).astype(int)
    weights, intercepts = logistic(x, y, PENALTIES)
    for penalty, w, intercept in zip(PENALTIES, weights, intercepts, strict=True):
        theirs = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(x, y)
        assert w == pytest.approx(theirs.coef_[0], rel=1e-3, abs=1e-7)
        assert intercept == pytest.approx(theirs.intercept_[0], rel=1e-3, abs=1e-6)


def test_more_features_than_rows_give_the_same_regression() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(60, 200))
    y = (x[:, 0] + generator.normal(size=60) > 0).astype(int)
    weights, intercepts = logistic(x, y, [0.1])
    theirs = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-10).fit(x, y)
    assert weights[0] == pytest.approx(theirs.coef_[0], abs=1e-6)
    assert intercepts[0] == pytest.approx(theirs.intercept_[0], abs=1e-6)


def test_classes_that_a_feature_separates_are_no_trouble() -> None:
    x = np.random.default_rng(0).permutation(np.linspace(-1, 1, 60))[:, None]
    assert probe_auc(x[::2], (x[::2, 0] > 0).astype(int), x[1::2], (x[1::2, 0] > 0).astype(int)) == 1.0


def test_the_mean_difference_is_in_units_of_a_feature_where_it_is_active() -> None:
    y = torch.tensor([0, 0, 1, 1])
    large_but_rarely = torch.tensor([0.0, 0.0, 0.0, 90.0])
    small_and_always = torch.tensor([0.0, 0.0, 0.1, 0.1])
    negative = torch.tensor([0.0, 0.0, 0.0, 0.0])
    assert by_mean_difference(torch.stack([negative, large_but_rarely, small_and_always], dim=1), y).tolist() == [
        2,
        1,
        0,
    ]


def test_a_feature_that_tells_the_classes_apart_is_found_and_one_is_enough() -> None:
    generator = np.random.default_rng(0)
    y = generator.permutation(np.arange(400) % 2)
    features = torch.from_numpy(generator.normal(size=(400, 50))).float().relu()
    features[:, 17] += torch.from_numpy(3.0 * y)
    chosen = choose(features, y, 5, 42)
    assert chosen.order[0] == 17
    assert min(probed([chosen], (1, 5))[0]) > 0.95


def test_without_a_choice_all_features_are_used() -> None:
    y = np.arange(400) % 2
    features = torch.from_numpy(np.stack([y - 0.5, np.zeros(400)], axis=1)).float()
    assert probed([choose(features, y, None, 42)], (None,)) == [[1.0]]


def test_data_sets_solved_together_have_the_areas_they_have_alone() -> None:
    generator = np.random.default_rng(0)
    chosen = []
    for rows in (400, 300, 400, 400):
        y = generator.permutation(np.arange(rows) % 2)
        features = torch.from_numpy(generator.normal(size=(rows, 30)) + y[:, None] * generator.normal(size=30) / 3)
        chosen.append(choose(features, y, 16, 42))
    together = probed(chosen, (1, 5, 16))
    assert together == [probed([each], (1, 5, 16))[0] for each in chosen]
    train = chosen[0].train
    parts = chosen[0].x[:train, :5], chosen[0].y[:train], chosen[0].x[train:, :5], chosen[0].y[train:]
    assert together[0][1] == probe_auc(*(part.numpy() for part in parts))


@given(SEEDS.filter(lambda seed: seed < 2**31))
@settings(max_examples=20, deadline=None)
def test_training_and_test_rows_are_balanced_and_apart(seed: int) -> None:
    y = np.random.default_rng(seed).permutation(np.arange(400) % 2)
    train, test = split(y, seed)
    assert (len(train), len(test)) == (300, 99)
    assert (y[train].sum(), y[test].sum()) == (150, 50)
    assert len(set(train) | set(test)) == 399


@pytest.mark.parametrize("counts", [(500, 700), (90, 700)])
def test_rows_are_drawn_evenly_from_both_classes(counts: tuple[int, int]) -> None:
    y = np.repeat([0, 1], counts)
    rows = drawn(y, 400)
    assert len(rows) == len(set(rows)) == min(400, 2 * min(counts))
    assert y[rows].mean() == 0.5
    assert rows.tolist() == drawn(y, 400).tolist()


@given(st.lists(st.integers(1, 128), min_size=1, max_size=60))
def test_every_text_is_in_one_batch_and_no_batch_is_too_large(lengths: list[int]) -> None:
    batches = list(batched(lengths, tokens=256))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 256 for batch in batches)


def test_leaders_are_apart_and_everyone_else_is_near_one() -> None:
    z = torch.nn.functional.normalize(torch.randn(300, 4, generator=torch.Generator().manual_seed(0)))
    rows = leaders(z, 0.6, 300)
    cosines = z[rows] @ z[rows].T
    assert (cosines - torch.eye(len(rows))).max() < 0.6
    assert (z @ z[rows].T).amax(dim=1).min() >= 0.6


def test_leaders_end_when_there_are_too_many() -> None:
    assert len(leaders(torch.eye(50), 0.5, 7)) == 8


def test_an_atom_is_matched_with_the_nearest() -> None:
    z = torch.nn.functional.normalize(torch.randn(40, 5, generator=torch.Generator().manual_seed(0)))
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    cosine, partner = cosines_to_nearest(z, z[shuffled])
    assert shuffled[partner].tolist() == list(range(40))
    assert cosine == pytest.approx(torch.ones(40))


def test_a_paired_difference_has_the_standard_error_of_its_mean() -> None:
    mean, error = paired([0.5, 0.7, 0.9], [0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.2)
    assert error == pytest.approx(0.1 / 3**0.5)


def test_a_ratio_of_sums_over_equal_terms_has_the_standard_error_of_a_mean() -> None:
    values = [0.2, 0.5, 0.4, 0.9]
    mean, error = ratio(values, [1.0] * 4)
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx(np.std(values, ddof=1) / 2)


def test_sums_of_documents_come_in_the_order_of_documents() -> None:
    assert by_document(np.array([1.0, 2.0, 4.0, 8.0]), np.array(["b", "b", "c", "a"])) == [3.0, 4.0, 8.0]


def test_the_tables_of_the_page_are_replaced_and_nothing_else() -> None:
    key = {"part": "reconstruction", "layer": 7, "m": 2048, "k": 20, "seed": 0, "dictionary": "best", "readout": "code"}
    row = {"key": key, "fvu": 0.25, "seconds": 3.0, "microseconds": 70.0}
    page = (
        "before\n<!-- meaning: decoded 7 -->\n<!-- end -->\nbetween\n<!-- meaning: decoded 8 -->\nold\n<!-- end -->\n"
    )
    found = written(page, [row])
    assert "before\n<!-- meaning: decoded 7 -->\n\n| atoms |" in found
    assert "| itda `best`, recipe 1 | our pursuit | 0.250 | - | - | 3.00 | 70.0 |\n\n<!-- end -->\nbetween\n" in found
    assert "old" not in found
    assert written(found, [row]) == found


def test_an_autoencoder_comes_back_from_the_cache_as_it_was(tmp_path: Path) -> None:
    parts = torch.randn(3, 5), torch.randn(5), torch.randn(5, 3), torch.randn(3)
    sae = TrainedSae("topk", 2, *parts, 0.0, Recipe(3e-3, 8), 3e-3, 10, 80, 2.0, 0.2, None, None)
    save_sae(tmp_path / "made" / "sae.pt", sae)
    found = load_sae(tmp_path / "made" / "sae.pt")
    x = torch.randn(4, 3)
    assert torch.equal(found.reconstruct(x), sae.reconstruct(x))
    assert (found.seconds, found.steps, found.k, found.recipe.batch_size) == (2.0, 10, 2, 8)


def test_an_order_moves_whole_documents() -> None:
    text = Text(torch.arange(6.0)[:, None], np.array([0, 0, 3, 3, 3, 5]), np.arange(6))
    other = text.in_order(1)
    assert sorted(other.token.tolist()) == list(range(6))
    assert [other.token[other.document == name].tolist() for name in (0, 3, 5)] == [[0, 1], [2, 3, 4], [5]]
    assert other.x[:, 0].tolist() == other.token.tolist()
    assert {tuple(text.in_order(seed).document) for seed in range(20)} > {tuple(text.document)}


def test_groups_of_documents_that_are_joined_keep_their_documents_apart() -> None:
    one, other = (Text(torch.full((3, 2), float(n)), np.array([0, 0, 1]), np.array([n, n, n])) for n in (1, 2))
    found = joined([one, other])
    assert found.document.tolist() == [0, 0, 1, 2, 2, 3]
    assert found.token.tolist() == [1, 1, 1, 2, 2, 2]
    assert found.x[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert joined([one]) is one
