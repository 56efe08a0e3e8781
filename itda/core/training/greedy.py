"""Training: a greedy pass that appends what the dictionary so far explains badly (the paper's Algorithm 1)."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.checks import check_threshold
from itda.core.dictionary import ITDA, check_offset, check_pursuit, target_of
from itda.core.labels import Labels
from itda.core.pursuit import Pursuit
from itda.core.training.growth_cpu import Growth
from itda.core.training.state import TrainingState
from itda.errors import SettingError


class Trainer:
    """Builds a dictionary from a stream of activations, strictly one after the other.

    For x_1, x_2, ... in stream order: encode x_i with the dictionary so far; if its error ||z - z_hat||^2 / ||z||^2
    exceeds `threshold`, append z_i / ||z_i|| with its label, where z = x - offset. The dictionary is a function of the
    stream and the settings alone: not of how the stream is cut into batches, nor of `block_size`, the number of
    activations encoded together (by default it follows the rate at which atoms are found). Activations may be on any
    device; the dictionary grows on the CPU.

    `atoms` stops growth at that many. `memory` is what the Gram matrix may take, in bytes, by default as much as
    `set_memory` allows; it changes no result. Raises `SettingError` for settings out of range.

    >>> import itda, torch
    >>> from itda import ActivationBatch, Label, Labels
    >>> trainer = itda.Trainer(d_model=2, k=1, threshold=0.5)
    >>> labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
    >>> trainer.offer(ActivationBatch(torch.tensor([[3.0, 0.0], [2.0, 1.0], [0.0, -5.0]]), labels))
    2
    >>> trainer.finish().atoms.tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """

    def __init__(
        self,
        d_model: int,
        *,
        k: int,
        threshold: float,
        pursuit: Pursuit = "mp",
        offset: Float[Tensor, " width"] | None = None,
        atoms: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        check_pursuit(k, pursuit)
        check_offset(offset, d_model)
        check_threshold(threshold)
        for name, value in (("atoms", atoms), ("block_size", block_size), ("memory", memory)):
            if value is not None and value < 1:
                raise SettingError(f"{name} is {value}: it must be at least 1")
        self.d_model, self.k = d_model, k
        self.pursuit: Pursuit = pursuit
        self.offset = offset.float() if offset is not None else None
        self.tokens = 0
        """Activations seen."""
        self._labels: list[Labels] = []
        # The threshold that it began with: it may be another by the time of a state.
        self._settings = {"d_model": d_model, "k": k, "threshold": threshold, "pursuit": pursuit, "atoms": atoms}
        self._growth = Growth(d_model, k, threshold, pursuit, atoms, block_size, memory)

    def __len__(self) -> int:
        return self._growth.number

    @torch.no_grad()
    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch in order; returns the number of atoms added.

        Raises `ActivationError` for a wrong width or a row that is not finite; the batch is left out then.
        """
        targets = self._targets(batch.activations)
        added = self._growth.offer(targets)
        if added:
            self._labels.append(batch.labels[added])
        self.tokens += len(targets)
        return len(added)

    @torch.no_grad()
    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """||z - z_hat||^2 / ||z||^2 of each activation in the dictionary so far. Raises `ActivationError`."""
        return self._growth.encode(self._targets(activations))[1]

    def finish(self, **parts: Any) -> ITDA:
        """The dictionary so far, as a model; `parts` are its `mode`, `site` and `provenance`."""
        return ITDA(
            atoms=self._growth.atoms.clone(),
            labels=Labels.concatenate(self._labels),
            k=self.k,
            pursuit=self.pursuit,
            offset=self.offset,
            threshold=self.threshold,
            novelty=self._growth.novelty,
            **parts,
        )

    def state(self) -> TrainingState:
        """All that `restore` needs to go on from here."""
        tensors = {"atoms": self._growth.atoms.clone(), "novelty": self._growth.novelty}
        if self.offset is not None:
            tensors["offset"] = self.offset.cpu().clone()
        values = {
            "of": "Trainer",
            "settings": dict(self._settings),
            "tokens": self.tokens,
            "threshold": self.threshold,
        }
        return TrainingState(values, tensors, {"atoms": Labels.concatenate(self._labels)})

    def restore(self, state: TrainingState) -> None:
        """Go on from a state: the dictionary becomes what it would have been without the interruption, to the bit.

        Raises `SettingError` if this trainer is not new or has other settings than the one the state was taken from;
        `block_size` and `memory` may differ.
        """
        state.check("Trainer", self._settings, self.tokens)
        had, has = state.tensors.get("offset"), self.offset
        if (had is None) != (has is None) or (had is not None and has is not None and not torch.equal(had, has.cpu())):
            raise SettingError("the offset is not that of the state to be restored: give the Trainer the one it had")
        self._growth.restore(state.tensors["atoms"], state.tensors["novelty"])
        self._labels = [state.labels["atoms"]]
        self.threshold = state.values["threshold"]
        self.tokens = state.values["tokens"]

    @property
    def threshold(self) -> float:
        """The error above which an activation is appended; may be set between batches."""
        return self._growth.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        check_threshold(value)
        self._growth.threshold = value

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """How many rows of the Gram matrix memory has room for."""
        return self._growth.gram_rows

    def _targets(self, activations: Tensor) -> Tensor:
        return target_of(activations, self.d_model, self.offset).cpu()
