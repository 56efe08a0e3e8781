"""Activations at the ends of the range of their number format."""

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, batch, normal, unit_rows

from itda import ITDA, ActivationBatch, Label, Labels, Trainer, pursue
from itda.core.intake import tensor_of
from itda.core.pursuit import PURSUITS
from itda.errors import ActivationError

ALL = pytest.mark.parametrize("pursuit", PURSUITS)


@ALL
@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e37])
def test_float32_activations_of_any_scale_have_the_picks_of_scale_one(pursuit, scale):
    x, d = normal(20, 16).double(), unit_rows(60, 16)
    code, left = pursue(x, d, 5, pursuit)
    other, other_left = pursue((x * scale).float(), d, 5, pursuit)
    assert torch.equal(code.indices, other.indices)
    torch.testing.assert_close(other.coefficients.double() / scale, code.coefficients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(left, other_left, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("pursuit", COMPILED)  # a negative activation has no code of positive coefficients
@pytest.mark.parametrize("value", [1.5e308, 2.0**1023, 2.0**-1022, 1.5e-310, 5e-324])
def test_float64_activations_at_the_ends_of_the_range_have_a_code(pursuit, value):
    code, left = pursue(torch.tensor([[0.0, -value]], dtype=torch.float64), torch.eye(2), 2, pursuit)
    assert code.count.tolist() == [1]
    assert code.indices[0, 0].item() == 1
    assert code.coefficients[0].tolist() == [-value, 0.0]
    assert left.tolist() == [0.0]


@pytest.mark.parametrize("value", [1.5e308, 1e-310])
def test_float64_activations_at_the_ends_of_the_range_become_atoms(value):
    trainer = Trainer(2, k=1, threshold=0.1)
    assert trainer.offer(batch(torch.tensor([[0.0, value]], dtype=torch.float64))) == 1
    assert trainer.finish().atoms.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("value", [1e-45, 1e-42, 3e38])
def test_float32_activations_at_the_ends_of_the_range_become_atoms_and_come_back(value):
    x = torch.tensor([[0.0, value, 0.0]])
    trainer = Trainer(3, k=1, threshold=0.1)
    assert trainer.offer(batch(x)) == 1
    model = trainer.finish()
    assert isinstance(model, ITDA)
    assert torch.equal(model(x), x)


@ALL
def test_a_code_that_does_not_fit_into_its_format_is_told_with_its_row(pursuit):
    labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(4)))
    model = ITDA(torch.full((4, 16), 0.25), labels, k=2, pursuit=pursuit)
    x = torch.ones(3, 16)
    x[1] = 3e38  # of norm 1.2e39
    for call in (model.encode, model.decompose, model):
        with pytest.raises(ActivationError, match="the code of activation 1 does not fit into float32: scale"):
            call(x)
    assert model.encode(x.double()).coefficients[1, 0].item() == pytest.approx(1.2e39)
    assert model.similarity(x)[1, 0].item() == pytest.approx(1.0)
    assert model.similarity(x, top=1).coefficients[1, 0].item() == pytest.approx(1.0)
    with pytest.raises(ActivationError, match="activation 0 does not fit into float64"):
        model.encode(torch.full((1, 16), 1.5e308, dtype=torch.float64))


@ALL
@pytest.mark.parametrize("power", [-100, -60, 60, 100, 124])
def test_a_power_of_two_changes_no_pick_and_no_error(pursuit, power):
    labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(40)))
    model, x = ITDA(unit_rows(40, 16), labels, k=4, pursuit=pursuit), normal(6, 16).float()
    (code, error), (other, same) = model.decompose(x), model.decompose(x * 2.0**power)
    assert torch.equal(code.indices, other.indices)
    assert torch.equal(code.coefficients * 2.0**power, other.coefficients)
    assert torch.equal(error, same)
    assert torch.equal(model.similarity(x), model.similarity(x * 2.0**power))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_is_taken_as_a_tensor_is(dtype):
    labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(40)))
    model, array = ITDA(unit_rows(40, 16), labels, k=4), normal(6, 16).reshape(2, 3, 16).numpy().astype(dtype)
    array.setflags(write=False)  # as of a file that is mapped
    x = torch.tensor(array)
    code, expected = model.encode(array), model.encode(x)
    assert torch.equal(code.indices, expected.indices)
    assert torch.equal(code.coefficients, expected.coefficients)
    assert torch.equal(model.error(array, code), model.error(x, expected))
    assert torch.equal(model.decompose(array)[1], model.decompose(x)[1])
    assert torch.equal(model(array), model(x))
    assert torch.equal(model.similarity(array), model.similarity(x))
    trainers = [Trainer(16, k=2, threshold=0.1) for _ in range(2)]
    for trainer, rows in zip(trainers, (array[0], x[0]), strict=True):
        trainer.offer(ActivationBatch(rows, labels[:3]))
    assert torch.equal(trainers[0].finish().atoms, trainers[1].finish().atoms)


@pytest.mark.parametrize("given", [[1.0, 2.0], np.ones(2, int), np.array(["a"]), None])
def test_what_is_no_activation_is_one_line(given):
    with pytest.raises(ActivationError, match="give a tensor, or an array of floating-point numbers") as error:
        tensor_of(given)
    assert "\n" not in str(error.value)
