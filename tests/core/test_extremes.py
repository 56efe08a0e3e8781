"""Activations at the ends of the range of their number format."""

import pytest
import torch
from core.helpers import batch, normal, unit_rows

from itda import ITDA, Trainer, pursue
from itda.core.pursuit import PURSUITS

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


@ALL
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
