"""ITDA on single vectors, float64, empty dictionaries and offsets."""

import pytest
import torch
from core.helpers import labels, normal, same_bits, unit_rows

from itda import ITDA
from itda.core.pursuit import PURSUITS
from itda.errors import ActivationError, SettingError


def model(**parts) -> ITDA:
    return ITDA(**{"atoms": unit_rows(50, 12), "labels": labels(50), "k": 5, **parts})


@pytest.mark.parametrize("pursuit", PURSUITS)
def test_a_single_vector_has_the_code_and_reconstruction_of_its_row(pursuit):
    x, one = normal(9, 12), model(pursuit=pursuit)
    code = one.encode(x[4])
    assert code.indices.shape == (5,)
    assert code.count.shape == ()
    assert one(x[4]).shape == (12,)
    assert same_bits(one(x[4]), one(x)[4])
    assert one.labels[code.indices].position.tolist() == code.indices.tolist()


def test_no_activations_have_codes_of_no_rows():
    for shape in [(0, 12), (2, 0, 12)]:
        code = model().encode(torch.empty(shape))
        assert code.indices.shape == (*shape[:-1], 5)
        assert model()(torch.empty(shape)).shape == shape


def test_float64_activations_come_back_in_float64_with_more_digits_than_float32_has():
    x, one = normal(9, 12).double(), model(k=40, pursuit="omp")
    rebuilt = one(x)
    assert rebuilt.dtype == torch.float64
    assert (rebuilt - x).abs().max() < 1e-9
    assert (one(x.float()) - x).abs().max() > 1e-9


def test_the_offset_is_subtracted_before_the_pursuit_and_added_after():
    x, offset = normal(9, 12).double(), normal(1, 12, 5)[0]
    shifted, plain = model(offset=offset), model()
    code, expected = shifted.encode(x), plain.encode(x - offset.double())
    assert torch.equal(code.indices, expected.indices)
    assert same_bits(code.coefficients, expected.coefficients)
    torch.testing.assert_close(shifted.decode(code), plain.decode(expected) + offset.double(), rtol=0, atol=1e-12)


def test_an_empty_dictionary_gives_empty_codes_and_rebuilds_the_offset():
    offset = normal(1, 12, 5)[0]
    empty = ITDA(torch.empty(0, 12), labels(0), k=3, offset=offset)
    code, error = empty.decompose(normal(4, 12))
    assert code.count.tolist() == [0] * 4
    assert error.tolist() == [1.0] * 4
    assert torch.equal(empty.decode(code), offset.expand(4, 12))


def test_the_dense_view_of_codes_over_no_atoms_is_empty():
    code = ITDA(torch.empty(0, 12), labels(0), k=3).encode(normal(4, 12))
    assert code.dense(0).shape == (4, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_offset_that_is_not_finite_is_refused(bad):
    with pytest.raises(SettingError, match="offset"):
        model(offset=torch.full((12,), bad))


@pytest.mark.parametrize("shape", [(3, 0), (2, 3, 13), (13,)])
def test_another_width_is_refused_for_any_leading_shape(shape):
    with pytest.raises(ActivationError, match=f"width {shape[-1]} for atoms of width 12"):
        model().encode(torch.ones(shape))


def test_the_row_named_is_that_of_the_flat_order():
    x = normal(24, 12).view(2, 3, 4, 12).clone()
    x[1, 2, 0, 3] = float("nan")
    with pytest.raises(ActivationError, match="activation 20 is not finite"):
        model().encode(x)


def test_a_dictionary_cannot_be_changed_by_assignment():
    with pytest.raises(AttributeError):
        model().k = 6  # pyright: ignore[reportAttributeAccessIssue]
