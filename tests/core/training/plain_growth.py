"""Growth, written to be read: the oracle that the fast one is held to."""

from typing import Literal

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import fixed_dot, root, scaled
from itda.core.pursuit.plain import pursue


class PlainGrowth:
    """A dictionary that grows; atoms are appended in reading order."""

    def __init__(
        self,
        d_model: int,
        k: int,
        threshold: float,
        pursuit: str,
        most: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        del memory  # there is no Gram matrix
        self.k, self.threshold, self.pursuit, self.most = k, threshold, pursuit, most
        self.number = 0
        self._atoms = torch.empty(0, d_model, dtype=torch.float32)
        self._novelty: list[float] = []
        self._block, self._adapts = block_size or 16, block_size is None

    @staticmethod
    def knows(pursuit: str) -> bool:
        """Every pursuit."""
        return True

    @property
    def atoms(self) -> Float32[Tensor, "atoms d_model"]:
        """The dictionary so far; a view."""
        return self._atoms[: self.number]

    @property
    def novelty(self) -> Float32[Tensor, " atoms"]:
        """The error of each atom's activation in the dictionary before it: why it was appended."""
        return torch.tensor(self._novelty, dtype=torch.float32)

    def encode(self, targets: Float[Tensor, "batch d_model"]) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Codes in the dictionary so far, to the full k."""
        return pursue(targets, self.atoms, self.k, self.pursuit)

    def expect(self, atoms: int) -> None:
        """Do nothing: there is no Gram matrix."""

    def offer(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go through some targets in order; returns those that were appended."""
        self._atoms = self._atoms.to(targets.device)
        appended: list[int] = []
        start = 0
        while start < len(targets) and (self.most is None or self.number < self.most):
            block = targets[start : start + self._block]
            _, error = pursue(block, self.atoms, self.k, self.pursuit, enough=self.threshold)
            above = (error > self.threshold).nonzero().flatten()
            # What follows the first new atom was encoded without it, so it is encoded again.
            done = int(above[0]) + 1 if len(above) else len(block)
            if len(above):
                self._append(block[done - 1])
                self._novelty.append(error[done - 1].item())
                appended.append(start + done - 1)
            start += done
            if self._adapts:
                self._block = min(2048, max(8, 2 * done))
        return appended

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """All: there is no Gram matrix, so none is missing."""
        return "all"

    def restore(self, atoms: Float32[Tensor, "atoms d_model"], novelty: Float32[Tensor, " atoms"]) -> None:
        """Go on from a dictionary that has grown elsewhere."""
        self._atoms, self.number, self._novelty = atoms.clone(), len(atoms), novelty.tolist()

    def _append(self, target: Float[Tensor, " d_model"]) -> None:
        if self.number == len(self._atoms):
            grown = self._atoms.new_empty(max(256, 2 * self.number), self._atoms.shape[1])
            grown[: self.number] = self.atoms
            self._atoms = grown
        z = scaled(target.double(), -torch.frexp(target.abs().amax()).exponent)
        self._atoms[self.number] = (z / root(fixed_dot(z, z))).float()
        self.number += 1
