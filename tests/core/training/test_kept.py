"""Activations kept for refinement: which, where, and mode `best` on a device without a copy of them to the host."""

import itertools

import pytest
import torch
from core.helpers import batch, normal, same_bits
from core.other_device import DEVICE, here, other_device, there
from hypothesis import given
from hypothesis import strategies as st

from itda import ActivationBatch, Trainer
from itda.core.training import growth, kept, opening, refine
from itda.core.training.kept import KeptActivations
from itda.core.training.opening import sum_of_rows

WIDTH = 7


def cut(x: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    edges = sorted({0, len(x), *(c % (len(x) + 1) for c in cuts)})
    return [x[start:stop] for start, stop in itertools.pairwise(edges)]


@given(
    st.integers(1, 9), st.integers(1, 60), st.lists(st.integers(0, 60), max_size=5), st.integers(0, 70), st.booleans()
)
def test_every_s_th_is_kept_whatever_the_batches_and_the_number_expected(stride, tokens, cuts, expected, resumed):
    x, made = normal(tokens, WIDTH), KeptActivations(stride, expected=expected)
    for part in cut(x, cuts):
        made.add(part)
        if resumed:
            before, made = made, KeptActivations(stride, expected=expected)
            made.restore(before.joined(WIDTH) if before else None, before.seen)
            if before:
                before.joined(WIDTH).zero_()  # it is a copy
    assert made.seen == tokens
    assert same_bits(made.joined(WIDTH), x[::stride])


def test_a_stride_of_0_keeps_none():
    made = KeptActivations(0)
    made.add(normal(5, WIDTH))
    assert not made
    assert made.joined(WIDTH).shape == (0, WIDTH)


def test_a_batch_that_is_changed_afterwards_does_not_change_what_was_kept():
    x, made = normal(5, WIDTH), KeptActivations(1)
    made.add(x)
    x.zero_()
    assert same_bits(made.joined(WIDTH), normal(5, WIDTH))


def test_of_several_dtypes_the_one_that_holds_all_is_kept():
    made, x = KeptActivations(1), normal(6, WIDTH)
    made.add(x[:2].bfloat16())
    made.add(x[2:4])
    made.add(x[4:].half())
    assert same_bits(made.joined(WIDTH), torch.cat([x[:2].bfloat16(), x[2:4], x[4:].half()]))


def test_they_stay_on_their_device_if_all_fit_there(monkeypatch, caplog):
    x = normal(30, WIDTH)
    needed = 20 * WIDTH * 4
    for free, stays in ((kept.SHARE * needed, True), (kept.SHARE * needed - 1, False)):
        monkeypatch.setattr(kept, "free_device_memory", lambda _device, free=free: free)
        made = KeptActivations(2, expected=20)
        with other_device() as device, caplog.at_level("INFO"):
            for part in there(x).split(4):
                made.add(part)
            found = made.joined(WIDTH)
            assert found.device == (DEVICE if stays else torch.device("cpu"))
            assert device.copied_rows(WIDTH) == (0 if stays else 15)
        assert same_bits(here(found), x[::2])
    assert caplog.messages == [
        f"refinement: its activations, {needed} bytes, are kept in RAM: {free} are free on the GPU"
    ]


def test_they_go_to_the_cpu_on_request_and_follow_a_stream_to_another_device():
    x = normal(9, WIDTH)
    with other_device():
        made = KeptActivations(1, on_cpu=True)
        made.add(there(x))
        assert made.joined(WIDTH).device.type == "cpu"
        made = KeptActivations(1)
        made.add(x[:4])
        made.add(there(x[4:]))
        found = made.joined(WIDTH)
        assert found.device == DEVICE
    assert same_bits(here(found), x)


@pytest.mark.parametrize("rows", [1, opening.PART, 2 * opening.PART + 5])
def test_the_sum_of_rows_is_one_row_after_the_other_on_a_device_too(rows):
    x = normal(rows, WIDTH) * torch.logspace(-3, 3, WIDTH)
    wanted = torch.zeros(WIDTH, dtype=torch.float64)
    for row in x.double():
        wanted += row
    assert same_bits(sum_of_rows(x), wanted)
    with other_device() as device:
        found = sum_of_rows(there(x))
        assert device.copied == []
    assert same_bits(here(found), wanted)


USUAL = {"pursuit": "mp_refit", "offset_tokens": 60, "passes": 3, "massive": "skip"}
BEST = {**USUAL, "min_fidelity": 0.9}
CENTRES = {**USUAL, "recipe": 2}


def stream(tokens: int = 160, width: int = 12) -> torch.Tensor:
    """Activations with a mean, and some that are massive."""
    x = normal(tokens, width) + 0.5
    x[::40] *= 40
    return x


def offered(trainer: Trainer, x: torch.Tensor) -> Trainer:
    start = 0
    for part in x.split(65):
        trainer.offer(ActivationBatch(part, batch(here(x), start, start + len(part)).labels))
        start += len(part)
    return trainer


@pytest.mark.parametrize("best", [BEST, CENTRES], ids=["recipe 1", "recipe 2"])
@pytest.mark.parametrize("size", [{"atoms": 25}, {"threshold": 0.3}])
def test_mode_best_on_a_device_has_the_bits_of_the_cpu_and_copies_atoms_alone(size, best, monkeypatch):
    monkeypatch.setitem(growth.GROWTHS, DEVICE.type, ("itda.core.training.growth_device", "DeviceGrowth"))
    x = stream()
    wanted = offered(Trainer(12, k=3, tokens=160, **size, **best), x).finish()
    with other_device() as device:
        trainer = offered(Trainer(12, k=3, tokens=160, **size, **best), there(x))
        assert device.copied_rows(12) == 0
        found = trainer.finish()
        assert device.copied_rows(12) == len(found) + 1  # the dictionary itself, and its offset
    for name in ("atoms", "offset", "fidelity"):
        assert same_bits(getattr(found, name), getattr(wanted, name)), name
    if best is BEST:
        assert same_bits(found.novelty, wanted.novelty)
    assert found.labels.keys() == wanted.labels.keys()
    assert found.provenance == wanted.provenance
    assert bool((found.fidelity < 1).any())


def test_a_run_begun_on_a_device_goes_on_on_the_cpu_and_back_to_the_same_bits(monkeypatch):
    monkeypatch.setitem(growth.GROWTHS, DEVICE.type, ("itda.core.training.growth_device", "DeviceGrowth"))
    x, parts = stream(), {"k": 3, "tokens": 160, "threshold": 0.3, **BEST}
    wanted = offered(Trainer(12, **parts), x).finish()
    with other_device():
        state = None
        for start, moved in ((0, there), (70, lambda part: part), (110, there)):
            trainer = Trainer(12, **parts)
            if state is not None:
                trainer.restore(state)
            part = x[start : {0: 70, 70: 110, 110: 160}[start]]
            trainer.offer(ActivationBatch(moved(part), batch(x, start, start + len(part)).labels))
            state = trainer.state()
            assert {tensor.device.type for tensor in state.tensors.values()} == {"cpu"}
        found = trainer.finish()
    assert same_bits(found.atoms, wanted.atoms)
    assert same_bits(found.fidelity, wanted.fidelity)


def test_where_a_gpus_memory_is_short_refinement_takes_place_on_the_cpu(monkeypatch, caplog):
    whole, told = refine.improved, []

    def short(atoms, targets, code):
        if atoms.device == DEVICE and len(told) == 1:
            raise torch.OutOfMemoryError
        return whole(atoms, targets, code)

    x, parts = stream(), {"k": 3, "tokens": 160, "threshold": 0.3, **BEST}
    wanted = offered(Trainer(12, **parts), x).finish()
    monkeypatch.setattr(refine, "improved", short)
    with other_device(), caplog.at_level("INFO"):
        trainer = offered(Trainer(12, **parts), there(x))
        found = trainer.finish(told.append)
    assert same_bits(found.atoms, wanted.atoms)
    assert "refinement: on the CPU, since the GPU's memory is short" in caplog.messages
    tokens = len(x) - int(x[:, 0].abs().gt(15).sum())
    assert told[:2] == [told[0], -told[0]]
    assert sum(told) == 3 * told[0] <= 3 * tokens
