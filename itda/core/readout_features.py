"""Features: at most k active ones a token, found by linear detectors of the atoms; a readout to detect concepts with.

The score of atom d for an activation x is <x - mean, w>, w proportional to (S + ridge t I)^-1 d: S is the covariance
of activations, t the mean of its diagonal. It is the *matched filter* of detection theory (Turin 1960): of all linear
detectors, with ridge 0, the one that d stands out most in from what other activations have in common. Scores are in
standard deviations: each detector's score has a deviation of 1 over the activations that it was fitted on. So no atom
is active merely because its scores are large for every token. The k largest positive scores are the active features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.massive import norms
from itda.core.readout import best_cosines
from itda.errors import SettingError

LEAST = 2.0**-40
"""The least cosine of an active feature's detector: a score of 0, or below, is none."""


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """Linear detectors of a dictionary's atoms; `itda.fit_features` makes them. Immutable.

    Raises `SettingError` if the parts do not fit together.

    >>> encoder = FeatureEncoder(torch.eye(2), scale=2.0, mean=torch.zeros(2), tokens=100)
    >>> code = encoder.strongest(torch.tensor([[1.0, -3.0]]), top=2)
    >>> code.indices.tolist(), code.coefficients.tolist(), code.count.tolist()
    ([[0, 0]], [[2.0, 0.0]], [1])
    """

    detectors: Float32[Tensor, "atoms d_model"]
    """A vector for each atom, the longest of norm 1 within float32; `scale` times it gives standard deviations."""
    scale: float
    mean: Float32[Tensor, " width"]
    """Mean of the activations that it was fitted on: subtracted before the product."""
    tokens: int
    """Number of the activations that it was fitted on."""
    ridge: float = 0.0
    """Share of the mean variance that was added to each variance."""

    def __post_init__(self) -> None:
        if self.detectors.ndim != 2 or self.mean.shape != self.detectors.shape[1:]:
            raise SettingError(
                f"detectors of shape {tuple(self.detectors.shape)} with a mean of {tuple(self.mean.shape)}: give "
                "[atoms, d_model] and [d_model]"
            )
        if not 0 <= self.scale < float("inf"):
            raise SettingError(f"a scale of {self.scale}: give a number that is not negative")
        # In parts: a float64 copy of many detectors would be as large as two of them.
        longest = max((part.double().norm(dim=1).max().item() for part in self.detectors.split(4096)), default=0.0)
        if not longest <= 1 + 1e-5 or not bool(torch.isfinite(self.mean).all()):
            raise SettingError(
                "detectors must be finite, the longest of norm 1: divide all by its norm, a part of `scale`"
            )

    def to(self, device: torch.device | str) -> FeatureEncoder:
        """Return the detectors on a device.

        >>> FeatureEncoder(torch.eye(2), scale=2.0, mean=torch.zeros(2), tokens=100).to("cpu").tokens
        100
        """
        return replace(self, detectors=self.detectors.to(device), mean=self.mean.to(device))

    @torch.no_grad()
    def strongest(self, centred: Float[Tensor, "batch d_model"], top: int) -> SparseCode:
        """Return the `top` largest positive scores of each row of x - mean, the largest first; of equals the lowest.

        The bits of a row depend on that row alone: not on the batch, nor on the machine. Raises `SettingError` for a
        `top` below 1.
        """
        found = best_cosines(centred, self.detectors, top=top, least=LEAST)
        size = self.scale * norms(centred)
        return replace(found, coefficients=(found.coefficients.double() * size[:, None]).float())
