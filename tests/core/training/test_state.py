"""Interrupted anywhere, and gone on with from its state, training gives the bits that it would have given."""

import itertools
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, labels, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ITDA, ActivationBatch, Label, Labels, ReferenceTrainer, Trainer
from itda.core.tokens import TokenLog
from itda.core.training.state import TrainingState
from itda.errors import SettingError

WIDTH, TOKENS = 12, 160


def stream(seed: int, tokens: int = TOKENS, dtype: torch.dtype = torch.float32) -> ActivationBatch:
    """Noisy sums of three of some hidden directions around a mean, with repeats and a zero row."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(30, WIDTH, generator=random)
    x = hidden[torch.randint(30, (tokens, 3), generator=random)].sum(dim=1)
    x = x + 0.2 * torch.randn(tokens, WIDTH, generator=random) + 0.5
    x[7::23] = x[3]
    x[11::97] = 0
    return ActivationBatch(x.to(dtype), labels(tokens))


def part(batch: ActivationBatch, start: int, stop: int) -> ActivationBatch:
    return ActivationBatch(batch.activations[start:stop], batch.labels[start:stop])


def offered(trainer, batch: ActivationBatch, cuts: list[int]):
    for start, stop in itertools.pairwise(cuts):
        trainer.offer(part(batch, start, stop))
    return trainer


def interrupted(make, batch: ActivationBatch, cuts: list[int], stops: set[int], carry=lambda state: state):
    """The same stream and cuts, begun anew from the state after the batches numbered `stops`."""
    trainer = make()
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        if i in stops:
            trainer, former = make(), trainer
            trainer.restore(carry(former.state()))
        trainer.offer(part(batch, start, stop))
    return trainer


def through_json(state: TrainingState) -> TrainingState:
    """As a file would have it: values by JSON, tensors and labels of its own."""
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return TrainingState(json.loads(json.dumps(state.values, allow_nan=False)), tensors, dict(state.labels))


def assert_same(a: ITDA, b: ITDA) -> None:
    assert a.threshold == b.threshold
    for name in ("atoms", "novelty", "offset", "fidelity"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        assert left is None or same_bits(left, right), name
    assert_same_labels(a.labels, b.labels)


def assert_same_labels(a: Labels, b: Labels) -> None:
    assert list(a) == list(b)
    assert a.window.tolist() == b.window.tolist()
    assert a.window_start.tolist() == b.window_start.tolist()


@contextmanager
def short_waits():
    """A sample and a pass of few tokens, so that a short stream goes through all of the procedure."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("settings.FIRST_TOKENS", "schedule.LEAST_SAMPLE"):
            patch.setattr(f"itda.core.training.{name}", 50)
        for module in ("settings", "refine"):
            patch.setattr(f"itda.core.training.{module}.PASS_TOKENS", 40)
        yield


USUAL = {"tokens": TOKENS, "k": 3, "massive": "skip"}

MAKERS = {
    "trainer": lambda **parts: Trainer(WIDTH, **{"k": 3, "threshold": 0.2, **parts}),
    "paper": lambda **parts: Trainer(WIDTH, **{**USUAL, "threshold": 0.2, **parts}),
    "best": lambda **parts: Trainer(
        WIDTH,
        **{**USUAL, "atoms": 30, "pursuit": "mp_refit", "offset_tokens": 30, "passes": 2, "min_fidelity": 0.8, **parts},
    ),
    "recipe 2": lambda **parts: Trainer(
        WIDTH, **{**USUAL, "atoms": 30, "pursuit": "mp_refit", "offset_tokens": 30, "passes": 4, "recipe": 2, **parts}
    ),
    "recipe 2 by a threshold": lambda **parts: Trainer(
        WIDTH, **{**USUAL, "threshold": 0.2, "offset_tokens": 30, "passes": 4, "recipe": 2, **parts}
    ),
    "offset": lambda **parts: Trainer(
        WIDTH, **{**USUAL, "threshold": 0.2, "pursuit": "omp", "offset_tokens": 90, "passes": 1, **parts}
    ),
    "reference": lambda **parts: ReferenceTrainer(WIDTH, **{"k": 3, "threshold": 0.02, **parts}),
}
"""Each with some settings, of which those given are others."""


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=6)
@given(st.integers(0, 10**6), st.data())
def test_an_interruption_anywhere_changes_no_bit(name, seed, data):
    batch, make = stream(seed, dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16]))), MAKERS[name]
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, TOKENS), max_size=10))), TOKENS]
    if name == "reference":
        cuts = sorted(set(cuts))  # it has no step on nothing
    stops = data.draw(st.sets(st.integers(0, len(cuts) - 2), min_size=1))
    with short_waits():
        whole = offered(make(), batch, cuts).finish()
        assert_same(whole, interrupted(make, batch, cuts, stops, through_json).finish())
    assert len(whole) > 5


