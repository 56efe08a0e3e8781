"""Massive activations: one rule finds them whatever the batches, and a dictionary is what it is without them."""

import itertools
import json

import numpy as np
import pytest
import torch
from core.helpers import batch, labels, normal, same_bits, slow_training
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from itda import ITDA, ActivationBatch, Label, Labels, Trainer, refine
from itda.core.massive import MULTIPLE, Tally, limit_of, massive, median_norm, medians, norms
from itda.errors import ActivationError, SettingError

USUAL = {"pursuit": "mp_refit", "offset_tokens": 4096, "massive": "skip"}
"""Settings of the trainers here, where a test has no others."""

EVERY = 8
"""Every so many activations stand first in their window."""


def windows(number: int) -> Labels:
    return Labels.of(*(Label("essay", i, i, i + 1, i, "x" * (i % EVERY), "x", "") for i in range(number)))


def planted(tokens: int, width: int = 16, *, elsewhere: tuple[int, ...] = (), times: float = 100.0):
    """Ordinary activations around a mean, and the sinks among them: the first of each window, and some elsewhere."""
    x = normal(tokens, width) + 2.0
    sinks = np.zeros(tokens, dtype=bool)
    sinks[::EVERY] = True
    sinks[list(elsewhere)] = True
    direction = torch.zeros(width)
    direction[3] = times * float(x.norm(dim=1).median())
    x[torch.from_numpy(sinks)] += direction
    return x, torch.from_numpy(sinks)


def offered(x: torch.Tensor, names: Labels, cuts=(), **parts) -> Trainer:
    trainer = Trainer(x.shape[1], **{"tokens": len(x), "k": 3, **USUAL, **parts})
    for start, stop in itertools.pairwise([0, *cuts, len(x)]):
        trainer.offer(ActivationBatch(x[start:stop], names[start:stop]))
    return trainer


def assert_same(a: ITDA, b: ITDA) -> None:
    assert a.labels.keys() == b.labels.keys()
    assert same_bits(a.atoms, b.atoms)
    assert (a.threshold, a.massive_norm) == (b.threshold, b.massive_norm)
    for left, right in ((a.offset, b.offset), (a.fidelity, b.fidelity)):
        assert (left is None) == (right is None)
        assert left is None or same_bits(left, right)


SETTINGS = [
    {"threshold": 0.3, "offset_tokens": 0},
    {"threshold": 0.3, "offset_tokens": 500, "passes": 2},
    {"atoms": 60, "offset_tokens": 500, "passes": 3, "min_fidelity": 0.9},
    {"atoms": 60, "offset_tokens": 0, "pursuit": "mp"},
]


@given(arrays.arrays(np.float64, (7, 3), elements=st.floats(-1e6, 1e6)))
def test_the_rule_is_ten_medians_by_a_plain_loop(rows):
    x = torch.from_numpy(rows)
    lengths = [float(sum(float(v) ** 2 for v in row) ** 0.5) for row in rows]
    median = sorted(lengths)[3]
    assert median_norm(x) == pytest.approx(median, rel=1e-12)
    found = massive(x, limit_of(median_norm(x))).tolist()
    for length, is_massive in zip(lengths, found, strict=True):
        if median > 1e-150 and abs(length - 10 * median) > 1e-9 * length:
            assert is_massive == (length > 10 * median)


def test_a_norm_of_exactly_the_limit_is_not_massive_and_the_next_number_is():
    x = torch.tensor([[50.0], [np.nextafter(50.0, 60.0)], [-51.0]], dtype=torch.float64)
    assert massive(x, 50.0).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_norms_have_the_same_bits_for_any_batch_and_do_not_overflow(dtype):
    x = (normal(37, 21) * 3e4).to(dtype)
    whole = norms(x)
    assert same_bits(whole, torch.cat([norms(row[None]) for row in x]))
    assert same_bits(whole.reshape(1, 37), norms(x[None]))
    torch.testing.assert_close(whole, x.double().norm(dim=1), rtol=1e-14, atol=0)
    assert norms(torch.full((1, 4), 3e38)).item() == pytest.approx(6e38)


