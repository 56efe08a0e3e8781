"""The difference dictionary: a greedy pass over a_changed - a_base, whose atoms are where the difference is new.

Both models' activations are first divided by their own root mean square about the mean, so that neither model's scale
decides; the mean difference, which all tokens share, is taken away and kept apart. What is new is measured by the
energy that the dictionary leaves over, not by its share of a token's own: most tokens differ by next to nothing, in
directions that mean nothing.

1. The first `OPENING` tokens give the scales, the mean, and the first atoms: the token with the largest energy left
   over, by the one atom that fits it best, becomes an atom, again and again, until there are `FIRST_ATOMS`. The largest
   energy left over then is the threshold.
2. In each later block of `BLOCK` tokens the token with the largest energy left over becomes an atom as long as that is
   above the threshold.
3. Each token keeps its code: at most k atoms, by matching pursuit on the dictionary once its block is gone through.

Nothing else is kept of the activations. The result is a function of the stream, not of how it is cut into batches: the
same bits on one machine; on another, sums of products in float64 may differ in their last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.diffing.blocks import Blocks
from itda.core.diffing.units import unit_rows
from itda.core.pursuit import encoder
from itda.errors import SettingError

OPENING = 4096
"""Number of first tokens that give the scales, the mean difference, the first atoms and the threshold."""

FIRST_ATOMS = 48
"""Atoms that are taken of the first tokens."""

MOST = 256
"""Atoms, at most."""

BLOCK = 1024
"""Tokens that are gone through together after the opening; the result depends on it, so it is no setting."""

K = 3
"""Atoms in the code of a difference."""


@dataclass(frozen=True, eq=False)
class Differences:
    """A dictionary of differences, and the code of each token. Rows are numbers of tokens, from 0, as offered.

    Energies are of the difference of activations that were divided by their root mean square: 1 is as large as the
    activations themselves.
    """

    atoms: Float32[Tensor, "atoms d_model"]
    """Unit vectors."""
    rows: Int64[np.ndarray, " atoms"]
    """The token of each atom: where the difference was new."""
    since: Int64[np.ndarray, " atoms"]
    """The first token whose code could have used the atom."""
    novelty: Float64[np.ndarray, " atoms"]
    """The energy that the dictionary before it left over at its token."""
    indices: Int64[np.ndarray, "tokens k"]
    coefficients: Float64[np.ndarray, "tokens k"]
    """The code of each token; unused places have coefficient 0."""
    energy: Float64[np.ndarray, " tokens"]
    """The energy of each token's difference, less the mean."""
    left: Float64[np.ndarray, " tokens"]
    """The energy that the code leaves over."""
    mean: Float64[Tensor, " d_model"]
    """The mean difference of the first tokens."""
    scales: tuple[float, float]
    """What the base's and the changed model's activations were divided by."""

    @property
    def explained(self) -> Float64[np.ndarray, "tokens k"]:
        """The energy of each token that its code explains, divided over the atoms by their squared coefficients."""
        squares = self.coefficients**2
        whole = squares.sum(axis=1, keepdims=True)
        share = np.divide(squares, whole, out=np.zeros_like(squares), where=whole > 0)
        return share * (self.energy - self.left)[:, None]

    @property
    def mean_share(self) -> float:
        """The share of all energy that the mean difference has."""
        shared = float(self.mean.square().sum())
        whole = shared + float(self.energy.mean()) if len(self.energy) else shared
        return shared / whole if whole > 0 else 0.0