@pytest.mark.parametrize("pursuit", COMPILED)
@settings(max_examples=3)
@given(st.integers(0, 10**6), st.integers(0, TOKENS))
def test_no_result_depends_on_the_gram_rows_that_are_computed_anew(pursuit, seed, at):
    batch, make = stream(seed), MAKERS["trainer"]
    whole = offered(make(pursuit=pursuit), batch, [0, TOKENS]).finish()
    for memory, block_size in ((1, None), (400, 3), (None, 64)):
        trainer = make(pursuit=pursuit, memory=memory, block_size=block_size)
        trainer.restore(offered(make(pursuit=pursuit), batch, [0, at]).state())
        assert_same(whole, offered(trainer, batch, [at, TOKENS]).finish())


def test_interrupted_before_every_token_a_schedule_and_refinement_give_the_same_bits():
    batch = stream(1)
    with short_waits():
        whole = offered(MAKERS["best"](), batch, [0, TOKENS])
        cuts = list(range(TOKENS + 1))
        again = interrupted(MAKERS["best"], batch, cuts, set(cuts), through_json)
        assert_same(whole.finish(), again.finish())
    assert whole.found == again.found


def test_errors_and_counts_go_on_too():
    batch = stream(2)
    for name, make in MAKERS.items():
        with short_waits():
            before, after = offered(make(), batch, [0, 100]), make()
            after.restore(before.state())
        assert (len(after), after.seen) == (len(before), before.seen), name
        if not isinstance(before, ReferenceTrainer):
            assert torch.equal(before.error(batch.activations), after.error(batch.activations))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("at", [0, 40, 120])
def test_a_state_is_a_snapshot_and_nobodys_to_write_to(name, at):
    batch, make = stream(3), MAKERS[name]
    with short_waits():
        begun = [0, at] if at else [0]  # no batch at all, or one
        giver, whole = offered(make(), batch, begun), offered(make(), batch, [*begun, TOKENS]).finish()
        state = giver.state()
        copy = through_json(state)
        taker = make()
        taker.restore(state)
        for trainer in (giver, taker):
            offered(trainer, batch, [at, TOKENS])
            trainer.finish()
        assert state.values == copy.values
        assert all(same_bits(state.tensors[key], tensor) for key, tensor in copy.tensors.items())
        for tensor in state.tensors.values():  # nor do they see what becomes of it
            tensor.fill_(9)
        assert_same(whole, giver.finish())
        assert_same(whole, taker.finish())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_activations_that_wait_keep_their_dtype(dtype):
    batch = stream(4, dtype=dtype)
    with short_waits():
        trainer = offered(MAKERS["best"](), batch, [0, 10, 20])
        state = trainer.state()
        assert {tensor.dtype for tensor in state.tensors.values()} == {dtype}
        assert same_bits(state.tensors["first.0"].double(), batch.activations[:20].double())


def test_batches_of_different_dtypes_that_wait_keep_each_its_own():
    wide, narrow = stream(5), stream(5, dtype=torch.bfloat16)
    with short_waits():
        whole, halted, after = (MAKERS["best"]() for _ in range(3))
        for trainer in (whole, halted):
            for source, *cuts in ((wide, 0, 9), (narrow, 9, 9, 20, 21), (wide, 21, 30)):
                offered(trainer, source, cuts)
        state = halted.state()
        assert [state.tensors[f"first.{i}"].dtype for i in range(3)] == [torch.float32, torch.bfloat16, torch.float32]
        after.restore(state)
        assert_same(offered(whole, wide, [30, TOKENS]).finish(), offered(after, wide, [30, TOKENS]).finish())


