"""benchmarks: indices of labels and novelty, by their definitions; what is measured is the product's fingerprint."""

import itertools

import classical
import index_choice
import label_indices
import matching
import novelty
import numpy as np
import pytest
import torch
from families_train import Family

from itda.core.similarity.fingerprint import RUNGS, STEPS, FingerprintSettings, fingerprint_of

VALUES = np.random.default_rng(0).random((4, 50)) ** 3


def test_the_weighted_jaccard_is_the_jaccard_of_sets_summed_over_all_thresholds():
    found = label_indices.weighted(VALUES)
    thresholds = np.linspace(0, 1, 20_000, endpoint=False)
    for i, j in itertools.product(range(4), repeat=2):
        a, b = VALUES[i][:, None] > thresholds, VALUES[j][:, None] > thresholds
        assert found[i, j] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-3)
        assert found[i, j] == pytest.approx(
            np.minimum(VALUES[i], VALUES[j]).sum() / np.maximum(VALUES[i], VALUES[j]).sum()
        )


def test_jaccard_adjusted_and_equal_shares_follow_their_definitions():
    atoms = label_indices.most_novel(VALUES, 0.2)
    assert atoms.sum(1).tolist() == [10] * 4
    assert all(VALUES[i][atoms[i]].min() >= VALUES[i][~atoms[i]].max() for i in range(4))
    both, either = (atoms[0] & atoms[1]).sum(), (atoms[0] | atoms[1]).sum()
    assert label_indices.jaccard(atoms)[0, 1] == both / either
    expected = (10 * 10 / 50) / (20 - 10 * 10 / 50)
    assert label_indices.adjusted(atoms)[0, 1] == pytest.approx((both / either - expected) / (1 - expected))
    assert label_indices.adjusted(atoms)[2, 2] == pytest.approx(1)


def test_ranks_share_the_middle_and_concordance_is_one_for_the_same_alone():
    assert label_indices.ranks(np.array([[0.5, 0.1, 0.5, 0.9]])).tolist() == [[2.5, 1.0, 2.5, 4.0]]
    several = np.stack([VALUES[0], VALUES[0], VALUES[0] + 0.5, 2 * VALUES[0]])
    found = label_indices.concordance(several)[0]
    assert found[1] == pytest.approx(1)
    assert (found[2:] < 0.9).all()
    assert label_indices.correlation(several)[0] == pytest.approx(1)


@pytest.mark.parametrize("centred", [True, False])
def test_novelty_of_the_benchmark_is_that_of_a_fingerprint(centred):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) + 2
    found = novelty.novelty_of(x, novelty.Variant("mean" if centred else "none", segment=128), np.zeros(300, int))
    product = fingerprint_of(x, FingerprintSettings(segment=128, centred=centred, massive=False))
    np.testing.assert_allclose(found.novelty, product.novelty / STEPS, atol=1e-4)
    for rung, threshold in enumerate(RUNGS):
        assert (found.atoms[novelty.RUNGS.index(threshold)] == product.is_atom(rung)).all()


def test_nearest_four_and_orders_are_what_a_slow_search_finds():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    document = np.repeat([0, 1, 2, 3], 10)
    found = novelty.novelty_of(x, novelty.Variant("none", order=3), document)
    order = novelty.ordered(document, 3)
    assert sorted(order) == list(range(40))
    assert order.tolist() != list(range(40))
    units = torch.nn.functional.normalize(x, dim=1).double()
    for place, row in enumerate(order):
        squares = (units[order[:place].copy()] @ units[row]).square()
        four = torch.zeros(4).double()
        best = squares.sort(descending=True).values[:4]
        four[: len(best)] = best
        assert found.novelty[row] == pytest.approx(1 - four[0].item(), abs=1e-5)
        assert found.to_four[row] == pytest.approx(1 - four.mean().item(), abs=1e-5)
        assert found.nearest[row] == (order[int(squares.argmax())] if place else -1)


@pytest.mark.parametrize("offset", ["none", "mean", "pc2", "half", "white"])
def test_offsets_leave_what_they_say(offset):
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(2)).double() * torch.tensor([9, 5, 2, 1, 1, 1]) + 7
    found = novelty.shifted(x, offset)
    if offset == "none":
        assert torch.equal(found, x)
        return
    assert found.mean(0).abs().max() < 1e-9
    spread = torch.linalg.eigvalsh(found.T @ found / 500)
    before = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    wanted = {"mean": before, "half": before**0.5, "white": torch.ones(6).double()}
    if offset == "pc2":
        assert spread[:2].abs().max() < 1e-9
        torch.testing.assert_close(spread[2:], before[:4])
    else:
        torch.testing.assert_close(spread, wanted[offset])


def test_errors_of_families_add_as_independent_ones_do():
    assert matching.over_families([(0.5, 0.1), (0.7, 0.0)], 5) == pytest.approx((0.6, 0.05))
    mean, half = matching.over_families([(0.5, 0.1), (0.7, 0.1)], 5)
    assert mean == pytest.approx(0.6)
    assert half == pytest.approx(matching.T[8] / matching.T[4] * 0.1 / 2**0.5)


def test_the_rule_prefers_the_mean_removed_within_the_interval_and_never_a_control():
    def row(value: float, wave: float) -> dict[str, float]:
        return {f"{m} {n}": value + wave * (m - 2) for m, n in index_choice.PAIRS}

    family = Family("d-x", None, "code", 1, (1, 2, 3, 4, 5))  # type: ignore[arg-type]
    rows = {
        "mean": {"novelty, a": row(0.8, 0.02), "novelty to four, a": row(0.805, 0.02), "control: b": row(0.99, 0)},
        "none": {"novelty, a": row(0.81, 0.0), "novelty, far": row(0.5, 0.0)},
    }
    budgets = {variant: {"1,000": {"d-x": indices}} for variant, indices in rows.items()}
    lines, name = index_choice.chosen(budgets, [family])
    assert name == "novelty, a, mean"
    assert "far" not in lines
    assert "control" not in lines


def test_half_of_the_tokens_is_held_out_however_few_documents_there_are():
    for document in (np.zeros(512, int), np.arange(512) // 64, np.repeat([5, 7], 256)):
        assert 0.4 < classical.halves(document).mean() < 0.6
    document = np.arange(512) // 64
    assert len(np.unique(document[classical.halves(document)])) == 4
