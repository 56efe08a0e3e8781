"""Features against NumPy in float64; the fit and what is read are the same for every cut of the stream."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import inv, sqrtm

import itda
from itda import ITDA, Label, Labels
from itda.core import readout_features_fit as fitting
from itda.core.headroom import headroom
from itda.core.levels import ROUNDS, two_levels
from itda.core.readout_features import FeatureEncoder
from itda.core.readout_features_fit import (
    ATOMS_A_BROAD,
    BLOCK,
    LASTING_POWER,
    LASTING_RIDGE,
    NEAR,
    RIDGE,
    Moments,
    encoder_of,
    lasting_map,
)
from itda.core.replication import Replication
from itda.errors import ActivationError, SettingError


def labels_of(number):
    return Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(number)))


def problem(atoms=30, d_model=8, rows=200, seed=0, **parts):
    """A dictionary, and activations that are correlated, of uneven variance, and far from zero."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(atoms, d_model, generator=generator)
    mixing = torch.randn(d_model, d_model, generator=generator) * torch.logspace(0, 2, d_model)
    x = torch.randn(rows, d_model, generator=generator) @ mixing + 300
    return ITDA(table / table.norm(dim=1, keepdim=True), labels_of(atoms), k=4, offset=x.mean(0), **parts), x


def scores_by_numpy(atoms, x, queries, ridge):
    """Each atom's detector as a ridge regression by least squares, scored, and divided by its deviation on x."""
    x, queries, atoms = (each.double().numpy() for each in (x, queries, atoms))
    mean, d = x.mean(axis=0), x.shape[1]
    centred = x - mean
    # (S + r t I) w = d are the normal equations of min ||A w - b||^2 for A with A^T A = S + r t I and A^T b = d.
    trace = np.square(centred).mean()
    stacked = np.vstack([centred / np.sqrt(len(x)), np.sqrt(ridge * trace) * np.eye(d)])
    target = np.linalg.lstsq(stacked.T, atoms.T, rcond=None)[0]
    detectors = np.linalg.lstsq(stacked, target, rcond=None)[0]
    return (queries - mean) @ detectors / (centred @ detectors).std(axis=0)


def fine_of(model):
    """True for each atom whose feature is fine."""
    fine = np.ones(len(model), dtype=bool)
    fine[model.feature_encoder.broad.numpy()] = False
    return fine