def test_zeros_and_empty_streams_have_no_limit_and_nobody_is_massive():
    zeros = torch.zeros(5, 3)
    zeros[0] = 1e9
    assert limit_of(median_norm(zeros)) is None
    assert limit_of(median_norm(torch.empty(0, 3))) is None
    assert not massive(zeros, None).any()
    assert torch.isnan(medians(norms(zeros), None)).all()
    model = offered(zeros, labels(5), threshold=0.5).finish()
    assert model.massive_norm is None
    assert len(model) == 1
    assert model.provenance["massive"]["tokens"] == 0
    assert json.loads(json.dumps(model.provenance["massive"], allow_nan=False)) == model.provenance["massive"]


def test_an_outlier_dimension_that_all_tokens_share_makes_nobody_massive():
    x = normal(400, 16)
    x[:, 5] += 1e4 * (1 + 0.2 * normal(400, 1)[:, 0])
    trainer = offered(x, windows(400), threshold=0.3, offset_tokens=400)
    assert trainer.tally.tokens == 0
    assert_same(offered(x, windows(400), threshold=0.3, massive=None).finish(), _without_limit(trainer.finish()))


def _without_limit(model: ITDA) -> ITDA:
    from dataclasses import replace

    return replace(model, massive_norm=None)


@pytest.mark.parametrize("parts", SETTINGS)
@pytest.mark.parametrize("elsewhere", [(), (5, 77, 78, 301)])
def test_the_dictionary_is_that_of_the_stream_without_them(parts, elsewhere):
    x, sinks = planted(400, elsewhere=elsewhere)
    names = windows(400)
    found = offered(x, names, **parts).finish()
    bare = offered(x[~sinks], names[~sinks], **parts).finish()
    assert_same(_without_limit(found), _without_limit(bare))
    assert found.is_massive(x).tolist() == sinks.tolist()
    # The limit is that of the stream as it comes, sinks and all.
    assert found.massive_norm == MULTIPLE * x.double().norm(dim=1).sort().values[199].item()


def test_the_offset_is_the_mean_of_the_others_and_not_of_all():
    x, sinks = planted(400)
    model = offered(x, windows(400), threshold=0.3).finish()
    torch.testing.assert_close(model.offset.double(), x[~sinks].double().mean(dim=0), rtol=6.1e-8, atol=0)
    poisoned = offered(x, windows(400), threshold=0.3, massive=None).finish()
    assert float(poisoned.offset.norm()) > 5 * float(model.offset.norm())
    assert poisoned.massive_norm is None
    assert "massive" not in poisoned.provenance


def test_they_are_counted_with_their_share_of_the_energy_and_how_many_stood_first():
    x, sinks = planted(400, elsewhere=(5, 77))
    made_by = offered(x, windows(400), [1, 9, 200], threshold=0.3).finish(provenance={"model": "m"}).provenance
    record, square = made_by["massive"], x.double().square().sum(dim=1)
    assert made_by["model"] == "m"
    assert (record["tokens"], record["seen"], record["first"], record["windows"]) == (52, 400, 50, 50)
    assert record["energy"] == pytest.approx(float(square[sinks].sum() / square.sum()), rel=1e-12)
    assert record["limit"] == MULTIPLE * record["median"]
    assert record["use"] == "skip"


@pytest.mark.parametrize("parts", SETTINGS)
@pytest.mark.parametrize("use", ["skip", "atoms"])
def test_no_cut_into_batches_changes_a_bit_or_a_count(monkeypatch, parts, use):
    for name in ("settings.FIRST_TOKENS", "schedule.LEAST_SAMPLE"):
        monkeypatch.setattr(f"itda.core.training.{name}", 90)
    for module in ("settings", "refine"):
        monkeypatch.setattr(f"itda.core.training.{module}.PASS_TOKENS", 70)
    parts = {**parts, "massive": use, "offset_tokens": min(parts["offset_tokens"], 120)}
    x, _ = planted(400, elsewhere=(5, 77))
    whole = offered(x, windows(400), **parts).finish()
    for cuts in (range(1, 400), [89, 90, 91, 119, 120, 121], [0, 0, 140, 140]):
        again = offered(x, windows(400), cuts, **parts).finish()
        assert_same(whole, again)
        assert whole.provenance == again.provenance


