"""Transported dictionaries: the labels of one model, read in another."""

import pytest
import torch
from core.helpers import labels, normal, unit_rows

from itda import ITDA
from itda.core.similarity.transport import agreement, soft_overlap, transported
from itda.errors import SettingError


def made(rows: int = 20, width: int = 8) -> tuple[ITDA, torch.Tensor]:
    x = normal(rows, width)
    return ITDA(torch.nn.functional.normalize(x, dim=1), labels(rows), k=3), x


def test_in_its_own_model_a_dictionary_is_itself():
    model, x = made()
    moved = transported(model, x)
    assert torch.allclose(moved.atoms, model.atoms, atol=1e-6)
    assert moved.labels is model.labels


def test_a_rotated_model_makes_the_same_codes_with_the_transported_dictionary():
    model, x = made()
    rotation = torch.linalg.qr(normal(8, 8, 3))[0]
    moved, probe = transported(model, 5 * x @ rotation), normal(30, 8, 9)
    here, there = model.encode(probe), moved.encode(probe @ rotation)
    assert here.indices.tolist() == there.indices.tolist()
    assert torch.allclose(here.coefficients, there.coefficients, atol=1e-4)
    errors = model.decompose(probe)[1], moved.decompose(probe @ rotation)[1]
    assert agreement(*errors) == pytest.approx(1, abs=1e-6)


def test_agreement_is_the_correlation_of_errors():
    a, b = normal(50, 1)[:, 0].double(), normal(50, 1, 4)[:, 0].double()
    assert agreement(a, b) == pytest.approx(float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
    with pytest.raises(SettingError, match="do not vary"):
        agreement(a, torch.ones(50).double())


def test_soft_overlap_is_the_mean_of_the_nearest_cosines():
    model, x = made()
    assert soft_overlap(model, x) == pytest.approx(1, abs=1e-6)
    others = normal(7, 8, 5)
    slow = [max(abs(float(torch.cosine_similarity(row, atom, dim=0))) for atom in model.atoms) for row in others]
    assert soft_overlap(model, others) == pytest.approx(sum(slow) / 7, abs=1e-6)


def test_what_cannot_be_transported_is_refused():
    model, x = made()
    with pytest.raises(SettingError, match="one at each label"):
        transported(model, x[:3])
    with pytest.raises(SettingError, match="leave out its label"):
        transported(model, torch.cat([x[:19], torch.zeros(1, 8)]))
    offset = unit_rows(1, 8)[0]
    assert transported(model, x + offset, offset).offset is offset
