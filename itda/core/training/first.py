"""The first activations of a stream, held back until there are enough of them to begin with."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.labels import Labels
from itda.core.training.state import TrainingState


class FirstActivations:
    """Copies of the first batches of a stream, each on its own device and in its own dtype."""

    def __init__(self) -> None:
        self.batches: list[ActivationBatch] = []

    def add(self, batch: ActivationBatch) -> None:
        """Hold a copy of a batch: its source may use the tensor again."""
        self.batches.append(ActivationBatch(batch.activations.clone(), batch.labels))

    def joined(self, number: int, d_model: int, device: torch.device) -> Float[Tensor, "tokens d_model"]:
        """Return the first `number` activations, or as many as there are."""
        parts = [batch.activations.to(device) for batch in self.batches]
        return torch.cat(parts or [torch.empty(0, d_model, device=device)])[:number]

    def state(self) -> TrainingState:
        """Return a snapshot for `restore`: tensors `first.0`, `first.1`, ... and their labels."""
        # A group of one dtype each: a cut into batches changes nothing, a dtype would.
        groups = [list(group) for _, group in itertools.groupby(self.batches, lambda batch: batch.activations.dtype)]
        tensors = {f"first.{i}": torch.cat([b.activations.cpu() for b in group]) for i, group in enumerate(groups)}
        return TrainingState({}, tensors, {"first": Labels.concatenate([batch.labels for batch in self.batches])})

    def restore(self, state: TrainingState) -> None:
        """Hold the batches that were held when the snapshot was taken."""
        start = 0
        for i in itertools.count():
            if (activations := state.tensors.get(f"first.{i}")) is None:
                break
            stop = start + len(activations)
            self.batches.append(ActivationBatch(activations.clone(), state.labels["first"][start:stop]))
            start = stop
