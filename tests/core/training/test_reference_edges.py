"""Mode `reference`: a short first batch, duplicates, zero rows and refusals."""

import pytest
import torch
from core.helpers import batch, labels, normal

from itda import ActivationBatch, ReferenceTrainer
from itda.errors import ActivationError


def trained(x: torch.Tensor, size: int, **parts) -> ReferenceTrainer:
    trainer = ReferenceTrainer(x.shape[1], **{"k": 3, "threshold": 0.01, **parts})
    for start in range(0, len(x), size):
        trainer.offer(batch(x, start, start + size))
    return trainer


def test_the_first_atoms_are_the_most_frequent_rows_at_their_first_places_whatever_their_error():
    rare, common, middle = normal(3, 4)
    x = torch.stack([rare, middle, common, common, middle, common])
    assert trained(x, 6).finish().labels.position.tolist() == [2, 1, 0]


def test_batches_shorter_than_the_width_fill_the_dictionary_up_one_after_the_other():
    x = normal(12, 8)
    trainer = ReferenceTrainer(8, k=3, threshold=0.49)  # no error is that large: only filling up adds
    assert [trainer.offer(batch(x, start, start + 3)) for start in range(0, 12, 3)] == [3, 3, 2, 0]


def test_a_row_of_a_batch_is_added_twice_where_it_appears_twice():
    x = torch.cat([torch.eye(4), torch.ones(2, 4)])
    trainer = ReferenceTrainer(4, k=1, threshold=0.01)
    trainer.offer(batch(x, 0, 4))
    assert trainer.offer(ActivationBatch(x[4:], labels(6)[4:])) == 2
    assert trainer.finish().labels.position.tolist()[4:] == [4, 5]


def test_at_its_cap_it_counts_tokens_and_adds_nothing():
    x = normal(30, 4)
    trainer = trained(x, 10, atoms=6)
    assert len(trainer) == 6
    assert trainer.seen == 30
    assert trainer.offer(batch(x)) == 0


def test_a_zero_row_among_the_first_atoms_does_not_spoil_the_dictionary():
    x = torch.cat([torch.zeros(2, 4), normal(19, 4)])  # the most frequent row of the first batch
    model = trained(x, 7).finish()
    assert len(model) > 4


def test_a_row_that_is_not_finite_is_named_and_adds_nothing():
    x, trainer = normal(20, 4), ReferenceTrainer(4, k=2, threshold=0.01)
    trainer.offer(batch(x))
    before = len(trainer), trainer.seen
    x[5, 1] = float("inf")
    with pytest.raises(ActivationError, match="activation 5 is not finite"):
        trainer.offer(batch(x))
    assert (len(trainer), trainer.seen) == before
