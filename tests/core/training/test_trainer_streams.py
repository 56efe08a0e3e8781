"""The trainer on streams with ties, duplicates and zero rows, on long ones, and on settings that cannot work."""

import itertools

import pytest
import torch
from core.helpers import COMPILED, batch, labels, normal, same_bits, slow_training
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ActivationBatch, Trainer
from itda.errors import ActivationError, SettingError

ALL = pytest.mark.parametrize("pursuit", COMPILED)


def whole_numbers(rows: int, width: int, seed: int) -> torch.Tensor:
    """Small whole numbers: many exact ties, duplicates, negatives and zero rows."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (rows, width), generator=random).float()


def trained(x: torch.Tensor, *, cuts: list[int] | None = None, **parts) -> Trainer:
    trainer = Trainer(x.shape[1], **{"k": 3, "threshold": 0.3, **parts})
    for start, stop in itertools.pairwise([0, *(cuts or []), len(x)]):
        trainer.offer(batch(x, start, stop))
    return trainer


@ALL
@settings(max_examples=10)
@given(st.integers(0, 10**6), st.sets(st.integers(1, 39), max_size=5), st.sampled_from([2, 7, 64, None]), st.booleans())
def test_ties_duplicates_and_zeros_give_the_same_bits_however_the_stream_is_cut(pursuit, seed, cuts, size, shift):
    x = whole_numbers(40, 6, seed)
    offset = torch.full((6,), 0.25) if shift else None
    one = trained(x, pursuit=pursuit, offset=offset, block_size=1)
    other = trained(x, pursuit=pursuit, offset=offset, block_size=size, cuts=sorted(cuts))
    assert one.finish().labels.keys() == other.finish().labels.keys()
    assert same_bits(one.finish().atoms, other.finish().atoms)
    assert one.seen == other.seen == 40


@ALL
@pytest.mark.parametrize("seed", range(4))
def test_rows_along_the_axes_with_ties_become_the_atoms_of_the_slow_loop(pursuit, seed):
    x = whole_numbers(80, 6, seed)
    x[:40] *= torch.eye(6)[torch.randint(6, (40,), generator=torch.Generator().manual_seed(seed))]
    model = trained(x, pursuit=pursuit, threshold=0.37).finish()
    assert model.labels.position.tolist() == slow_training(x.numpy(), 3, 0.37, pursuit)


@ALL
def test_with_an_offset_the_atoms_are_those_of_the_slow_loop_on_shifted_activations(pursuit):
    x, offset = normal(120, 12) + 2, normal(1, 12, 3)[0] + 2
    model = trained(x, pursuit=pursuit, offset=offset).finish()
    rows = slow_training((x.double() - offset.double()).numpy(), 3, 0.3, pursuit)
    assert model.labels.position.tolist() == rows
    assert 12 < len(rows) < 120


@ALL
@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e35])
def test_the_activation_of_an_atom_is_never_added_again_at_the_lowest_threshold(pursuit, k, scale):
    x = normal(60, 24) * scale
    x[40:] = x[:20] + 0.01 * x[20:40]  # near-duplicates compete for the first pick
    trainer = trained(x, pursuit=pursuit, k=k, threshold=1e-6)
    kept = trainer.finish().labels.position
    assert len(kept) >= 40
    assert trainer.offer(batch(x[kept])) == 0
    assert trainer.offer(batch(-3 * x[kept])) == 0


@ALL
def test_each_row_was_added_exactly_if_its_error_then_was_above_the_threshold(pursuit):
    x = torch.cat([normal(50, 8), whole_numbers(40, 8, 1)])
    trainer = Trainer(8, k=3, threshold=0.25, pursuit=pursuit)
    for i in range(len(x)):
        error = trainer.finish().decompose(x[i])[1].item()
        assert trainer.offer(batch(x, i, i + 1)) == (error > 0.25)


def test_hundreds_of_atoms_outgrow_the_first_allocation_and_keep_their_order():
    x = normal(560, 32)
    model = trained(x, k=1, threshold=0.05).finish()
    assert len(model) > 512
    rows = model.labels.position
    torch.testing.assert_close(model.atoms, torch.nn.functional.normalize(x[rows], dim=1), rtol=0, atol=1e-6)
    assert (torch.from_numpy(rows).diff() > 0).all()


@pytest.mark.parametrize("cap", [1, 5, 9])
def test_a_cap_reached_anywhere_gives_the_same_prefix_for_every_cut(cap):
    x = normal(80, 12)
    free = trained(x).finish()
    for size, cuts in [(1, []), (7, [3, 4, 50]), (64, []), (None, [1])]:
        capped = trained(x, most=cap, block_size=size, cuts=cuts)
        assert len(capped) == cap
        assert capped.finish().labels.keys() == free.labels.keys()[:cap]
        assert same_bits(capped.finish().atoms, free.atoms[:cap])
        assert capped.seen == 80


def test_a_finished_dictionary_is_not_changed_by_later_batches():
    trainer = Trainer(12, k=3, threshold=0.3)
    trainer.offer(batch(normal(20, 12)))
    first = trainer.finish()
    atoms, keys = first.atoms.clone(), first.labels.keys()
    trainer.offer(batch(normal(400, 12, 9)))
    assert len(trainer) > len(first)
    assert same_bits(first.atoms, atoms)
    assert first.labels.keys() == keys


def test_offer_returns_the_number_added_and_an_empty_batch_adds_none():
    x, trainer = normal(50, 12), Trainer(12, k=3, threshold=0.3)
    assert trainer.offer(batch(x[:0])) == 0
    assert sum(trainer.offer(batch(x, start, start + 10)) for start in range(0, 50, 10)) == len(trainer) > 0


@pytest.mark.parametrize("row", [0, 13])
def test_a_batch_with_a_nan_leaves_atoms_labels_and_tokens_as_they_were(row):
    trainer, broken = trained(normal(40, 12)), 5 * normal(20, 12, 4)
    broken[row, 11] = float("nan")
    before = len(trainer), trainer.seen, trainer.finish().labels.keys()
    with pytest.raises(ActivationError, match=f"activation {row} is not finite: leave it out"):
        trainer.offer(batch(broken))
    assert before == (len(trainer), trainer.seen, trainer.finish().labels.keys())


def test_activations_of_another_width_are_refused_with_both_widths():
    with pytest.raises(ActivationError, match="width 11 for atoms of width 12"):
        Trainer(12, k=3, threshold=0.3).offer(ActivationBatch(normal(4, 11), labels(4)))


@pytest.mark.parametrize("width", [1, 11, 13])
def test_an_offset_of_another_width_is_refused_before_training(width):
    with pytest.raises(SettingError, match=r"an offset of shape .*: give \[12\]"):
        Trainer(12, k=3, threshold=0.3, offset=torch.zeros(width))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_offset_that_is_not_finite_is_refused_before_training(bad):
    with pytest.raises(SettingError, match="offset"):
        Trainer(2, k=3, threshold=0.3, offset=torch.tensor([0.0, bad]))


def test_atoms_are_float32_whatever_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert trained(normal(20, 12).double()).finish().atoms.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
