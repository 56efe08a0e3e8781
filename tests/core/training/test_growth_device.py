"""Growth by a causal fixed point gives the dictionary of the plain loop: the same rows in their order, to the bit."""

import importlib.util
from functools import partial

import numpy as np
import pytest
import torch
from core.helpers import batch, growth_of, normal, same_bits, unit_rows
from core.other_device import DEVICE, other_device, there
from core.training.plain_growth import PlainGrowth
from core.training.test_growth import EVERY, STREAMS, coherent, plain_growth
from core.training.test_growth import check as check_growth
from core.triton_worker import DEVICE as CUDA_OR_CPU
from core.triton_worker import triton_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ActivationBatch, Trainer
from itda.core.pursuit import advance, gram_torch, plain
from itda.core.pursuit.products import correlations
from itda.core.pursuit.stepwise import Ways
from itda.core.training import block, growth, growth_device
from itda.core.training.growth_bytes import LEAST_ROWS, MOST_ROWS
from itda.core.training.growth_cpu import CpuGrowth
from itda.core.training.growth_device import DeviceGrowth

BOTH = pytest.mark.parametrize("pursuit", ["mp", "mp_refit"])


check = partial(check_growth, make=DeviceGrowth)


@BOTH
@pytest.mark.parametrize("size", [1, 7, 64, 4096, None])
@EVERY
def test_the_dictionary_is_that_of_the_plain_growth_for_every_block_size(stream, size, pursuit):
    check(STREAMS[stream](), 4, 0.1, pursuit, size)


@BOTH
@settings(max_examples=25)
@given(
    st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 2, 5, 40, None]), st.sampled_from([0.1, 0.25, 0.5])
)
def test_streams_of_whole_numbers_with_ties_and_duplicates_give_the_same_dictionary(pursuit, seed, k, size, threshold):
    x = torch.randint(-2, 3, (40, 4), generator=torch.Generator().manual_seed(seed)).float()
    check(x, k, threshold, pursuit, size)


@BOTH
@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(2, 12),
    st.integers(1, 6),
    st.floats(0, 4),
    st.sampled_from([0.0, 1e-4, 0.05, 0.2, 0.6, 1.0]),
    st.sampled_from([None, 9, 80]),
)
def test_random_streams_of_any_mean_and_threshold_give_the_same_dictionary(
    pursuit, seed, width, k, mean, threshold, size
):
    x = normal(60, width, seed) + mean * unit_rows(1, width, seed + 2)
    x[30:50] = x[:20] * torch.tensor([1.0, -1.0])[seed % 2] + 1e-3 * normal(20, width, seed + 1)
    check(x, k, threshold, pursuit, size)


@BOTH
def test_all_rows_appended_and_none_appended(pursuit):
    x = normal(50, 64)
    assert check(x, 2, 1e-6, pursuit, 20).number == 50
    assert check(x, 2, 1.0, pursuit, 20).number == 0
    assert check(torch.zeros(30, 8), 2, 0.1, pursuit, 20).number == 0


@BOTH
def test_growth_stops_at_the_most_atoms_in_the_middle_of_a_block(pursuit):
    for most in (1, 17, 40):
        assert check(coherent(), 4, 0.05, pursuit, 64, most=most).number == most


@BOTH
def test_an_error_of_exactly_the_threshold_is_not_above_it_in_either(pursuit):
    d = unit_rows(10, 8)
    x = torch.cat([d, normal(8, 8, 4)])
    for error in plain.pursue(x[10:], d, 3, pursuit)[1][:4].tolist():
        for threshold in (error, np.nextafter(error, 0), np.nextafter(error, 1)):
            check(x, 3, threshold, pursuit, 64)


@BOTH
def test_a_new_atom_that_almost_ties_with_an_old_pick_is_decided_as_in_plain(pursuit):
    x = unit_rows(1, 64).repeat(60, 1) + 0.3 * normal(60, 64)
    x[30:] = x[:30] + 1e-6 * normal(30, 64, 1)
    check(x, 4, 0.02, pursuit, 60)


@BOTH
def test_rows_that_pause_because_they_are_crowded_change_no_bit(pursuit, monkeypatch):
    monkeypatch.setattr(gram_torch, "CROWD", 1)
    monkeypatch.setattr(advance, "COARSE", 1.1)
    check(coherent(), 5, 0.1, pursuit, 64)


