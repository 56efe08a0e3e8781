"""What longer codes and half of the atoms do is what dictionaries made so would do."""

import pytest
import torch
from torch import nn

from itda.core.dictionary import ITDA
from itda.core.headroom import headroom
from itda.core.labels import Label, Labels


def labels(number):
    return Labels.of(*(Label("d", i, i, i + 1, i, "", "x", "") for i in range(number)))


def normal(rows, seed=0):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pursuit", ["mp", "mp_refit"])
@pytest.mark.parametrize("offset", [None, torch.full((16,), 0.5)])
def test_it_is_that_of_other_dictionaries(pursuit, offset):
    atoms, x = nn.functional.normalize(normal(40), dim=1), normal(100, 1) + 1
    mean = x.double().mean(dim=0)
    variance = (x.double() - mean).square().sum().item()

    def fvu(number, k):
        made = ITDA(atoms[:number], labels(number), k=k, pursuit=pursuit, offset=offset)
        return (x.double() - made(x).double()).square().sum().item() / variance

    found = headroom(ITDA(atoms, labels(40), k=3, pursuit=pursuit, offset=offset), x, mean)
    assert found is not None
    assert found.tokens == 100
    # To rounding: torch adds these up in an order of its own.
    assert found.fvu == pytest.approx(fvu(40, 3), rel=1e-12)
    assert found.fvu_double_k == pytest.approx(fvu(40, 6), rel=1e-12)
    assert found.fvu_half_atoms == pytest.approx(fvu(20, 3), rel=1e-12)
    assert found.fvu_double_k < found.fvu < found.fvu_half_atoms


def test_what_cannot_be_tried_is_not():
    x = normal(5)
    few = ITDA(nn.functional.normalize(normal(3), dim=1), labels(3), k=4)
    found = headroom(few, x, x.double().mean(dim=0))
    assert found is not None
    assert (found.fvu_double_k, found.fvu_half_atoms) == (None, None)
    assert headroom(few, x[:1], x[0].double()) is None
    assert headroom(few, x[:0], x[0].double()) is None
