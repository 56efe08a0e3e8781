"""The device that stands for a GPU: it refuses and counts what it should."""

import pytest
import torch
from core.helpers import normal, same_bits, unit_rows
from core.other_device import DEVICE, here, other_device, there

from itda.core.pursuit import gram_torch, plain


def test_a_value_comes_to_the_host_by_a_copy_that_is_counted_alone():
    x = normal(5, 3)
    with other_device() as device:
        y = 2 * there(x)
        assert y.device == DEVICE
        assert device.copied == []
        assert same_bits(y.cpu(), 2 * x)
        assert y[1:3].tolist() == (2 * x)[1:3].tolist()
        assert y[0, 0].item() == 2 * x[0, 0].item()
        assert bool((y == y).all())
        torch.zeros(2, 3).copy_(y[:2])
        assert device.copied == [(5, 3), (2, 3), (), (), (2, 3)]
        assert (device.largest(), device.copied_rows(3)) == (15, 9)
        with pytest.raises(RuntimeError, match="numpy"):
            y.numpy()


def test_tensors_of_two_devices_do_not_meet():
    x = normal(5, 3)
    with other_device() as device:
        y = there(x)
        with pytest.raises(RuntimeError, match="is on the CPU"):
            _ = y + x
        y[torch.tensor([0, 2])] += 1  # an index may be there, as on a GPU
        assert same_bits(here(y)[[0, 2]], x[[0, 2]] + 1)
        assert device.copied == []


def test_tensors_that_are_made_there_are_there():
    with other_device() as device:
        made = [torch.zeros(2, device=DEVICE), torch.tensor([1, 2], device=DEVICE), torch.as_tensor(3, device=DEVICE)]
        made += [there(torch.ones(2)).new_empty(4), torch.arange(3, device=DEVICE)]
        assert {x.device for x in made} == {DEVICE}
        assert [here(x).tolist() for x in made[:3]] == [[0, 0], [1, 2], 3]
        assert device.copied == []


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("pursue", [plain.pursue, gram_torch.pursue])
@pytest.mark.parametrize("pursuit", ["mp", "mp_refit", "omp"])
def test_a_pursuit_there_has_the_bits_of_here(pursue, pursuit, inference):
    x, atoms = normal(50, 24), unit_rows(30, 24)
    code, left = pursue(x, atoms, 4, pursuit)
    with torch.inference_mode(inference), other_device() as device:
        found, found_left = pursue(there(x), there(atoms), 4, pursuit)
        assert found.indices.device == found_left.device == DEVICE
        assert device.largest() < 24
    assert same_bits(here(found.coefficients), code.coefficients)
    assert same_bits(here(found_left), left)