@BOTH
@given(st.integers(0, 249), st.sampled_from([CpuGrowth, DeviceGrowth, PlainGrowth]), st.booleans())
@settings(max_examples=10)
def test_a_dictionary_goes_on_anywhere_from_one_growth_to_another(pursuit, stop, other, back):
    x = coherent()
    first, second = (make(16, 4, 0.1, pursuit) for make in ((other, DeviceGrowth) if back else (DeviceGrowth, other)))
    rows = first.offer(x[:stop])
    second.restore(first.atoms, first.novelty)
    rows += [stop + row for row in second.offer(x[stop:])]
    wanted, atoms, novelty = plain_growth(x, 4, 0.1, pursuit, None)
    assert rows == wanted
    assert same_bits(second.atoms, atoms)
    assert same_bits(second.novelty, novelty)


@BOTH
def test_where_the_gram_matrix_does_not_fit_it_grows_on_on_the_cpu(pursuit, caplog):
    with caplog.at_level("INFO"):
        grown = check(coherent(), 4, 0.02, pursuit, 40, memory=2 * 110**2)
    assert grown.number > 110
    assert grown._on_cpu is not None
    assert "growth: on the CPU from " in caplog.text


def test_kernels_whose_bits_differ_are_dropped_at_the_first_block_beside_a_dictionary(monkeypatch, caplog):
    taken = []

    def fused(rows, which, source, place, atoms, crowd):
        taken.append(len(which))
        advance.advance(rows, which, source, place, atoms, crowd)
        rows.left[which] *= 1 + 2.0**-52

    for kernel, warned in ((fused, True), (advance.advance, False)):
        monkeypatch.setattr(growth_device, "ways_on", lambda _, kernel=kernel: Ways(kernel, advance.units))
        caplog.clear()
        check(coherent(), 4, 0.1, "mp", 64)
        assert ("without Triton's kernel" in caplog.text) == warned
    assert taken == [growth_device.PROOF]


def test_room_for_the_atoms_expected_is_made_at_once_where_it_fits():
    for memory, room in ((None, 4224), (2 * 400**2, 64)):
        grown = DeviceGrowth(16, 4, 0.1, "mp", None, 64, memory)
        grown.expect(90)
        grown.offer(coherent()[:64])
        assert len(grown._atoms.gram) == room
        assert same_bits(grown.atoms, plain_growth(coherent()[:64], 4, 0.1, "mp", None)[1])


def test_pursuits_are_taken_up_where_they_change_and_few_are_done_again(monkeypatch):
    steps, change = [], block.first_change

    def spy(*arguments, **named):
        at = change(*arguments, **named)
        steps.extend(at[at < advance.NEVER].tolist())
        return at

    monkeypatch.setattr(block, "first_change", spy)
    DeviceGrowth(32, 8, 0.1, "mp", block_size=64).offer(coherent(400, 32))
    assert max(steps) >= 4
    assert min(steps) == 0
    assert len(steps) < 5 * 400


def test_the_block_size_follows_what_rounds_cost_beside_pursuits_and_stays_within_its_limits():
    grown = DeviceGrowth(4, 2, 0.3, "mp")
    round_for = growth_device.ROUND
    for rounds, pursuits, wanted in [
        (1, 10, 1024),
        (2, round_for, 2048),
        (1, round_for, 2048),
        (1, 4 * round_for, 2048),
    ]:
        grown._rows = grown._next_size(rounds, pursuits, 4)
        assert grown._rows == wanted
    for _ in range(5):
        grown._rows = grown._next_size(1, 5 * round_for, 4)
    assert grown._rows == LEAST_ROWS
    for _ in range(9):
        grown._rows = grown._next_size(9, 300, 4)
    assert grown._rows == MOST_ROWS


@BOTH
@pytest.mark.parametrize("most", [1, 30, 10**6])
def test_whatever_rows_are_guessed_first_the_same_are_appended(pursuit, most):
    found = []
    for all_chosen in (False, True):
        atoms = block.GrowingAtoms(torch.empty(0, 16), 0)
        for part in coherent().split(125):
            atoms.reserve(atoms.number + len(part))
            made = block.Block(part, atoms, 4, 0.1, refit=pursuit == "mp_refit", all_chosen=all_chosen)
            rows = made.settle(most).tolist()
            found.append((all_chosen, rows, atoms.number))
            assert 1 <= made.rounds <= len(part) + 1
            assert 1 <= made.pursuits <= made.rounds * len(part)
    half = len(found) // 2
    assert [each[1:] for each in found[:half]] == [each[1:] for each in found[half:]]


