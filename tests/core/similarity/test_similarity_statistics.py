"""Sums over tokens: those of the data in memory, however the data come."""

import itertools

import pytest
import torch
from core.similarity.cases import gathered, normal
from hypothesis import given
from hypothesis import strategies as st

from itda.core.similarity import Statistics
from itda.core.similarity.statistics import BLOCK
from itda.errors import ActivationError, ItdaError

SITES = [normal(2 * BLOCK + 300, width, seed=width) * 3 + 5 * normal(width, seed=9 + width) for width in (3, 1, 4)]


def everything(statistics: Statistics) -> list[torch.Tensor]:
    sites = range(len(statistics))
    means = [statistics.mean(i) for i in sites]
    return [*means, statistics.square_products(), *(statistics.covariance(i, j) for i in sites for j in sites)]


def in_memory(sites: list[torch.Tensor]) -> list[torch.Tensor]:
    means = [site.double().mean(dim=0) for site in sites]
    centred = [site.double() - mean for site, mean in zip(sites, means, strict=True)]
    squares = torch.stack([x.square().sum(dim=1) for x in centred])
    n = len(sites[0])
    return [*means, squares @ squares.T / n, *(x.T @ y / n for x in centred for y in centred)]


def assert_close(got: list[torch.Tensor], expected: list[torch.Tensor], relative: float = 1e-10) -> None:
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= relative * b.abs().max()


def test_statistics_are_those_of_the_data_in_memory():
    assert_close(everything(gathered(SITES)), in_memory(SITES), 1e-13)


@given(st.lists(st.integers(0, 2 * BLOCK + 300), max_size=6), st.booleans())
def test_chunks_of_any_size_give_the_same_bits(cuts, one_by_one):
    statistics = Statistics([3, 1, 4])
    edges = sorted({0, *cuts, *(range(5) if one_by_one else ()), len(SITES[0])})
    for start, end in itertools.pairwise(edges):
        statistics.add([site[start:end] for site in SITES])
    assert statistics.count == len(SITES[0])
    assert all(map(torch.equal, everything(statistics), everything(gathered(SITES))))


def test_reading_on_the_way_changes_only_rounding():
    statistics = Statistics([3, 1, 4])
    for start in range(0, len(SITES[0]), 500):
        statistics.add([site[start : start + 500] for site in SITES])
        everything(statistics)
    assert_close(everything(statistics), in_memory(SITES))


@given(st.integers(0, len(SITES[0])))
def test_merging_two_parts_is_one_pass(cut):
    first, second = Statistics([3, 1, 4]), Statistics([3, 1, 4])
    first.add([site[:cut] for site in SITES])
    second.add([site[cut:] for site in SITES])
    first.merge(second)
    assert first.count == len(SITES[0])
    assert second.count == len(SITES[0]) - cut
    assert_close(everything(first), in_memory(SITES))


def test_a_large_mean_costs_no_digits():
    sites = [(site + 1e5).float() for site in SITES]
    assert_close(everything(gathered(sites))[3:], in_memory(sites)[3:])


def test_an_outlier_as_the_first_token_costs_no_digits():
    sites = [torch.cat([torch.full((1, site.shape[1]), 3e3), site]) for site in SITES]
    got, expected = gathered(sites), in_memory(sites)
    assert_close(everything(got), expected)
    # What is small beside the outlier is exact too: the difference of two features.
    apart = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    assert apart @ got.covariance(0, 0) @ apart == pytest.approx((apart @ expected[4] @ apart).item(), rel=1e-10)


def test_half_precision_activations_that_need_gradients_are_taken_as_they_are():
    halves = [site.bfloat16().requires_grad_() for site in SITES]
    assert_close(everything(gathered(halves)), everything(gathered([half.detach().double() for half in halves])))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([torch.zeros(4, 2), torch.zeros(4, 4)], r"layer_1 has width 4 instead of 3: give"),
        ([torch.zeros(4, 2), torch.zeros(5, 3)], r"layer_1 has 5 rows, and layer_0 4: give"),
        ([torch.zeros(4, 2), torch.zeros(4, 3).index_fill(0, torch.tensor(2), torch.nan)], r"layer_1 .* row 2: leave"),
        ([torch.zeros(4, 2).fill_(torch.inf), torch.zeros(4, 3)], r"layer_0 has a NaN or an infinity in row 0: leave"),
        ([torch.zeros(4, 2)], r"activations of 1 sites instead of 2: give"),
    ],
)
def test_activations_that_do_not_fit_are_an_error_naming_the_site_and_none_are_added(parts, message):
    statistics = Statistics([2, 3], names=["layer_0", "layer_1"])
    with pytest.raises(ActivationError, match=message):
        statistics.add(parts)
    assert statistics.count == 0


def test_nothing_to_read_or_no_such_sites_is_an_error():
    for read in (lambda s: s.mean(0), lambda s: s.covariance(0, 1), lambda s: s.square_products()):
        with pytest.raises(ActivationError, match="add some first"):
            read(Statistics([2, 3]))
    for make in (
        lambda: Statistics([]),
        lambda: Statistics([2, 0]),
        lambda: Statistics([2], names=["a", "b"]),
        lambda: Statistics([2]).merge(Statistics([3])),
    ):
        with pytest.raises(ItdaError, match=r"give|at least one|merge"):
            make()