class DifferencePass:
    """Takes the activations of both models at the same tokens, in order, in pieces of any size.

    >>> base = torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    >>> changed = base.clone()
    >>> changed[::100, 0] += 5.0
    >>> both = DifferencePass(8)
    >>> both.offer(base, changed)
    >>> found = both.finish()
    >>> int(found.rows[0]) % 100, round(abs(float(found.atoms[0, 0])), 1)
    (0, 1.0)
    """

    def __init__(self, d_model: int, *, k: int = K, most: int = MOST) -> None:
        if k < 1 or most < 1:
            raise SettingError(f"k is {k} and there are to be at most {most} atoms: both must be at least 1")
        self.d_model, self.k, self.most = d_model, k, most
        self._blocks = Blocks(OPENING, BLOCK)
        self._growing: _Growing | None = None

    @torch.no_grad()
    def offer(self, base: Float[Tensor, "batch d_model"], changed: Float[Tensor, "batch d_model"]) -> None:
        """Take some tokens."""
        for x, y in self._blocks.add(base, changed):
            self._take(x, y)

    @torch.no_grad()
    def finish(self) -> Differences:
        """Return what was found. Raises `SettingError` if no token came."""
        for x, y in self._blocks.rest():
            self._take(x, y)
        if self._growing is None:
            raise SettingError("there are no tokens: give at least one")
        return self._growing.found()

    def _take(self, x: Tensor, y: Tensor) -> None:
        if self._growing is None:
            scales = _scale(x), _scale(y)
            mean = (y.double() / scales[1] - x.double() / scales[0]).mean(dim=0)
            self._growing = _Growing(mean, scales, self.k, self.most)
            self._growing.opening(x, y)
        else:
            self._growing.block(x, y)


def _scale(x: Float[Tensor, "tokens d_model"]) -> float:
    """Return the root mean square norm of activations about their mean; 1 where they do not vary."""
    z = x.double()
    found = float((z - z.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    return found if found > 0 else 1.0


class _Growing:
    """The dictionary on its way, and the codes so far."""

    def __init__(self, mean: Tensor, scales: tuple[float, float], k: int, most: int) -> None:
        self.mean, self.scales, self.k, self.most = mean, scales, k, most
        self.atoms = torch.zeros(0, len(mean))
        self.rows: list[int] = []
        self.since: list[int] = []
        self.novelty: list[float] = []
        self.threshold, self.seen = 0.0, 0
        self.codes: list[tuple[np.ndarray, ...]] = []

    def opening(self, base: Tensor, changed: Tensor) -> None:
        """Take the first atoms, and the threshold that they leave."""
        z = self._difference(base, changed)
        self.threshold = self._grow(z, min(FIRST_ATOMS, self.most))
        self._keep(z)

    def block(self, base: Tensor, changed: Tensor) -> None:
        """Take what is above the threshold."""
        z = self._difference(base, changed)
        self._grow(z, self.most)
        self._keep(z)

    def _difference(self, base: Tensor, changed: Tensor) -> Float32[Tensor, "tokens d_model"]:
        z = changed.double() / self.scales[1] - base.double() / self.scales[0] - self.mean
        return z.float()

    def _grow(self, z: Tensor, most: int) -> float:
        """Append the token with the largest energy left over, while that is above the threshold and there is room.

        Returns the largest energy left over in the end.
        """
        exact = z.double()
        left = energy = exact.square().sum(dim=1)
        if len(self.atoms):
            left = energy - (exact @ self.atoms.double().T).abs().amax(dim=1).square()
        while float(left.amax()) > self.threshold and len(self.atoms) < most:
            row = int(left.argmax())
            atom = unit_rows(z[row : row + 1])
            self.atoms = torch.cat([self.atoms, atom])
            self.rows.append(self.seen + row)
            self.since.append(self.seen)
            self.novelty.append(float(left[row]))
            left = torch.minimum(left, energy - (exact @ atom[0].double()).square())
            left[row] = 0.0
        return float(left.amax())

    def _coded(self, z: Tensor) -> tuple[SparseCode, Tensor]:
        """Return codes, and the share of each difference's energy that is left over."""
        return encoder(self.atoms, min(self.k, len(self.atoms)), "mp")(z)

    def _keep(self, z: Tensor) -> None:
        """Keep the codes of some tokens."""
        energy = left = z.double().square().sum(dim=1).numpy()
        indices, coefficients = np.zeros((len(z), self.k), np.int64), np.zeros((len(z), self.k))
        if len(self.atoms):
            code, error = self._coded(z)
            indices[:, : code.k], coefficients[:, : code.k] = code.indices.numpy(), code.coefficients.double().numpy()
            left = energy * error.numpy()
        self.codes.append((indices, coefficients, energy, left))
        self.seen += len(z)

    def found(self) -> Differences:
        indices, coefficients, energy, left = (np.concatenate([each[i] for each in self.codes]) for i in range(4))
        return Differences(
            self.atoms,
            np.array(self.rows, np.int64),
            np.array(self.since, np.int64),
            np.array(self.novelty),
            indices,
            coefficients,
            energy,
            left,
            self.mean,
            self.scales,
        )
