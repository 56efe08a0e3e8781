"""What the registry declares of each index holds, and what it denies is really violated."""

import pytest
import torch
from core.similarity.cases import INDICES, NAMES, matrix, normal, related, rotation, similarity
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.core.similarity import LINEAR

CHANGES = {
    "rotation": lambda x, seed: x @ rotation(x.shape[1], seed),
    "scale": lambda x, seed: x * (0.1 + 30 * torch.rand((), generator=torch.Generator().manual_seed(seed))),
    "translation": lambda x, seed: x + 5 * normal(x.shape[1], seed=seed),
    "linear": lambda x, seed: (
        x @ rotation(x.shape[1], seed) * torch.linspace(0.3, 3, x.shape[1]) @ rotation(x.shape[1])
    ),
}
DECLARED = [(name, change, change in INDICES[name].invariances) for name in NAMES for change in CHANGES]


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, change, holds in DECLARED if holds])
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_what_is_declared_invariant_is(name, change, seed):
    x, y = related(seed=seed)
    before = similarity(name, x, y)
    assert similarity(name, CHANGES[change](x, seed), y) == pytest.approx(before, abs=1e-6)
    assert similarity(name, x, CHANGES[change](y, seed)) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, change, holds in DECLARED if not holds])
def test_what_is_declared_not_invariant_is_not(name, change):
    # Three dimensions are shared, each less than the one before, and the others are not.
    common = normal(150, 3, seed=1)
    x = torch.cat([common * torch.tensor([4, 2, 1]), normal(150, 3, seed=2)], dim=1)
    y = torch.cat([common + torch.tensor([0.1, 0.4, 0.8]) * normal(150, 3, seed=3), normal(150, 2, seed=4)], dim=1)
    turn = torch.eye(6).double()
    turn[0, 0] = turn[0, 5] = turn[5, 0] = 0.5**0.5
    turn[5, 5] = -turn[0, 0]  # the most shared dimension, over two
    changes = {
        "rotation": x @ turn,
        "translation": x + 5 * normal(6, seed=5),
        "linear": x @ torch.diag(torch.tensor([1, 1, 1, 10, 10, 10]).double()) @ rotation(6),
    }
    assert abs(similarity(name, changes[change], y) - similarity(name, x, y)) > 0.005


@pytest.mark.parametrize("name", NAMES)
def test_an_index_is_symmetric_as_declared(name):
    assert INDICES[name].symmetric
    x, y = related(seed=4)
    assert similarity(name, x, y) == pytest.approx(similarity(name, y, x), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000), mean=st.sampled_from([0.0, 10.0]))
def test_a_site_is_entirely_similar_to_itself_and_others_are_within_range(name, seed, mean):
    sites = [*related(seed=seed, mean=mean), *related(seed=seed + 1, mean=mean)]
    got = matrix(name, sites)
    assert got.diagonal() == pytest.approx(torch.ones(4).double(), abs=1e-6)
    assert got.max() <= 1 + 1e-6
    assert got.min() >= INDICES[name].lowest
    assert (got - torch.eye(4)).max() < 0.9999  # only itself is


@pytest.mark.parametrize("name", NAMES)
def test_noise_lowers_every_index_step_by_step(name):
    x = related(seed=5, widths=(8, 8))[0]
    values = [similarity(name, x, x + noise * normal(150, 8, seed=6)) for noise in (0.0, 0.5, 2.0, 8.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_outlier_dimension_makes_unlike_sites_alike_unless_the_index_weighs_dimensions_alike(name):
    x, y = normal(300, 8, seed=7), normal(300, 8, seed=8)
    plain = similarity(name, x, y)
    common = normal(300, seed=9)
    x[:, 2], y[:, 5] = 1000 * common, 1000 * common
    with_outlier = similarity(name, x, y)
    if name in ("cca", "cka_zscored"):
        assert with_outlier - plain < 0.15  # one of eight dimensions
    elif name.startswith("shared_neighbours"):
        assert with_outlier > 2 * plain  # all cosines are near 1 or -1, so that other dimensions still decide
    else:
        assert with_outlier > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_outlier_token_makes_unlike_sites_alike_by_the_indices_that_weigh_it_by_its_size(name):
    x, y = normal(300, 8, seed=10), normal(300, 8, seed=11)
    plain = similarity(name, x, y)
    x[150], y[150] = 1000 * normal(8, seed=12), 1000 * normal(8, seed=13)
    with_outlier = similarity(name, x, y)
    if name in ("cka", "cka_zscored", "procrustes", "svcca", "pwcca"):
        assert with_outlier > 0.9
    elif name == "cka_unbiased":
        assert abs(with_outlier) < 0.1  # its own term with itself is what HSIC_1 leaves out
    elif name == "cca":
        assert with_outlier - plain < 0.15  # one of eight correlations
    elif name == "relative_centred":
        assert with_outlier > 0.9  # it draws the mean, so that all the others lie on one side of it
    elif name == "regression":
        assert with_outlier < plain  # it bends the fit, and is not among the held-out tokens
    else:
        assert with_outlier == pytest.approx(plain, abs=0.03)


def test_the_table_names_what_can_be_computed_and_documents_it():
    assert all(name == index.name == index.function.__name__ for name, index in INDICES.items())
    assert {name for name, index in INDICES.items() if index.needs == "statistics"} == set(LINEAR)
    for index in INDICES.values():
        assert index.reference
        assert "rotation" in index.invariances or "linear" not in index.invariances
        assert all(part in index.function.__doc__ for part in (">>>", "\n"))
