"""Mode `reference` against a literal transcription of the released procedure, written as its description reads."""

import pytest
import torch
from core.helpers import labels, normal

from itda import ActivationBatch, ReferenceTrainer, Trainer
from itda.errors import SettingError


class Transcript:
    """The released procedure on batches [sequences, tokens, d], keeping (sequence, token) for each atom."""

    def __init__(self, k: int, threshold: float, most: int = 0) -> None:
        self.k, self.threshold, self.most = k, threshold, most
        self.atoms, self.places = None, []

    def encode(self, x):
        """n_nonzero_coefs rounds: full product, largest absolute value, add, subtract. A dense code."""
        left, dense = x.clone(), torch.zeros(len(x), len(self.atoms))
        for _ in range(self.k):
            product = torch.matmul(left, self.atoms.T)
            winners = torch.argmax(torch.abs(product), dim=1)
            for row, atom in enumerate(winners.tolist()):
                dense[row, atom] += product[row, atom]
            left -= product[range(len(x)), winners].unsqueeze(1) * self.atoms[winners]
        return dense

    def grow(self, rows, places):
        self.atoms = rows if self.atoms is None else torch.cat([self.atoms, rows])
        self.atoms = self.atoms / torch.norm(self.atoms, dim=1).clamp_min(1e-9).unsqueeze(1)
        self.places += places

    def step(self, number: int, x):
        sequences, tokens, width = x.shape
        flat = x.reshape(-1, width)
        if self.most and len(self.places) >= self.most:
            return
        place_of = [(number * sequences + i // tokens, i % tokens) for i in range(len(flat))]
        missing = width - len(self.places)
        if missing > 0:  # the most frequent distinct rows, whatever their error
            values, inverse, counts = torch.unique(flat, dim=0, return_inverse=True, return_counts=True)
            ranking = torch.sort(counts, descending=True)[1][:missing].tolist()
            firsts = [inverse.tolist().index(value) for value in ranking]
            self.grow(values[ranking], [place_of[i] for i in firsts])
        rebuilt = torch.matmul(self.encode(flat), self.atoms)
        unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-9)
        unit_rebuilt = rebuilt / rebuilt.norm(dim=1, keepdim=True).clamp_min(1e-9)
        errors = (unit - unit_rebuilt).pow(2).mean(dim=1).tolist()
        bad = [i for i, error in enumerate(errors) if error > self.threshold]
        if bad:
            self.grow(flat[bad], [place_of[i] for i in bad])
        if self.most and len(self.places) > self.most:
            self.atoms, self.places = self.atoms[: self.most].clone(), self.places[: self.most]


def sequences(number: int = 24, tokens: int = 10, width: int = 16, seed: int = 0) -> torch.Tensor:
    x = normal(number * tokens, width, seed) @ (normal(width, width, seed + 1) / 4) + normal(1, width, seed + 2)
    x[::10] = x[0]  # the first token of each sequence has one and the same activation
    return x.view(number, tokens, width)


def both(x: torch.Tensor, size: int, threshold: float, most: int | None = None):
    transcript = Transcript(4, threshold, most or 0)
    trainer = ReferenceTrainer(16, k=4, threshold=threshold, atoms=most)
    for step, part in enumerate(x.split(size)):
        transcript.step(step, part)
        flat = part.reshape(-1, 16)
        start = step * size * x.shape[1]
        trainer.offer(ActivationBatch(flat, labels(x.shape[0] * x.shape[1])[start : start + len(flat)]))
    return transcript, trainer.finish()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("threshold", [0.02, 0.005])
def test_labels_and_atoms_are_those_of_the_released_procedure(seed, size, threshold):
    x = sequences(seed=seed)
    transcript, model = both(x, size, threshold)
    assert [(p // 10, p % 10) for p in model.labels.position.tolist()] == transcript.places
    assert torch.equal(model.atoms, transcript.atoms)
    assert len(model) > 16
    assert model.mode == "reference"


def test_a_cap_crops_as_the_released_procedure_does():
    transcript, model = both(sequences(), 4, 0.005, most=40)
    assert len(model) == 40
    assert [(p // 10, p % 10) for p in model.labels.position.tolist()] == transcript.places


def test_its_dictionary_depends_on_the_batch_size_and_the_sequential_trainers_does_not():
    x = sequences(40)
    released = [set(both(x, size, 0.01)[1].labels.keys()) for size in (2, 8)]
    assert released[0] != released[1]
    ours = []
    for size in (2, 8):
        trainer = Trainer(16, k=4, threshold=0.1)
        for step, part in enumerate(x.split(size)):
            start = step * size * 10
            trainer.offer(ActivationBatch(part.reshape(-1, 16), labels(400)[start : start + size * 10]))
        ours.append(trainer.finish().labels.keys())
    assert ours[0] == ours[1]


@pytest.mark.parametrize("threshold", [0.0, 0.25, 1.0])
def test_a_threshold_that_no_error_can_reach_is_refused_in_its_own_unit(threshold):
    with pytest.raises(SettingError, match=r"2 \(1 - cos\) / d_model, so it must be above 0 and below 0.25"):
        ReferenceTrainer(16, k=4, threshold=threshold)