@BOTH
@pytest.mark.parametrize("parts", [{"threshold": 0.1}, {"atoms": 40, "tokens": 150, "offset_tokens": 60}])
def test_on_another_device_the_bits_are_the_same_and_no_activation_comes_to_the_host(pursuit, parts, monkeypatch):
    monkeypatch.setitem(growth.GROWTHS, DEVICE.type, ("itda.core.training.growth_device", "DeviceGrowth"))
    x = coherent(150, 48)
    trainers = [Trainer(48, k=4, pursuit=pursuit, **parts) for _ in range(2)]
    trainers[0].offer(batch(x))
    with other_device() as device:
        for start, stop in ((0, 60), (60, 150)):
            found = batch(x, start, stop)
            trainers[1].offer(ActivationBatch(there(found.activations), found.labels))
        assert isinstance(growth_of(trainers[1]), DeviceGrowth)
        assert growth_of(trainers[1]).atoms.device == DEVICE
        assert device.copied_rows(48) <= (60 if "atoms" in parts else 0)  # the mean of the first ones
        expected, made = (trainer.finish() for trainer in trainers)
    assert made.labels.keys() == expected.labels.keys()
    assert same_bits(made.atoms, expected.atoms)
    assert same_bits(made.novelty, expected.novelty)
    assert made.threshold == expected.threshold


@BOTH
@pytest.mark.parametrize("memory", [None, 2 * 20**2])
def test_codes_and_errors_in_the_dictionary_so_far_are_those_of_plain(pursuit, memory, monkeypatch):
    monkeypatch.setattr(growth_device, "rows_at_once", lambda *_: 40)
    x = coherent()
    x[7] = 0.0
    grown = DeviceGrowth(16, 5, 0.1, pursuit, None, 30, memory)
    for part in (x[:1], x[1:31], x[31:]):
        for _ in range(2):  # before a block, and as it went on elsewhere
            expected, left = plain.pursue(x[:90], grown.atoms, 5, pursuit)
            code, found = grown.encode(x[:90])
            assert same_bits(found, left)
            assert torch.equal(code.indices, expected.indices)
            assert torch.equal(code.count, expected.count)
            assert code.coefficients.dtype == expected.coefficients.dtype
            assert same_bits(code.coefficients, expected.coefficients)
            before, grown = grown, DeviceGrowth(16, 5, 0.1, pursuit, None, 30, memory)
            grown.restore(before.atoms, before.novelty)
        grown.offer(part)


def test_a_codes_correlations_are_of_the_gram_matrix_and_not_computed_at_each_step(monkeypatch):
    grown = DeviceGrowth(16, 5, 0.1, "mp")
    grown.offer(coherent())
    products = []
    monkeypatch.setattr(growth_device, "correlations", lambda *a, **b: products.append(0) or correlations(*a, **b))
    monkeypatch.setattr(growth_device, "pursue", None)
    grown.encode(coherent()[:90])
    assert products == [0]


def test_kernels_are_proven_once_for_all_dictionaries_of_a_width_and_k(monkeypatch):
    proofs = []
    kernels = Ways(lambda *arguments: advance.advance(*arguments), advance.units)
    monkeypatch.setattr(growth_device, "ways_on", lambda _: kernels)
    monkeypatch.setattr(growth_device, "holds", lambda *_: proofs.append(k) or True)
    for k in (4, 4, 5):
        DeviceGrowth(16, k, 0.1, "mp", None, 64).offer(coherent())
    assert proofs == [4, 5]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@BOTH
def test_growth_by_the_kernels_gives_the_same_bits(interpreter, pursuit):
    x = coherent()[10:50]
    rows, atoms, novelty, left = interpreter(x.numpy(), pursuit)
    wanted, expected, expected_novelty = plain_growth(x, 3, 0.15, pursuit, None)
    assert rows == wanted
    assert 10 < len(rows) < 40
    assert same_bits(torch.from_numpy(atoms), expected)
    assert same_bits(torch.from_numpy(novelty), expected_novelty)
    assert same_bits(torch.from_numpy(left), plain.pursue(x, expected, 3, pursuit)[1])


@pytest.fixture(scope="module")
def interpreter():
    with triton_worker() as run:
        yield partial(run, _by_kernels)


def _by_kernels(x, pursuit):
    """In the worker: growth by Triton's kernels for pursuits, refits and what new atoms change."""
    from itda.core.pursuit import gram_triton

    kernels = Ways(gram_triton.advance_triton, gram_triton.units_triton)
    growth_device.ways_on = lambda _: kernels
    grown = growth_device.DeviceGrowth(x.shape[1], 3, 0.15, pursuit, None, 20)
    there = torch.from_numpy(x).to(CUDA_OR_CPU)
    rows = grown.offer(there)
    assert grown._ways is kernels
    return rows, grown.atoms.cpu().numpy(), grown.novelty.numpy(), grown.encode(there)[1].cpu().numpy()
