"""The greedy pass of the trainer: strictly sequential, a function of the stream and the settings alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, batch, normal, same_bits, slow_training
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import Trainer
from itda.errors import ActivationError, SettingError


def stream(rows: int = 150, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Correlated activations with duplicates, negatives, zero rows and whole-number ties among them."""
    mix = normal(width, width, seed + 1) / width**0.5
    x = normal(rows, width, seed) @ mix + normal(1, width, seed + 2)
    x[10], x[20], x[30], x[31:40] = x[3], -x[4], 0, x[31:40].round()
    return x


def trained(x: torch.Tensor, *, cuts: list[int] | None = None, **parts):
    trainer = Trainer(x.shape[1], **{"k": 4, "threshold": 0.3, **parts})
    edges = [0, *(cuts or []), len(x)]
    for start, stop in pairwise(edges):
        trainer.offer(batch(x, start, stop))
    return trainer


def assert_same(a, b):
    assert a.finish().labels.keys() == b.finish().labels.keys()
    assert same_bits(a.finish().atoms, b.finish().atoms)
    assert a.seen == b.seen


@pytest.mark.parametrize("pursuit", COMPILED)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_loop_over_single_activations(pursuit, seed):
    x = stream(seed=seed)
    model = trained(x, pursuit=pursuit).finish()
    rows = slow_training(x.numpy(), 4, 0.3, pursuit)
    assert model.labels.position.tolist() == rows
    expected = torch.nn.functional.normalize(x[rows].double(), dim=1)
    torch.testing.assert_close(model.atoms.double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("pursuit", COMPILED)
@pytest.mark.parametrize("threads", [1, 2])
def test_block_sizes_1_7_64_and_adaptive_give_the_same_bits(pursuit, threads):
    x, before = stream(150), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = [trained(x, pursuit=pursuit, block_size=size) for size in (1, 7, 64, None)]
    finally:
        torch.set_num_threads(before)
    assert 10 < len(results[0]) < 120
    for result in results[1:]:
        assert_same(results[0], result)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sets(st.integers(1, 149), max_size=6), st.integers(1, 160))
def test_the_cut_into_batches_and_blocks_changes_no_bit(seed, cuts, block_size):
    x = stream(seed=seed)
    assert_same(trained(x), trained(x, cuts=sorted(cuts), block_size=block_size))


def test_an_activation_in_the_dictionary_is_never_added_again():
    x = stream()
    trainer = trained(x, threshold=1e-6, k=1)
    kept = trainer.finish().labels.position
    assert len(kept) > 100
    assert trainer.offer(batch(x[kept])) == 0


def test_zero_activations_and_scaled_copies_are_never_added():
    x = stream()
    model = trained(torch.cat([x, 2 * x, -0.5 * x, torch.zeros(5, 16)]), threshold=1e-6).finish()
    assert model.labels.position.max() < len(x)
    assert 30 not in model.labels.position


def test_each_row_was_added_exactly_if_its_error_was_above_the_threshold():
    x, trainer, added = stream(), Trainer(16, k=3, threshold=0.25), []
    for i in range(len(x)):
        error = trainer.finish().decompose(x[i : i + 1])[1].item()
        new = trainer.offer(batch(x, i, i + 1))
        assert new == (error > 0.25)
        added += [i] * new
    assert trainer.finish().labels.position.tolist() == added


def test_a_cap_gives_the_prefix_of_the_uncapped_dictionary():
    x = stream()
    whole, capped = trained(x).finish(), trained(x, most=10).finish()
    assert len(whole) > 10
    assert same_bits(whole.atoms[:10], capped.atoms)
    assert whole.labels.keys()[:10] == capped.labels.keys()


def test_the_offset_is_subtracted_and_stored():
    x, offset = stream(), torch.full((16,), 0.5)
    model = trained(x, offset=offset).finish()
    shifted = trained(x.double() - 0.5).finish()
    assert model.labels.keys() == shifted.labels.keys()
    assert same_bits(model.atoms, shifted.atoms)
    assert torch.equal(model.offset, offset)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named_and_leaves_the_trainer_as_it_was(bad):
    x = stream()
    trainer = trained(x)
    before, tokens, broken = trainer.finish(), trainer.seen, 100 * stream(seed=9)
    broken[7, 3] = bad
    with pytest.raises(ActivationError, match="activation 7 is not finite"):
        trainer.offer(batch(broken))
    assert same_bits(trainer.finish().atoms, before.atoms)
    assert trainer.seen == tokens


def test_half_precision_activations_are_taken_as_the_numbers_they_are():
    x = stream().bfloat16()
    assert_same(trained(x), trained(x.float()))


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"k": 0}, "at least 1"),
        ({"threshold": 0.0}, "below 1"),
        ({"threshold": 1.0}, "below 1"),
        ({"threshold": float("nan")}, "below 1"),
        ({"threshold": -0.1}, "below 1"),
        ({"most": 0}, "at least 1"),
        ({"block_size": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_remedy(settings, remedy):
    with pytest.raises(SettingError, match=remedy):
        Trainer(4, **{"k": 4, "threshold": 0.3, **settings})


def test_an_empty_stream_gives_an_empty_dictionary():
    model = Trainer(4, k=2, threshold=0.3).finish()
    assert len(model) == 0
    assert model.encode(torch.ones(2, 4)).count.tolist() == [0, 0]
    assert np.array_equal(model(torch.ones(2, 4)), np.zeros((2, 4)))