@given(st.integers(1, 100), st.integers(1, 12), st.integers(3, 300), st.integers(0, 999), st.floats(0.01, 3))
@settings(max_examples=25, deadline=None)
def test_fine_features_score_what_numpy_finds(atoms, d_model, rows, seed, ridge):
    model, x = problem(atoms, d_model, rows, seed)
    model = itda.fit_features(model, x, ridge=ridge)
    encoder, queries = model.feature_encoder, x[:5] - x.mean(dim=0, keepdim=True)
    scores = scores_by_numpy(model.atoms, x, x[:5], ridge)
    found = encoder.scale * queries.double() @ encoder.detectors.double().T
    assert len(encoder.broad) in (0, atoms // ATOMS_A_BROAD)
    assert np.allclose(found[:, fine_of(model)], scores[:, fine_of(model)], rtol=1e-3, atol=1e-3)


@given(st.integers(1, 60), st.integers(0, 20), st.integers(1, 25), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_largest_of_each_kind_are_active_sorted_together(atoms, broad, top, seed):
    generator = torch.Generator().manual_seed(seed)
    detectors = torch.nn.functional.normalize(torch.randn(atoms, 5, generator=generator))
    chosen = torch.randperm(atoms, generator=generator)[: min(broad, atoms - 1)].sort().values
    encoder = FeatureEncoder(detectors, 2.0, torch.zeros(5), 9, broad=chosen)
    x = torch.randn(4, 5, generator=generator)
    code = encoder.strongest(x, top)
    scores = 2 * x.double().numpy() @ detectors.double().numpy().T
    of_broad = -(-3 * top // 5) if len(chosen) else 0
    fine = np.setdiff1d(np.arange(atoms), chosen.numpy())
    for row, each in enumerate(scores):
        kinds = [sorted(kind[each[kind] > 0], key=lambda atom: -each[atom]) for kind in (chosen.numpy(), fine)]
        expected = sorted([*kinds[0][:of_broad], *kinds[1][: top - of_broad]], key=lambda atom: -each[atom])
        number = int(code.count[row])
        assert code.indices[row, :number].tolist() == expected
        assert np.allclose(code.coefficients[row, :number], each[expected], rtol=1e-4, atol=1e-6)
        assert not code.indices[row, number:].any()
        assert not code.coefficients[row, number:].any()


def lasting_by_loops(x):
    """The mean product, over all pairs of different rows in one run of `NEAR` rows, of what is above the mean."""
    x = x.double().numpy()
    centred, total, pairs = x - x.mean(axis=0), np.zeros((x.shape[1],) * 2), 0
    for i, one in enumerate(centred):
        for j in range(i // NEAR * NEAR, min(len(x), (i // NEAR + 1) * NEAR)):
            if i != j:
                total, pairs = total + np.outer(one, centred[j]), pairs + 1
    return total / max(1, pairs)


@pytest.mark.parametrize("rows", [1, 2, NEAR + 1, 2 * NEAR, 3 * NEAR + 7])
def test_what_lasts_is_the_covariance_of_rows_near_each_other(rows):
    _, x = problem(rows=rows)
    moments = Moments(8)
    moments.add(x)
    assert np.allclose(moments.lasting(), lasting_by_loops(x), rtol=1e-8, atol=1e-6)


def text(rows=4000, seed=0):
    """Activations whose first coordinate keeps its sign for 100 rows, under others of more variance that do not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator) * torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    topic = torch.randn(rows // 100, generator=generator).sign().repeat_interleave(100)
    return torch.cat([x[:, :1] / 4 + topic[:, None], x[:, 1:]], dim=1)


def map_of(x):
    moments = Moments(x.shape[1])
    moments.add(x)
    return lasting_map(moments.covariance(), moments.lasting())[0], moments


def test_a_direction_that_lasts_is_longest_and_rows_in_no_order_have_none():
    x = text()
    lengths, broad = [], []
    for rows in (x, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]):
        mapping, moments = map_of(rows)
        spread = ((mapping.T @ moments.covariance()) * mapping.T).sum(dim=1).sqrt()
        lengths.append(spread / spread[0])
        broad.append(len(encoder_of(problem(192, 6)[0].atoms, moments).broad))
    assert (lengths[0][1:] < 0.6).all()
    assert (lengths[1][1:] > 0.6).all()
    assert broad == [192 // ATOMS_A_BROAD, 0]


def test_the_map_of_what_lasts_is_that_of_numpy():
    mapping, moments = map_of(text())
    covariance, near = moments.covariance().numpy(), moments.lasting().numpy()
    ridge = LASTING_RIDGE * covariance.trace() / 6 * np.eye(6)
    whitening = inv(sqrtm(covariance + ridge))
    persistence, directions = np.linalg.eigh(whitening @ near @ whitening)
    persistence = np.maximum(persistence, -persistence.min()) ** (LASTING_POWER / 2)
    assert np.allclose(mapping, whitening @ directions @ np.diag(persistence) @ directions.T, rtol=1e-6, atol=1e-9)


def test_broad_features_detect_the_centres_of_groups_of_atoms():
    model, _ = problem(192, 6)
    x = text()
    model = itda.fit_features(model, x)
    encoder, (mapping, _) = model.feature_encoder, map_of(x)
    mapped = model.atoms.double().numpy() @ mapping.numpy()
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    centres = mapped[np.arange(6) * 38]
    for _ in range(ROUNDS):
        groups = (mapped @ centres.T).argmax(axis=1)
        centres = np.stack([mapped[groups == group].sum(axis=0) for group in range(6)])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    broad = encoder.broad.numpy()
    of = groups[broad]
    assert sorted(of) == list(range(6))
    assert broad.tolist() == sorted(broad)
    for atom, group in zip(broad, of, strict=True):  # of a group of two, both are as near
        assert mapped[atom] @ centres[group] >= (mapped[groups == group] @ centres[group]).max() - 1e-6
    scores = (x - x.mean(dim=0)).double().numpy() @ mapping.numpy() @ centres[of].T
    found = encoder.scale * (x - encoder.mean).double() @ encoder.detectors.double().T
    assert np.allclose(found[:, broad], scores / scores.std(axis=0), rtol=1e-4, atol=1e-4)


def test_lasting_similarity_is_the_cosine_where_what_lasts_is_long():
    model, _ = problem(30, 6)
    x = text()
    model = itda.fit_features(model, x)
    mapping = map_of(x)[0].numpy()
    rows, atoms = (x[:7] - x.mean(dim=0)).double().numpy() @ mapping, model.atoms.double().numpy() @ mapping
    expected = rows @ atoms.T / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(atoms, axis=1)
    assert np.allclose(model.lasting_similarity(x[:7]), expected, atol=1e-5)
    assert model.lasting_similarity(x[:6].reshape(2, 3, 6)).shape == (2, 3, 30)


def test_without_what_lasts_there_is_no_such_similarity():
    model, x = problem()
    with pytest.raises(SettingError, match="`itda features RUN`"):
        model.lasting_similarity(x)
    unknown = FeatureEncoder(torch.eye(3), 1.0, torch.zeros(3), 9)
    with pytest.raises(SettingError, match="fit features anew"):
        unknown.lasting_cosines(torch.ones(1, 3), torch.eye(3))


def test_scores_have_a_deviation_of_one_where_they_were_fitted():
    model, x = problem(rows=3000)
    encoder = itda.fit_features(model, x).feature_encoder
    scores = (x - encoder.mean).double() @ (encoder.scale * encoder.detectors.double()).T
    assert torch.allclose(scores.std(dim=0, correction=0), torch.ones(len(model)).double(), rtol=1e-4)
    assert scores.mean(dim=0).abs().max() < 1e-3


@given(st.lists(st.integers(0, 700), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_fit_has_the_same_bits_for_every_cut_of_the_stream(sizes, seed):
    rows = max(2, sum(sizes))
    model, x = problem(rows=rows, seed=seed)
    whole, cut = Moments(8), Moments(8)
    whole.add(x)
    for part in x.split([*sizes, rows - sum(sizes)]):
        cut.add(part)
    assert cut.tokens == whole.tokens == rows
    assert torch.equal(cut.mean(), whole.mean())
    assert torch.equal(cut.covariance(), whole.covariance())
    assert torch.equal(cut.lasting(), whole.lasting())
    one, other = encoder_of(model.atoms, whole), encoder_of(model.atoms, cut)
    assert torch.equal(one.detectors, other.detectors)
    assert one.scale == other.scale


def test_moments_are_those_of_numpy_and_can_be_asked_for_on_the_way():
    _, x = problem(rows=3 * BLOCK + 5)
    moments = Moments(8)
    for end in (BLOCK, BLOCK + 7, 3 * BLOCK + 5):
        moments.add(x[moments.tokens : end])
        some = x[:end].double().numpy()
        assert np.allclose(moments.mean(), some.mean(axis=0), rtol=1e-12)
        assert np.allclose(moments.covariance(), np.cov(some.T, bias=True), rtol=1e-9)


def test_a_mean_that_dwarfs_the_variance_does_not_cancel_it():
    model, x = problem(rows=500)
    far = x.double() + 1e9
    near, moved = itda.fit_features(model, x.double()), itda.fit_features(model, far)
    scales = near.feature_encoder.scale, moved.feature_encoder.scale
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)


def test_what_is_read_has_the_same_bits_for_every_cut_of_the_batch():
    model, x = problem(300, 48, 400, 1)
    model = itda.fit_features(model, x)
    whole = model.features(x)
    for size in (1, 7, 60):
        parts = [model.features(part) for part in x.split(size)]
        assert torch.equal(torch.cat([p.indices for p in parts]), whole.indices)
        assert torch.equal(torch.cat([p.coefficients for p in parts]), whole.coefficients)
        assert torch.equal(torch.cat([p.count for p in parts]), whole.count)


def test_at_most_k_of_them_are_active_by_default_and_all_positive():
    model, x = problem(50, 8, 300)
    code = itda.fit_features(model, x).features(x)
    active = torch.arange(code.k) < code.count[:, None]
    assert code.k == model.k
    assert (code.coefficients[active] > 0).all()
    assert not code.coefficients[~active].any()
    assert (code.coefficients.diff(dim=1) <= 0).all()


def test_massive_activations_do_not_take_part():
    model, x = problem(rows=300, massive_norm=1e5)
    with_massive = torch.cat([x[:100], torch.full((3, 8), 1e6), x[100:]])
    one, other = (itda.fit_features(model, each).feature_encoder for each in (x, with_massive))
    assert other.tokens == 300
    assert torch.equal(one.detectors, other.detectors)


def test_more_atoms_than_are_solved_for_at_once(monkeypatch):
    model, x = problem(70, 8, 300)
    whole = itda.fit_features(model, x).feature_encoder
    monkeypatch.setattr(fitting, "PARTS", 7)
    parts = itda.fit_features(model, x).feature_encoder
    assert torch.allclose(parts.detectors * parts.scale, whole.detectors * whole.scale, rtol=1e-5)


def test_an_atom_that_no_activation_varies_along_is_never_active():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.0])
    model = itda.fit_features(ITDA(torch.eye(3), labels_of(3), k=3), x)
    assert not model.feature_encoder.detectors[2].any()
    assert 2 not in model.features(torch.tensor([[1.0, 1.0, 50.0]])).indices[0, :2].tolist()
    assert model.features(torch.tensor([[1.0, 1.0, 50.0]])).count.tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_shapes(dtype):
    model, x = problem(20, 6, 60)
    model = itda.fit_features(model, x)
    given_as = (x / 8).to(dtype)
    code = model.features(given_as.reshape(3, 20, 6), top=2)
    assert code.indices.shape == (3, 20, 2)
    assert torch.equal(code.coefficients.reshape(-1, 2), model.features(given_as.double(), top=2).coefficients)
    assert model.features(torch.zeros(0, 6)).indices.shape == (0, 4)


def test_other_atoms_have_no_detectors_of_the_old_ones():
    model, x = problem(30, 8, 300)
    model = itda.fit_features(model, x)
    assert model.to("cpu").feature_encoder is not None
    assert itda.refine(model, x, passes=1).feature_encoder is None
    assert two_levels(model, broad=4).encode(x[:3]).k == 4


def test_parts_of_a_dictionary_with_all_that_commands_add_can_be_used():
    found = Replication(
        cosines=np.ones((30, 2), np.float32),
        kept=np.ones(30, np.int32),
        tokens=np.ones(30, np.int32),
        halves=np.ones((2, 2), np.float32),
        chance=0.5,
    )
    model, x = problem(30, 8, 300, replication=found)
    model = itda.fit_features(model, x)
    assert model.replication is found
    assert two_levels(model, broad=4).encode(x[:3]).k == 4
    assert headroom(model, x, x.double().mean(dim=0)).fvu_half_atoms is not None
    assert itda.refine(model, x, passes=1).replication is None


def test_a_dictionary_without_an_encoder_says_how_to_get_one():
    model, x = problem()
    with pytest.raises(SettingError, match="`itda features RUN`"):
        model.features(x)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ridge_out_of_range(ridge):
    model, x = problem()
    with pytest.raises(SettingError, match="must be a positive number"):
        itda.fit_features(model, x, ridge=ridge)


def test_activations_that_do_not_do():
    model, x = problem()
    for bad, said in (
        (x[:, :5], "width"),
        (torch.full((3, 8), float("nan")), "not finite"),
        (torch.ones(9, 8), "all activations are equal"),
        (x[:0], "no activations"),
    ):
        with pytest.raises(ActivationError, match=said):
            itda.fit_features(model, bad)
    fitted = itda.fit_features(model, x)
    with pytest.raises(ActivationError, match="width"):
        fitted.features(torch.ones(2, 5))
    with pytest.raises(SettingError, match="top is 0"):
        fitted.features(x, top=0)


@pytest.mark.parametrize(
    "parts",
    [
        {"detectors": 2 * torch.eye(3)},
        {"detectors": torch.full((3, 3), float("nan"))},
        {"mean": torch.zeros(2)},
        {"mean": torch.full((3,), float("inf"))},
        {"scale": float("nan")},
        {"broad": torch.tensor([2, 1])},
        {"broad": torch.tensor([1, 1])},
        {"broad": torch.tensor([3])},
        {"broad": torch.tensor([0, 1, 2])},
        {"lasting": torch.eye(2)},
    ],
)
def test_parts_that_do_not_fit_together(parts):
    whole = {"detectors": torch.eye(3), "scale": 1.0, "mean": torch.zeros(3), "tokens": 9}
    FeatureEncoder(**whole)
    with pytest.raises(SettingError):
        FeatureEncoder(**whole | parts)


def test_detectors_of_other_atoms_are_refused():
    encoder = FeatureEncoder(torch.eye(3), 1.0, torch.zeros(3), 9)
    with pytest.raises(SettingError, match="fit features anew"):
        ITDA(torch.eye(3)[:2], labels_of(2), k=1, feature_encoder=encoder)


def test_the_default_ridge_is_recorded():
    model, x = problem()
    assert itda.fit_features(model, x).feature_encoder.ridge == RIDGE
