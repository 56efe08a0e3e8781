"""ITDA: encode, decode, and what it refuses."""

import numpy as np
import pytest
import torch
from core.helpers import labels, normal, same_bits, unit_rows

from itda import ITDA, Label, Labels, fit_features, jaccard, refine
from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import UNKNOWN, check_pursuit
from itda.core.headroom import headroom
from itda.core.levels import two_levels
from itda.core.nearest_search import find_nearest
from itda.core.replication import Replication
from itda.core.similarity.transport import transported
from itda.errors import ActivationError, SettingError


def model(**parts) -> ITDA:
    return ITDA(**{"atoms": unit_rows(50, 12), "labels": labels(50), "k": 5, **parts})


def test_leading_axes_are_kept_and_rows_do_not_see_each_other():
    x = normal(24, 12)
    flat, shaped = model().encode(x), model().encode(x.view(2, 3, 4, 12))
    assert shaped.indices.shape == shaped.coefficients.shape == (2, 3, 4, 5)
    assert shaped.count.shape == (2, 3, 4)
    assert torch.equal(shaped.indices.view(24, 5), flat.indices)
    assert same_bits(model().encode(x[3]).coefficients, flat.coefficients[3])
    assert same_bits(model()(x.view(6, 4, 12)).view(24, 12), model()(x))


def test_other_atoms_carry_nothing_that_was_found_of_these():
    """Levels, headroom, refinement and transport put other atoms in the place of a dictionary's."""
    x = normal(200, 12)
    read = Labels.of(*(Label(f"text {i}", i, i, i + 1, i, "", "x", "") for i in range(200)))
    replication = Replication(
        np.ones((50, 1), np.float32),
        np.ones(50, np.int32),
        np.ones(50, np.int32),
        np.ones((1, 2), np.float32),
        chance=0.5,
    )
    known = fit_features(find_nearest(model(replication=replication), x, read), x)
    for name in ("replication", "nearest", "feature_encoder"):
        assert name in UNKNOWN
        assert getattr(known, name) is not None
        assert getattr(refine(known, x, passes=1), name) is None
        assert getattr(transported(known, normal(50, 9), None), name) is None
    plain = model()
    assert headroom(known, x, x.double().mean(0)) == headroom(plain, x, x.double().mean(0))
    assert same_bits(two_levels(known).encode(x).coefficients, two_levels(plain).encode(x).coefficients)


def test_decode_is_the_code_times_the_atoms():
    x = normal(10, 12)
    code = model().encode(x)
    torch.testing.assert_close(model().decode(code), code.dense(50) @ model().atoms, rtol=1e-5, atol=1e-6)


def test_error_is_the_share_of_the_energy_of_what_is_left():
    x, offset = normal(10, 12), normal(1, 12, 7)[0]
    centred = model(offset=offset)
    code, error = centred.decompose(x)
    left = (x - centred.decode(code)).double().square().sum(1) / (x - offset).double().square().sum(1)
    torch.testing.assert_close(error, left, rtol=1e-5, atol=1e-7)


def test_the_error_of_a_code_is_that_which_decomposing_gives():
    x, offset = normal(12, 12), normal(1, 12, 7)[0]
    x[3] = offset  # nothing to explain: no error, and no division of nought by nought
    for centred in (model(), model(offset=offset)):
        code, error = centred.decompose(x.view(3, 4, 12))
        torch.testing.assert_close(centred.error(x.view(3, 4, 12), code), error, rtol=1e-5, atol=1e-7)


def test_the_offset_alone_has_an_empty_code_and_comes_back():
    offset = normal(1, 12)[0]
    centred = model(offset=offset)
    assert centred.encode(offset[None]).count.item() == 0
    assert torch.equal(centred(offset[None])[0], offset)


def test_dtype_of_the_code_is_float32_at_least():
    x = normal(3, 12)
    assert model().encode(x.bfloat16()).coefficients.dtype == torch.float32
    assert model().encode(x.half()).coefficients.dtype == torch.float32
    assert model().encode(x.double()).coefficients.dtype == torch.float64
    assert model(offset=normal(1, 12)[0]).encode(x).coefficients.dtype == torch.float32


def test_labels_of_a_code_have_its_shape():
    code = model().encode(normal(4, 12))
    assert model().labels[code.indices].position.shape == (4, 5)
    assert np.array_equal(model().labels[code.indices].position, code.indices.numpy())


@pytest.mark.parametrize(("bad", "name"), [(float("nan"), "NaN"), (float("-inf"), "inf")])
def test_a_row_that_is_not_finite_is_named(bad, name):
    x = normal(6, 12)
    x[4, 2] = bad
    with pytest.raises(ActivationError, match="activation 4 is not finite: leave it out"):
        model().encode(x)
    assert model().encode(x[:4]).count.tolist() == [5] * 4


def test_a_wrong_width_is_named_with_the_right_one():
    with pytest.raises(ActivationError, match="width 11 for atoms of width 12"):
        model().encode(normal(3, 11))


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        ({"k": 0}, "at least 1"),
        ({"labels": labels(49)}, "one label per atom"),
        ({"atoms": 2 * unit_rows(50, 12)}, "divide each by its norm"),
        ({"atoms": unit_rows(50, 12).index_fill(0, torch.tensor([3]), float("nan"))}, "divide each by its norm"),
        ({"offset": torch.zeros(11)}, r"give \[12\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, remedy):
    with pytest.raises(SettingError, match=remedy):
        model(**parts)


def test_an_unknown_pursuit_is_refused():
    with pytest.raises(SettingError, match="use mp, mp_refit, omp"):
        check_pursuit(4, "lasso")


def test_a_batch_needs_one_label_per_activation():
    with pytest.raises(ValueError, match="3 activations with 2 labels"):
        ActivationBatch(normal(3, 4), labels(2))


@pytest.mark.parametrize("site", [Site(0), Site(12, "mlp_out"), Site(3, "attn_out")])
def test_a_site_is_read_back_from_its_name(site):
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize("text", ["", "layer_", "layer_-1", "x", "3.nowhere", "layer_3.5"])
def test_a_name_that_is_no_site_is_refused(text):
    with pytest.raises(SettingError, match=r"write layer_3 or layer_3\.mlp_out"):
        Site.parse(text)


def test_jaccard_counts_labels_once_and_ignores_the_text_beside_them():
    assert jaccard(labels(4), labels(4)) == 1.0
    assert jaccard(labels(4), labels(4, "other")) == 0.0
    assert jaccard(labels(4)[1:], labels(4)[:3]) == 0.5
    assert jaccard(labels(0), labels(0)) == 1.0
