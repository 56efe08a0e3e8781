"""The pass of recipe 2 with a number of atoms: nothing grows, as its atoms are made at the end, of what was kept.

Growth would find out one thing alone there: how many atoms a threshold gives, and a threshold for that number. Who asks
for a number knows it. So this pass only goes through the stream, and its dictionary has no atoms yet when it ends.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.arithmetic import ARITHMETIC, FIRST, combined
from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA, target_of
from itda.core.labels import Labels
from itda.core.training.settings import TrainerSettings
from itda.core.training.state import TrainingState

UNGROWN = "Ungrown"
"""The name of the pass in snapshots."""


class UngrownPass:
    """A pass over activations that makes no atoms, with what `itda.core.training.greedy.GreedyPass` has.

    >>> import torch
    >>> from itda.core.training.settings import TrainerSettings
    >>> settings = TrainerSettings(d_model=4, k=2, atoms=9, tokens=100, passes=12, recipe=2)
    >>> len(UngrownPass(settings, None, torch.device("cpu")).finish())
    0
    """

    threshold: float | None = None
    """There is none."""
    gram_rows: None = None
    """There is no Gram matrix."""

    def __init__(
        self, settings: TrainerSettings, offset: Float32[Tensor, " width"] | None, device: torch.device
    ) -> None:
        self.settings, self.offset = settings, offset
        self.seen = 0
        """Number of activations gone through."""
        self.arithmetic: tuple[int, ...] = (ARITHMETIC,)
        """Versions of the order of summation that it went on with so far."""
        self._from, self._on = device, settings.grows_on(device)

    def __len__(self) -> int:
        return 0

    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch; return 0, the number of atoms added."""
        if batch.activations.device != self._from:
            self._from = batch.activations.device
            self._on = self.settings.grows_on(self._from)
        self.seen += len(batch)
        return 0

    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """Return the error of each activation in no atoms: 1, or 0 where it is the offset. Raises `ActivationError`."""
        targets = target_of(activations, self.settings.d_model, self.offset)
        return targets.any(dim=1).double().cpu()

    def finish(self, **parts: Any) -> ITDA:
        """Return a dictionary without atoms, on the device of its activations; `parts` are those of `GreedyPass`."""
        return ITDA(
            atoms=torch.empty(0, self.settings.d_model, device=self._on),
            labels=Labels.concatenate([]),
            k=self.settings.k,
            pursuit=self.settings.pursuit,
            offset=self.offset.to(self._on) if self.offset is not None else None,
            arithmetic=self.arithmetic,
            **parts,
        )

    def state(self) -> TrainingState:
        """Return a snapshot, from which `restored` goes on."""
        tensors = {"offset": self.offset.cpu().clone()} if self.offset is not None else {}
        values = {"of": UNGROWN, "tokens": self.seen, "arithmetic": list(self.arithmetic)}
        return TrainingState(values, tensors, {})

    @staticmethod
    def restored(settings: TrainerSettings, state: TrainingState) -> UngrownPass:
        """Return a pass that goes on from a snapshot, with the settings that it had."""
        offset = state.tensors["offset"].clone() if "offset" in state.tensors else None
        restored = UngrownPass(settings, offset, torch.device("cpu"))
        restored.seen = state.values["tokens"]
        restored.arithmetic = combined(state.values.get("arithmetic", [FIRST]), [ARITHMETIC])
        return restored