@settings(max_examples=5)
@given(st.integers(0, 400), st.sampled_from(SETTINGS), st.sampled_from(["skip", "atoms", None]))
def test_an_interruption_anywhere_changes_no_bit_and_no_count(at, parts, use):
    x, _ = planted(400, elsewhere=(5, 77))
    names, parts = windows(400), {**USUAL, **parts, "massive": use, "tokens": 400}
    before = Trainer(16, k=3, **parts)
    before.offer(ActivationBatch(x[:at], names[:at]))
    state, after = before.state(), Trainer(16, k=3, **parts)
    after.restore(type(state)(json.loads(json.dumps(state.values, allow_nan=False)), state.tensors, state.labels))
    after.offer(ActivationBatch(x[at:], names[at:]))
    found, expected = after.finish(), offered(x, names, **parts).finish()
    assert_same(found, expected)
    assert found.provenance == expected.provenance


def test_they_can_be_atoms_and_are_left_out_of_the_offset_and_of_refinement_then():
    x, sinks = planted(400)
    parts = {"threshold": 0.3, "passes": 2, "min_fidelity": 0.5}
    asked = offered(x, windows(400), massive="atoms", **parts).finish()
    skipped = offered(x, windows(400), **parts).finish()
    assert same_bits(asked.offset, skipped.offset)
    own = [i for i, position in enumerate(asked.labels.position.tolist()) if sinks[position]]
    assert len(own) >= 1
    plain = offered(x, windows(400), massive="atoms", threshold=0.3).finish()
    assert_same(asked, refine(plain, x[~sinks], passes=2, min_fidelity=0.5))
    assert asked.provenance["massive"]["use"] == "atoms"
    assert not set(skipped.labels.position.tolist()) & set(sinks.nonzero()[:, 0].tolist())


def test_with_the_rule_off_none_waits_and_none_is_passed_over():
    x, _ = planted(200)
    trainer = Trainer(16, tokens=200, k=3, threshold=0.3, massive=None)
    trainer.offer(batch(x, 0, 1))
    assert len(trainer) == 1
    trainer.offer(batch(x, 1, 200))
    assert trainer.finish().labels.position.tolist() == slow_training(x.numpy(), 3, 0.3, "mp")


def test_a_limit_comes_back_from_the_disk_and_an_older_dictionary_has_none(tmp_path):
    x, sinks = planted(400)
    model = offered(x, windows(400), threshold=0.3).finish()
    model.save_pretrained(tmp_path / "d")
    again = ITDA.from_pretrained(tmp_path / "d")
    assert again.massive_norm == model.massive_norm
    assert again.to("cpu").is_massive(x.reshape(20, 20, 16)).reshape(-1).tolist() == sinks.tolist()
    path = tmp_path / "d" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("massive_norm") == model.massive_norm
    path.write_text(json.dumps(config))
    older = ITDA.from_pretrained(tmp_path / "d")
    assert older.massive_norm is None
    assert not older.is_massive(x).any()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_limit_is_refused(limit):
    with pytest.raises(SettingError, match="give a positive number, or None for no limit"):
        ITDA(torch.eye(2), labels(2), k=1, massive_norm=limit)


def test_activations_of_another_width_are_refused():
    with pytest.raises(ActivationError, match="width 3"):
        ITDA(torch.eye(2), labels(2), k=1, massive_norm=1.0).is_massive(torch.ones(1, 3))


def test_the_share_of_energy_does_not_overflow():
    tally = Tally(median=1e-30)
    tally.update(torch.tensor([[1e300], [1e-30]], dtype=torch.float64), np.array([True, False]))
    assert json.dumps(tally.record(), allow_nan=False)
    assert tally.record()["energy"] == pytest.approx(1.0)