def test_a_threshold_set_between_batches_is_kept_and_the_one_it_began_with_is_the_setting():
    batch, trainer, other = stream(6), MAKERS["trainer"](), MAKERS["trainer"]()
    offered(trainer, batch, [0, 50]).threshold = 0.1
    other.restore(trainer.state())
    assert other.threshold == 0.1
    assert_same(offered(trainer, batch, [50, TOKENS]).finish(), offered(other, batch, [50, TOKENS]).finish())


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("trainer", {"k": 4}),
        ("trainer", {"threshold": 0.3}),
        ("trainer", {"pursuit": "omp"}),
        ("trainer", {"most": 7}),
        ("trainer", {"offset": torch.ones(WIDTH)}),
        ("paper", {"threshold": 0.1}),
        ("paper", {"pursuit": "mp_refit"}),
        ("paper", {"offset_tokens": 1}),
        ("best", {"atoms": 31}),
        ("best", {"passes": 1}),
        ("best", {"min_fidelity": 0.0}),
        ("best", {"min_fidelity": 0.0, "recipe": 2}),
        ("recipe 2", {"recipe": 1}),
        ("reference", {"k": 2}),
        ("reference", {"threshold": 0.01}),
        ("reference", {"atoms": 9}),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_changed(name, other):
    state, taker = offered(MAKERS[name](), stream(7), [0, 100]).state(), MAKERS[name](**other)
    with pytest.raises(SettingError, match=next(iter(other))) as caught:
        taker.restore(state)
    assert "\n" not in str(caught.value)
    assert len(taker) == taker.seen == 0


def test_another_width_kind_or_offset_is_refused_and_so_is_a_trainer_with_tokens():
    state = offered(MAKERS["trainer"](), stream(8), [0, 100]).state()
    with pytest.raises(SettingError, match="d_model is 13, and 12 in the state to be restored: give the Trainer"):
        Trainer(13, k=3, threshold=0.2).restore(state)
    with pytest.raises(SettingError, match="state of a Trainer: it cannot be restored to a ReferenceTrainer"):
        MAKERS["reference"]().restore(state)
    with pytest.raises(SettingError, match="seen 160 tokens already: restore the state to a new one"):
        offered(MAKERS["trainer"](), stream(8), [0, TOKENS]).restore(state)
    for name in ("trainer", "paper"):  # before the first activation is gone through, and after
        shifted = offered(MAKERS[name](offset=torch.ones(WIDTH)), stream(8), [0, 20])
        with pytest.raises(SettingError, match="the offset is not that"):
            MAKERS[name](offset=torch.full((WIDTH,), 2.0)).restore(shifted.state())
        MAKERS[name](offset=torch.ones(WIDTH)).restore(shifted.state())


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c/d é"]), st.integers(0, 5)), max_size=12), st.integers(0, 12))
def test_a_token_log_goes_on_where_it_was(runs, at):
    parts = [Labels.of(*(Label(name, i, i, i + 1, 0, "", "x", "") for i in range(size))) for name, size in runs]
    whole, first, second = TokenLog(), TokenLog(), TokenLog()
    for read in parts:
        whole.add(read)
    for read in parts[:at]:
        first.add(read)
    state = first.state()
    second.restore(through_json(state))
    for read in parts[at:]:
        second.add(read)
        first.add(read)
    assert state.tensors["columns"].shape[1] == sum(size for _, size in runs[:at])
    for log in (first, second):
        a, b = whole.table(), log.table()
        assert a.documents == b.documents
        for column in ("document", "position", "char_end"):
            left, right = getattr(a, column), getattr(b, column)
            assert left.dtype == right.dtype == np.int32
            assert left.tolist() == right.tolist()


def test_a_token_log_that_has_tokens_takes_no_state():
    log = TokenLog()
    log.add(labels(3))
    with pytest.raises(SettingError, match="this TokenLog has seen 3 tokens already"):
        log.restore(log.state())
