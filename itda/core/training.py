"""Training: a greedy pass that appends what the dictionary so far explains badly (the paper's Algorithm 1)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.labels import Labels
from itda.core.model import ITDA, check_offset, check_pursuit, target_of
from itda.core.pursuit import Pursuit, pursue
from itda.core.pursuit.exact import fixed_dot, root, scaled
from itda.errors import SettingError

LOWEST_THRESHOLD = 1e-6
"""Below this, the rounding of float32 atoms would count as unexplained, and an activation could be added twice."""


class Trainer:
    """Builds a dictionary from a stream of activations, strictly one after the other.

    For x_1, x_2, ... in stream order: encode x_i with the dictionary so far; if its error ||z - z_hat||^2 / ||z||^2
    exceeds `threshold`, append z_i / ||z_i|| with its label, where z = x - offset. The dictionary is a function of the
    stream and the settings alone: not of how the stream is cut into batches, nor of `block_size`, the number of
    activations encoded together (by default it follows the rate at which atoms are found).

    `atoms` stops growth at that many. Raises `SettingError` for settings out of range.

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
    ) -> None:
        check_pursuit(k, pursuit)
        check_offset(offset, d_model)
        check_threshold(threshold)
        for name, value in (("atoms", atoms), ("block_size", block_size)):
            if value is not None and value < 1:
                raise SettingError(f"{name} is {value}: it must be at least 1")
        self.d_model, self.k, self.threshold, self.most_atoms = d_model, k, threshold, atoms
        self.pursuit: Pursuit = pursuit
        self.offset = offset.float() if offset is not None else None
        self.tokens = 0
        """Activations seen."""
        self._atoms = torch.empty(0, d_model, dtype=torch.float32)
        self._number = 0
        self._labels: list[Labels] = []
        self._block = block_size or 16
        self._adapts = block_size is None

    def __len__(self) -> int:
        return self._number

    @torch.no_grad()
    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch in order; returns the number of atoms added.

        Raises `ActivationError` for a wrong width or a row that is not finite; the batch is left out then.
        """
        targets = target_of(batch.activations, self.d_model, self.offset)
        self._atoms = self._atoms.to(targets.device)
        before, start = self._number, 0
        while start < len(targets):
            block = targets[start : start + self._block]
            atoms = self._atoms[: self._number]
            _, error = pursue(block, atoms, self.k, self.pursuit, enough=self.threshold)
            full = self.most_atoms is not None and self._number >= self.most_atoms
            above = (error > self.threshold).nonzero().flatten()
            # What follows the first new atom was encoded without it, so it is encoded again.
            done = len(block) if full or len(above) == 0 else int(above[0]) + 1
            if done and not full and len(above):
                self._append(block[done - 1], batch.labels[[start + done - 1]])
            start += done
            if self._adapts:
                self._block = min(2048, max(8, 2 * done))
        self.tokens += len(targets)
        return self._number - before

    def finish(self, **parts: Any) -> ITDA:
        """The dictionary so far, as a model; `parts` are its `mode`, `site` and `provenance`."""
        return ITDA(
            atoms=self._atoms[: self._number].clone(),
            labels=Labels.concatenate(self._labels),
            k=self.k,
            pursuit=self.pursuit,
            offset=self.offset,
            threshold=self.threshold,
            **parts,
        )

    def _append(self, target: Float[Tensor, " d_model"], label: Labels) -> None:
        if self._number == len(self._atoms):
            grown = self._atoms.new_empty(max(256, 2 * self._number), self.d_model)
            grown[: self._number] = self._atoms[: self._number]
            self._atoms = grown
        z = scaled(target.double(), -torch.frexp(target.abs().amax()).exponent)
        self._atoms[self._number] = (z / root(fixed_dot(z, z))).float()
        self._labels.append(label)
        self._number += 1


def check_threshold(threshold: float) -> None:
    """Raises `SettingError` unless the threshold is a share that float32 atoms can reach."""
    if not LOWEST_THRESHOLD <= threshold < 1:
        raise SettingError(
            f"the threshold is {threshold}: it must be at least {LOWEST_THRESHOLD} and below 1, the share of an "
            "activation's energy that may stay unexplained"
        )
