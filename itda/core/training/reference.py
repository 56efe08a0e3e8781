"""Mode `reference`: the released procedure as it is, for people who need its dictionaries label for label.

It differs from `Trainer` in what a dictionary depends on. A whole batch is judged against the dictionary as it was
before the batch; the first d_model atoms are the most frequent rows of the first batches, whatever their error; the
error is 2 (1 - cos(x, x_hat)) / d_model, and the pursuit is float32 throughout, so its bits follow the batch's shape.
Nothing else uses this module.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA, check_pursuit, target_of
from itda.core.labels import Labels
from itda.core.training.base import ignored
from itda.core.training.state import TrainingState
from itda.errors import SettingError

EPSILON = 1e-9


class ReferenceTrainer:
    """The trainer of the released script. One `offer` is one of its steps, so the cut into batches matters.

    `threshold` is in the script's own unit, the mean over d_model of (x/|x| - x_hat/|x_hat|)^2.

    >>> import itda, torch
    >>> from itda import ActivationBatch, Label, Labels
    >>> labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
    >>> trainer = ReferenceTrainer(d_model=2, k=1, threshold=0.2)
    >>> trainer.offer(ActivationBatch(torch.tensor([[3.0, 0.0], [2.0, 1.0], [0.0, -5.0]]), labels))
    2
    """

    grows = True
    massive_norm = found = gram_rows = None
    """None, all three: there is no rule about massive activations, no crop and no Gram matrix."""

    def __init__(self, d_model: int, *, k: int, threshold: float, atoms: int | None = None) -> None:
        check_pursuit(k, "mp")
        if not 0 < threshold < 4 / d_model:
            raise SettingError(
                f"the threshold is {threshold}: in mode reference it is 2 (1 - cos) / d_model, so it must be above 0 "
                f"and below {4 / d_model:.4g}"
            )
        if atoms is not None and atoms < 1:
            raise SettingError(f"atoms is {atoms}: it must be at least 1")
        self.d_model, self.k, self.threshold, self.most_atoms = d_model, k, threshold, atoms
        self.seen = 0
        self._atoms = torch.empty(0, d_model, dtype=torch.float32)
        self._labels: list[Labels] = []

    def __len__(self) -> int:
        return len(self._atoms)

    @torch.no_grad()
    def offer(self, batch: ActivationBatch) -> int:
        """Take one step on one batch; return the number of atoms added. Raises `ActivationError`."""
        x = target_of(batch.activations, self.d_model, None).float()
        self._atoms = self._atoms.to(x.device)
        before = len(self)
        self.seen += len(x)
        if self.most_atoms is not None and before >= self.most_atoms:
            return 0
        if before < self.d_model:
            rows = self._most_frequent(x, self.d_model - before)
            self._append(x[rows], batch.labels[rows])
        reconstruction = self._reconstruct(x)
        unit = x / x.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        unit_hat = reconstruction / reconstruction.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        error = (unit - unit_hat).pow(2).mean(dim=1)
        rows = (error > self.threshold).nonzero().flatten()
        if len(rows):
            self._append(x[rows], batch.labels[rows])
        if self.most_atoms is not None and len(self) > self.most_atoms:
            self._atoms = self._atoms[: self.most_atoms].clone()
            self._labels = [Labels.concatenate(self._labels)[: self.most_atoms]]
        return len(self) - before

    @torch.no_grad()
    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """Return ||x - x_hat||^2 / ||x||^2 of each activation in the dictionary so far. Raises `ActivationError`."""
        return self.finish().decompose(activations)[1]

    def finish(self, progress: Callable[[int], object] = ignored, **parts: Any) -> ITDA:
        """Return the dictionary so far; `parts` are its `site` and `provenance`. It is not refined: no progress."""
        del progress
        # A zero row among the most frequent becomes a zero atom there; no pursuit picks it, so it is left out here.
        kept = self._atoms.any(dim=1)
        return ITDA(
            atoms=self._atoms[kept],
            labels=Labels.concatenate(self._labels)[kept.cpu()],
            k=self.k,
            threshold=self.threshold,
            **{**parts, "mode": "reference"},
        )

    def state(self) -> TrainingState:
        """Return a snapshot, from which `restore` goes on."""
        values = {"of": "ReferenceTrainer", "settings": self._settings, "tokens": self.seen}
        return TrainingState(values, {"atoms": self._atoms.cpu().clone()}, {"atoms": Labels.concatenate(self._labels)})

    def restore(self, state: TrainingState) -> None:
        """Go on from a snapshot: with the batches that would have come next, the dictionary is the same to the bit.

        Raises `SettingError` if this trainer is not new or has other settings than the one that was recorded.
        """
        state.check("ReferenceTrainer", self._settings, self.seen)
        self._atoms = state.tensors["atoms"].clone()
        self._labels = [state.labels["atoms"]]
        self.seen = state.values["tokens"]

    @property
    def _settings(self) -> dict[str, Any]:
        return {"d_model": self.d_model, "k": self.k, "threshold": self.threshold, "atoms": self.most_atoms}

    @staticmethod
    def _most_frequent(x: Float[Tensor, "batch d_model"], number: int) -> Tensor:
        """Return the rows where the most frequent distinct values first occur, most frequent first."""
        values, inverse, counts = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
        _, order = torch.sort(counts, descending=True)
        position = torch.arange(len(x), device=x.device)
        first = torch.full((len(values),), len(x), device=x.device).scatter_reduce(0, inverse, position, "amin")
        return first[order[:number]]

    def _append(self, rows: Float[Tensor, "new d_model"], labels: Labels) -> None:
        atoms = torch.cat([self._atoms, rows])
        self._atoms = atoms / atoms.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        self._labels.append(labels)

    def _reconstruct(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """Reconstruct x by the script's matching pursuit: a dense float32 code, and one product to decode it."""
        residual, rows = x.clone(), torch.arange(len(x), device=x.device)
        dense = x.new_zeros(len(x), len(self))
        for _ in range(self.k):
            correlations = residual @ self._atoms.T
            best = correlations.abs().argmax(dim=1)
            coefficient = correlations[rows, best]
            dense[rows, best] += coefficient
            residual -= coefficient[:, None] * self._atoms[best]
        return dense @ self._atoms
