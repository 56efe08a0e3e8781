"""Growth by any pursuit, on any device: slower than growth in compiled loops, for pursuits that those do not know."""

from typing import Literal

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import Pursuit, pursue
from itda.core.pursuit.fixed_order import fixed_dot, root, scaled

MOST_ROWS = 2048
"""Most targets that are encoded together."""


class AnyGrowth:
    """A dictionary that grows by `plain.pursue`: `itda.core.training.growth.Growth`, where its targets are.

    A block of targets is encoded at once; what follows the first one that is appended is encoded again, with it.
    """

    def __init__(
        self,
        d_model: int,
        k: int,
        threshold: float,
        pursuit: Pursuit,
        most: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
    ) -> None:
        del memory  # there is no Gram matrix
        self.k, self.threshold, self.pursuit = k, threshold, pursuit
        self._most = most if most is not None else 2**62
        self._most_rows = block_size or MOST_ROWS
        self._room = torch.empty(0, d_model, dtype=torch.float32)
        self._novelty: list[float] = []

    @staticmethod
    def knows(pursuit: Pursuit) -> bool:
        """Return True: it knows every pursuit."""
        del pursuit
        return True

    @property
    def number(self) -> int:
        """Number of atoms."""
        return len(self._novelty)

    @property
    def atoms(self) -> Float32[Tensor, "atoms d_model"]:
        """The dictionary so far; a view."""
        return self._room[: self.number]

    @property
    def novelty(self) -> Float32[Tensor, " atoms"]:
        """Error of each atom's target in the dictionary just before it was added."""
        return torch.tensor(self._novelty, dtype=torch.float32)

    @property
    def gram_rows(self) -> Literal["all"]:
        """The word "all": there is no Gram matrix, so no row of it is missing."""
        return "all"

    def encode(self, targets: Float[Tensor, "batch d_model"]) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Return codes in the dictionary so far, with the full k, and the error of each target."""
        return pursue(targets, self.atoms.to(targets.device), self.k, self.pursuit)

    def expect(self, atoms: int) -> None:
        """Do nothing: there is no Gram matrix to make room for."""

    def offer(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go through some targets in order; return the rows that were appended."""
        self._room = self._room.to(targets.device)
        appended: list[int] = []
        start, rows = 0, min(16, self._most_rows)
        while start < len(targets) and self.number < self._most:
            block = targets[start : start + rows]
            error = pursue(block, self.atoms, self.k, self.pursuit, enough=self.threshold)[1]
            above = (error > self.threshold).nonzero().flatten().tolist()
            done = above[0] + 1 if above else len(block)
            if above:
                self._append(block[done - 1], error[done - 1].item())
                appended.append(start + done - 1)
            start += done
            rows = min(self._most_rows, max(8, 2 * done))
        return appended

    def restore(self, atoms: Float32[Tensor, "atoms d_model"], novelty: Float32[Tensor, " atoms"]) -> None:
        """Go on from a dictionary that has grown elsewhere; copies what it is given."""
        self._room, self._novelty = atoms.clone(), novelty.tolist()

    def _append(self, target: Float[Tensor, " d_model"], error: float) -> None:
        if self.number == len(self._room):
            grown = self._room.new_empty(max(256, 2 * self.number), self._room.shape[1])
            grown[: self.number] = self.atoms
            self._room = grown
        z = scaled(target.double(), -torch.frexp(target.abs().amax()).exponent)
        self._room[self.number] = (z / root(fixed_dot(z, z))).float()
        self._novelty.append(error)
