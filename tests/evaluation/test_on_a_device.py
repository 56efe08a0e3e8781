"""Evaluation, index and uses on a device: the figures of the CPU, to the bit, and no activation on the host."""

import math

import numpy as np
import pytest
import torch
from core.helpers import labels, normal, same_bits, unit_rows
from core.other_device import DEVICE, here, other_device, there
from safetensors.numpy import load_file

from itda import ITDA, ActivationBatch, Site
from itda.core.headroom import headroom
from itda.core.metrics import Unexplained
from itda.core.training.growth_bytes import dictionary_bytes
from itda.evaluation import evaluate
from itda.evaluation.sums import SiteSums
from itda.explorer.code_index_writer import parts_of
from itda.explorer.indexing import PartWriter
from itda.recipes.decompose import top_uses

WIDTH, ROWS, SITE = 21, 60, Site(1)


@pytest.fixture
def x() -> torch.Tensor:
    """Activations with a mean, two of them massive."""
    made = normal(ROWS, WIDTH) + 0.3
    made[[7, 30]] *= 100
    return made


@pytest.fixture
def dictionary() -> ITDA:
    offset = torch.full((WIDTH,), 0.3)
    return ITDA(unit_rows(40, WIDTH, 1), labels(40), k=4, offset=offset, massive_norm=60.0, threshold=0.2)


def test_fvu_is_the_same_to_the_bit_and_activations_stay(x):
    plain, moved = Unexplained(WIDTH), Unexplained(WIDTH)
    for part in x.split(17):
        plain.update(part, 0.9 * part)
    with other_device() as device:
        for part in there(x).split(17):
            moved.update(part, 0.9 * part)
        assert device.copied_rows(WIDTH) == 0
        assert moved.value() == plain.value()
        found = moved.mean
        assert found.device == DEVICE
    assert same_bits(here(found), plain.mean)
    expected = x.double()
    wanted = (0.1 * expected).square().sum() / (expected - expected.mean(dim=0)).square().sum()
    assert math.isclose(plain.value(), wanted, rel_tol=1e-5)


def test_dictionaries_that_do_not_fit_beside_the_model_stay_and_give_the_same_figures(x, dictionary, monkeypatch):
    one_fits = 3 * dictionary_bytes(40, WIDTH)  # into half of it
    monkeypatch.setattr(evaluate, "free_device_memory", lambda _: one_fits)
    mean = x.double().mean(dim=0)
    plain = SiteSums(dictionary, mean, "clean")
    plain.replacements(x, np.array(["a"] * ROWS))
    with other_device():
        placed = evaluate.placed({SITE: dictionary, Site(2): dictionary}, DEVICE)
        assert [each.atoms.device.type for each in placed.values()] == [DEVICE.type, "cpu"]
        stayed = SiteSums(placed[Site(2)], there(mean), "clean")
        stayed.replacements(there(x), np.array(["a"] * ROWS))
        assert stayed.evaluation(0.0, 0) == plain.evaluation(0.0, 0)


@pytest.mark.parametrize("massive", ["clean", "splice"])
def test_the_figures_of_a_site_are_the_same_to_the_bit_and_activations_stay(x, dictionary, massive):
    documents, mean = np.array(["a", "b", "c"] * (ROWS // 3)), x[8:30].double().mean(dim=0)
    plain = SiteSums(dictionary, mean, massive)
    wanted = [plain.replacements(part, documents[: len(part)]) for part in x.split(30)]
    with other_device() as device:
        moved = SiteSums(dictionary.to(DEVICE), there(mean), massive)
        found = [moved.replacements(part, documents[: len(part)]) for part in there(x).split(30)]
        assert {y.device for each in found for y in each.values()} == {DEVICE}
        figures = moved.evaluation(0.0, 0)
        assert device.copied_rows(WIDTH) == 0
    assert figures == plain.evaluation(0.0, 0)
    assert figures.massive_tokens == 2
    assert figures.headroom is not None
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        assert all(same_bits(here(one[name]), other[name]) for name in one)


def test_headroom_and_errors_are_the_same_to_the_bit(x, dictionary):
    code, mean = dictionary.encode(x), x.double().mean(dim=0)
    wanted, errors = headroom(dictionary, x, mean), dictionary.error(x, code)
    with other_device() as device:
        moved = dictionary.to(DEVICE)
        assert headroom(moved, there(x), there(mean)) == wanted
        found = moved.error(there(x), moved.encode(there(x)))
        assert device.copied_rows(WIDTH) == 0
    assert same_bits(here(found), errors)
    torch.testing.assert_close(errors, dictionary.decompose(x)[1], rtol=1e-4, atol=1e-7)


def batches_of(x: torch.Tensor):
    for start in range(0, ROWS, 20):
        yield {SITE: ActivationBatch(x[start : start + 20], labels(ROWS)[start : start + 20])}


def test_the_uses_of_atoms_are_found_where_the_activations_are(x, dictionary):
    wanted = top_uses(batches_of(x), dictionary, SITE, [0, 3, 9], 4)
    with other_device() as device:
        found = top_uses(batches_of(there(x)), dictionary, SITE, [0, 3, 9], 4)
        assert device.copied_rows(WIDTH) == 0
    assert found == wanted
    assert all(wanted)


def test_an_index_has_the_same_codes_and_activations_stay(x, dictionary, tmp_path):
    def written(folder, batches):
        folder.mkdir()
        writer = PartWriter(folder, {SITE: dictionary})
        for each in batches:
            list(writer.add(each))
        list(writer.finish())
        return [load_file(part.file) for part in parts_of(folder)]

    wanted = written(tmp_path / "plain", batches_of(x))
    with other_device() as device:
        found = written(tmp_path / "moved", batches_of(there(x)))
        assert device.copied_rows(WIDTH) == 0
    assert len(found) == len(wanted) == 1
    assert found[0].keys() == wanted[0].keys()
    for name, values in wanted[0].items():
        assert values.tobytes() == found[0][name].tobytes(), name
