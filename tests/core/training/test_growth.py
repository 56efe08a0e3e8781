"""Growth by speculative blocks makes the dictionary of the plain one: the same rows, in the same order, to the bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, batch, normal, same_bits, unit_rows
from core.training.plain_growth import PlainGrowth
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import Trainer
from itda.core.pursuit import gram_cpu, gram_cpu_kernel, plain
from itda.core.training import growth_cpu, growth_kernel
from itda.core.training.growth_cpu import CpuGrowth

ALL = pytest.mark.parametrize("pursuit", COMPILED)


def coherent(rows: int = 250, width: int = 16) -> torch.Tensor:
    """Like raw activations: a common direction, near-duplicates, exact ones, negatives, zero rows."""
    x = normal(rows, width) + 2 * unit_rows(1, width)
    x[20:30] = x[10] + 0.01 * normal(10, width, 1)
    x[40], x[41], x[42], x[43] = x[3], -2 * x[3], 0, 1e-30 * x[7]
    return x


STREAMS = {
    "random": lambda: normal(110, 24),
    "coherent": lambda: coherent(150),
    "coherent, in float64": lambda: coherent(100).double() + 1e-9,
    "more than the width can need": lambda: normal(100, 3),
    "ties": lambda: torch.randint(-1, 2, (100, 6), generator=torch.Generator().manual_seed(5)).float(),
    "one direction": lambda: normal(60, 1),
    "wide, with a mean": lambda: 60 * unit_rows(1, 2100) + normal(30, 2100)[torch.arange(36) % 30],
    "sparse sums": lambda: normal(150, 3, 9).sign() @ unit_rows(3, 40) + 0.3 * normal(150, 40),
}
EVERY = pytest.mark.parametrize("stream", STREAMS)


_plain: dict[tuple, tuple[list[int], torch.Tensor, torch.Tensor]] = {}


def plain_growth(x: torch.Tensor, k: int, threshold: float, pursuit: str, most: int | None):
    key = (x.numpy().tobytes(), k, threshold, pursuit, most)
    if key not in _plain:
        slow = PlainGrowth(x.shape[1], k, threshold, pursuit, most)
        _plain[key] = slow.offer(x), slow.atoms, slow.novelty
    return _plain[key]


def check(
    x: torch.Tensor,
    k: int,
    threshold: float,
    pursuit: str,
    size: int | None,
    most: int | None = None,
    make: Callable[..., Any] = CpuGrowth,
    **parts,
) -> Any:
    """A growth that was offered a stream in two parts, and made what the plain one does."""
    fast = make(x.shape[1], k, threshold, pursuit, most, size, **parts)
    third = len(x) // 3
    rows = fast.offer(x[:third])
    rows += [third + row for row in fast.offer(x[third:])]
    wanted, atoms, novelty = plain_growth(x, k, threshold, pursuit, most)
    assert rows == wanted
    assert same_bits(fast.atoms, atoms)
    assert same_bits(fast.novelty, novelty)
    return fast


@ALL
@pytest.mark.parametrize("size", [1, 7, 64, 4096, None])
@EVERY
def test_the_dictionary_is_that_of_the_plain_growth_for_every_block_size(stream, size, pursuit):
    check(STREAMS[stream](), 4, 0.1, pursuit, size)


@ALL
@pytest.mark.parametrize("size", [3, 4096, None])
@EVERY
def test_the_dictionary_is_that_of_the_plain_growth_where_few_gram_rows_fit(stream, size, pursuit):
    grown = check(STREAMS[stream](), 4, 0.1, pursuit, size, memory=2 * 30 * 12)
    assert grown.gram.complete == (grown.gram_rows == "all")


@ALL
@settings(max_examples=10)
@given(
    st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 2, 5, 40, None]), st.sampled_from([0.1, 0.25, 0.5])
)
def test_streams_of_whole_numbers_with_ties_and_duplicates_give_the_same_dictionary(pursuit, seed, k, size, threshold):
    x = torch.randint(-2, 3, (40, 4), generator=torch.Generator().manual_seed(seed)).float()
    check(x, k, threshold, pursuit, size)


@ALL
@settings(max_examples=7)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 6), st.integers(0, 40))
def test_random_streams_give_the_same_dictionary_whatever_fits(pursuit, seed, width, k, fit):
    x = normal(60, width, seed)
    x[30:50] = x[:20] * torch.tensor([1.0, -1.0])[seed % 2] + 1e-3 * normal(20, width, seed + 1)
    check(x, k, 0.1, pursuit, [None, 9, 80][seed % 3], memory=2 * 40 * fit)


@ALL
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(threads, pursuit):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(coherent(), 5, 0.1, pursuit, 64)
    finally:
        torch.set_num_threads(before)


@ALL
def test_growth_stops_at_the_most_atoms_in_the_middle_of_a_block(pursuit):
    for most in (1, 17, 40):
        assert check(coherent(), 4, 0.05, pursuit, 64, most=most).number == most


@ALL
def test_an_error_of_exactly_the_threshold_is_not_above_it_in_either(pursuit):
    d = unit_rows(10, 8)
    x = torch.cat([d, normal(8, 8, 4)])
    errors = plain.pursue(x[10:], d, 3, pursuit)[1]
    for error in errors[:4].tolist():
        for threshold in (error, np.nextafter(error, 0), np.nextafter(error, 1)):
            check(x, 3, threshold, pursuit, 64)


@ALL
def test_a_new_atom_that_almost_ties_with_an_old_pick_is_decided_as_in_plain(pursuit):
    # Each new atom is a hair from an old one: the replay cannot tell them apart and has to ask again.
    x = unit_rows(1, 64).repeat(60, 1) + 0.3 * normal(60, 64)
    x[30:] = x[:30] + 1e-6 * normal(30, 64, 1)
    check(x, 4, 0.02, pursuit, 60)


@ALL
def test_a_first_pick_that_a_new_atom_takes_by_less_than_a_rounding_decides_what_is_added(pursuit):
    # x is as near to d0 as to d1, but for a few 1e-8; d2 fits what d0 leaves and not what d1 leaves.
    added = set()
    for seed in range(25):
        u = torch.linalg.qr(normal(64, 3, seed).double())[0].T
        x = u[0] + 0.5 * u[2] + 3e-8 * float(normal(1, 1, seed)) * u[1]
        d0, d1, d2 = 0.766 * u[0] + 0.643 * u[1], 0.766 * u[0] - 0.643 * u[1], (u[2] - u[1]) / 2**0.5
        stream = torch.stack([d0, d2, d1, x]).float()
        added.add(check(torch.cat([stream, normal(2, 64)]), 2, 0.17, pursuit, 6).number)
    assert pursuit == "omp" or len(added) == 2


@ALL
@pytest.mark.parametrize("size", [7, None])
def test_rows_whose_atoms_are_almost_one_direction_pause_for_new_products_and_decide_as_in_plain(
    pursuit, size, monkeypatch
):
    paused = []
    for name in ("_refresh", "_refresh_finely"):
        renew = getattr(gram_cpu, name)
        monkeypatch.setattr(
            gram_cpu, name, lambda rows, *rest, renew=renew, name=name: (paused.append(name), renew(rows, *rest))
        )
    x = 3 * unit_rows(1, 40) + 1e-3 * normal(150, 40)
    assert check(x, 6, 2e-6, pursuit, size).number > 40
    assert set(paused) == {"_refresh", "_refresh_finely"}


@ALL
def test_pursuits_are_resumed_where_they_change_and_not_begun_again(pursuit, monkeypatch):
    steps, rewind = [], growth_kernel.rewind

    def spy(rows, block, atoms, dirty, kind):  # fmt: skip
        steps.extend(dirty[rows].tolist())
        return rewind(rows, block, atoms, dirty, kind)

    monkeypatch.setattr(growth_kernel, "rewind", spy)
    CpuGrowth(32, 8, 0.1, pursuit, block_size=64).offer(coherent(400, 32))
    assert max(steps) >= 4
    assert min(steps) == 0
    # Far fewer pursuits are done again than there are pairs of a new atom and a later row.
    assert len(steps) < 0.2 * 400 * 64 / 2


@ALL
def test_the_block_size_adapts_and_stays_within_its_limits(pursuit):
    grown = CpuGrowth(12, 4, 0.3, pursuit)
    sizes = set()
    x = normal(3000, 12)
    for part in x.split(100):
        grown.offer(part)
        sizes.add(grown._block_size)
    assert min(sizes) >= 8
    assert max(sizes) == growth_cpu.ROWS


@pytest.mark.parametrize("memory", [2**30, 2 * 100 * 60])
def test_gram_rows_of_new_atoms_and_their_columns_are_within_the_error(memory):
    grown = CpuGrowth(16, 5, 0.05, "mp", memory=memory)
    for part in coherent(500).split(90):
        grown.offer(part)
    held = np.flatnonzero(grown.gram.slots[: grown.number] >= 0)
    assert len(held) == min(grown.number, grown.gram.capacity)
    exact = (grown.atoms.double() @ grown.atoms.double().T).numpy()
    found = grown.gram.rows[grown.gram.slots[held], : grown.number] / gram_cpu_kernel.SCALE
    assert np.abs(found - exact[held]).max() < grown.gram.error


def test_the_matrix_moves_in_place_as_it_grows():
    grown = CpuGrowth(8, 3, 1e-6, "mp", memory=2**30)
    grown.offer(normal(700, 8))
    assert grown.number == 700
    # An eighth more than needed each way, and something for the beginning.
    assert 2 * grown.gram._buffer.size <= 2 * (700 * 9 / 8 + 200) ** 2


@ALL
def test_the_error_in_the_dictionary_so_far_is_that_of_the_finished_one(pursuit):
    trainer = Trainer(16, k=5, threshold=0.1, pursuit=pursuit)
    x = coherent()
    assert trainer.error(x[:9]).tolist() == [1.0] * 9
    trainer.offer(batch(x))
    assert same_bits(trainer.error(x[:90]), trainer.finish().decompose(x[:90])[1])


def test_labels_are_those_of_the_appended_rows():
    x = coherent()
    trainer = Trainer(16, k=5, threshold=0.1)
    rows = CpuGrowth(16, 5, 0.1, "mp").offer(x)
    trainer.offer(batch(x, 0, 100))
    trainer.offer(batch(x, 100))
    assert trainer.finish().labels.position.tolist() == rows
    assert len(trainer) == len(rows)
