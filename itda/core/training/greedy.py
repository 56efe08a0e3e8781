"""The greedy pass: append what the dictionary so far explains badly (the paper's Algorithm 1), and keep its labels."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.arithmetic import ARITHMETIC, FIRST, combined
from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA, target_of
from itda.core.labels import Labels
from itda.core.training.growth import Growth, growth_for
from itda.core.training.schedule import AIM
from itda.core.training.settings import TrainerSettings
from itda.core.training.state import PASS, TrainingState


class GreedyPass:
    """Growth with labels: a pass over activations whose offset and threshold are known.

    For x_1, x_2, ... in reading order: encode x_i with the dictionary so far; if its error ||z - z_hat||^2 / ||z||^2
    exceeds the threshold, append z_i / ||z_i|| with its label, where z = x - offset. The dictionary grows where its
    activations are, or where `grow_on` says, in the way that `growth_for` names; should activations come from another
    device, it moves there.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        threshold: float,
        offset: Float32[Tensor, " width"] | None,
        device: torch.device,
    ) -> None:
        self.settings, self.offset = settings, offset
        self.seen = 0
        """Number of activations gone through."""
        self.arithmetic: tuple[int, ...] = (ARITHMETIC,)
        """Versions of the order of summation that it went on with so far."""
        self._labels: list[Labels] = []
        # The threshold that it began with: it may be another by the time of a state.
        self._first_threshold = threshold
        self._from, self._on = device, settings.grows_on(device)
        self._make = growth_for(self._on, settings.pursuit)
        self._growth = self._new_growth(threshold)

    def __len__(self) -> int:
        return self._growth.number

    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch in order; return the number of atoms added. Raises `ActivationError`."""
        self._move_to(batch.activations.device)
        targets = self._targets(batch.activations)
        added = self._growth.offer(targets)
        if added:
            self._labels.append(batch.labels[added])
        self.seen += len(targets)
        return len(added)

    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """Return the error of each activation in the dictionary so far. Raises `ActivationError`."""
        return self._growth.encode(self._targets(activations))[1]

    def finish(self, **parts: Any) -> ITDA:
        """Return the dictionary so far, on its growth's device; `parts` are its `mode`, `site` and `provenance`."""
        atoms = self._growth.atoms
        return ITDA(
            atoms=atoms.clone(),
            labels=Labels.concatenate(self._labels),
            k=self.settings.k,
            pursuit=self.settings.pursuit,
            offset=self.offset.to(atoms.device) if self.offset is not None else None,
            threshold=self.threshold,
            novelty=self._growth.novelty,
            arithmetic=self.arithmetic,
            **parts,
        )

    @property
    def threshold(self) -> float:
        """The error above which an activation is appended; may be set between batches."""
        return self._growth.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._growth.threshold = value

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """Number of Gram matrix rows that fit into memory."""
        return self._growth.gram_rows

    def state(self) -> TrainingState:
        """Return a snapshot, from which `restored` goes on."""
        tensors = {"atoms": self._growth.atoms.cpu().clone(), "novelty": self._growth.novelty}
        if self.offset is not None:
            tensors["offset"] = self.offset.cpu().clone()
        own = {"d_model": self.settings.d_model, "k": self.settings.k, "threshold": self._first_threshold}
        own |= {"pursuit": self.settings.pursuit, "atoms": self.settings.most}
        values = {"of": PASS, "settings": own, "tokens": self.seen, "threshold": self.threshold}
        values["arithmetic"] = list(self.arithmetic)
        return TrainingState(values, tensors, {"atoms": Labels.concatenate(self._labels)})

    @staticmethod
    def restored(settings: TrainerSettings, state: TrainingState) -> GreedyPass:
        """Return a pass that goes on from a snapshot, with the settings that it had."""
        offset = state.tensors["offset"].clone() if "offset" in state.tensors else None
        begun = state.values["settings"]["threshold"]
        restored = GreedyPass(settings, begun, offset, state.tensors["atoms"].device)
        restored._growth.restore(state.tensors["atoms"], state.tensors["novelty"])
        restored._labels = [state.labels["atoms"]]
        restored.threshold = state.values["threshold"]
        restored.seen = state.values["tokens"]
        restored.arithmetic = combined(state.values.get("arithmetic", [FIRST]), [ARITHMETIC])
        return restored

    def _targets(self, activations: Tensor) -> Float[Tensor, "batch d_model"]:
        return target_of(activations, self.settings.d_model, self.offset).to(self._on)

    def _new_growth(self, threshold: float) -> Growth:
        s = self.settings
        growth = self._make(s.d_model, s.k, threshold, s.pursuit, s.most, s.block_size, s.memory)
        if s.atoms is not None:
            growth.expect(math.ceil(AIM * s.atoms))
        return growth

    def _move_to(self, device: torch.device) -> None:
        """Grow on in the way that fits activations of this device; what has grown so far comes along."""
        if device != self._from:
            self._from, self._on = device, self.settings.grows_on(device)
        make = growth_for(self._on, self.settings.pursuit)
        if make is not self._make:
            before, self._make = self._growth, make
            self._growth = self._new_growth(before.threshold)
            self._growth.restore(before.atoms, before.novelty)
