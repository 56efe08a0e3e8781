"""The version of the order of summation: what a dictionary was made with, on every way that one is made."""

from dataclasses import replace

import torch
from core.helpers import labels, normal, unit_rows

import itda
from itda.core.arithmetic import ARITHMETIC, combined, on_other_bits
from itda.core.training.state import TrainingState

X = normal(60, 8)


def trained(state: TrainingState | None = None, **settings) -> itda.Trainer:
    """A trainer that has had X, from the beginning or from a state on."""
    trainer = itda.Trainer(8, k=2, threshold=0.2, **settings)
    if state is not None:
        trainer.restore(state)
    trainer.offer(itda.ActivationBatch(X, labels(60)))
    return trainer


def as_made_before(state: TrainingState) -> TrainingState:
    """The state as an itda wrote it that did not count orders of summation."""
    grown = {name: value for name, value in state.values["trainer"].items() if name != "arithmetic"}
    return replace(state, values={**state.values, "trainer": grown})


def test_what_is_made_from_the_beginning_is_of_this_itdas_order():
    trainer = trained()
    assert trainer.state().arithmetic == (ARITHMETIC,)
    assert trainer.finish().arithmetic == (ARITHMETIC,)
    assert trained(trainer.state()).finish().arithmetic == (ARITHMETIC,)


def test_what_was_begun_in_an_older_order_is_of_both_and_stays_so():
    older = as_made_before(trained().state())
    assert older.arithmetic == (1,)
    trainer = trained(older)
    assert trainer.state().arithmetic == (1, 2)
    again = trained(trainer.state())
    assert again.finish().arithmetic == (1, 2)


def test_activations_that_only_wait_are_of_no_order():
    trainer = trained(offset_tokens=100, tokens=500)
    assert len(trainer) == 0
    assert trainer.state().arithmetic == ()
    assert trained(trainer.state(), offset_tokens=100, tokens=500).finish().arithmetic == (ARITHMETIC,)


def test_a_dictionary_that_is_refined_is_of_the_orders_of_both():
    older = itda.ITDA(unit_rows(12, 8), labels(12), k=2, arithmetic=(1,))
    assert itda.refine(older, X, passes=1).arithmetic == (1, 2)
    assert older.to("cpu").arithmetic == (1,)


def test_orders_are_named_once_and_in_their_order():
    assert combined([2], (), (1, 2)) == (1, 2)
    assert on_other_bits([ARITHMETIC]) is None
    assert (on_other_bits([1, 2]) or "").startswith("made with sums in order 1 and 2; this itda's are in order 2")


def test_the_order_changes_no_tensor_of_a_dictionary():
    a, b = (itda.ITDA(unit_rows(12, 8), labels(12), k=2, arithmetic=made) for made in ((1,), (2,)))
    assert torch.equal(a.encode(X).coefficients, b.encode(X).coefficients)
