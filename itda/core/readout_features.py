"""Features: at most k active ones a token, found by linear detectors of the atoms; a readout to detect concepts with.

The score of a feature for an activation x is <x - mean, w>. Scores are in standard deviations: each detector's score
has a deviation of 1 over the activations that it was fitted on. So no feature is active merely because its scores are
large for every token. Features are of two kinds:

- *Fine*: w is proportional to (S + ridge t I)^-1 d for an atom d: S is the covariance of activations, t the mean of its
  diagonal. It is the *matched filter* of detection theory (Turin 1960): of all linear detectors, with ridge 0, the one
  that d stands out most in from what other activations have in common.
- *Broad*: a few atoms stand for a group of atoms that are alike in what lasts through a text, and detect the group's
  centre. A direction *lasts* if neighbouring tokens have much the same share of it: a topic does, a word does not.

The `BROAD_SHARE` largest positive scores of broad features and the largest of fine ones are active. What a text is
about would otherwise lose to the words of which it is made: docs/method.md has what each kind is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.massive import norms
from itda.core.readout import all_cosines, best_cosines
from itda.errors import SettingError

LEAST = 2.0**-40
"""The least cosine of an active feature's detector: a score of 0, or below, is none."""

BROAD_SHARE = (3, 5)
"""Of 5 active features 3 are broad, rounded up."""


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
    broad: Int64[Tensor, " broad"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """The atoms that stand for groups, ascending; all others are fine."""
    lasting: Float32[Tensor, "rows columns"] | None = None
    """Maps x - mean, a row, to the space in which lengths are large along what lasts; None if unknown."""

    def __post_init__(self) -> None:
        if self.detectors.ndim != 2 or self.mean.shape != self.detectors.shape[1:]:
            raise SettingError(
                f"detectors of shape {tuple(self.detectors.shape)} with a mean of {tuple(self.mean.shape)}: give "
                "[atoms, d_model] and [d_model]"
            )
        within = self.broad.tolist()
        if within and len(within) >= len(self.detectors):
            raise SettingError(f"{len(within)} broad features of {len(self.detectors)}: some must be fine")
        if within != sorted(set(within)) or any(not 0 <= atom < len(self.detectors) for atom in within):
            raise SettingError("the broad features must be atoms, each once, in ascending order")
        if self.lasting is not None and self.lasting.shape != (self.detectors.shape[1],) * 2:
            raise SettingError(f"a map of what lasts of shape {tuple(self.lasting.shape)}: give [d_model, d_model]")
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
        lasting = None if self.lasting is None else self.lasting.to(device)
        parts = {"detectors": self.detectors, "mean": self.mean, "broad": self.broad}
        return replace(self, **{name: part.to(device) for name, part in parts.items()}, lasting=lasting)

    @torch.no_grad()
    def strongest(self, centred: Float[Tensor, "batch d_model"], top: int) -> SparseCode:
        """Return at most `top` positive scores of each row of x - mean, the largest first; of equals the lowest.

        They are the largest of broad features, `BROAD_SHARE` of `top`, and the largest of fine ones, the rest. The bits
        of a row depend on that row alone: not on the batch, nor on the machine. Raises `SettingError` for a `top`
        below 1.
        """
        if top < 1:
            raise SettingError(f"top is {top}: it must be at least 1")
        broad = min(top, -(-top * BROAD_SHARE[0] // BROAD_SHARE[1])) if len(self.broad) else 0
        kinds = [(self.broad, broad), (self._fine, top - broad)]
        found = [(atoms, best_cosines(centred, self.detectors[atoms], top=n, least=LEAST)) for atoms, n in kinds if n]
        code = _together(found, len(self.detectors))
        size = self.scale * norms(centred)
        return replace(code, coefficients=(code.coefficients.double() * size[:, None]).float())

    @torch.no_grad()
    def lasting_cosines(
        self, centred: Float[Tensor, "batch d_model"], atoms: Float32[Tensor, "atoms d_model"]
    ) -> Float32[Tensor, "batch atoms"]:
        """Return the cosine of each row of x - mean to each atom in the space of what lasts; 0 where one has no length.

        Last bits may differ from machine to machine. Raises `SettingError` if the space is unknown.
        """
        if self.lasting is None:
            raise SettingError("what lasts through a text is unknown here: fit features anew, by `itda features RUN`")
        mapped = (atoms.double() @ self.lasting.double()).float()
        lengths = mapped.norm(dim=1, keepdim=True)
        return all_cosines(centred.double() @ self.lasting.double(), mapped / lengths.clamp(min=1e-30))

    @cached_property
    def _fine(self) -> Tensor:
        every = torch.arange(len(self.detectors), device=self.broad.device)
        return every[torch.isin(every, self.broad, invert=True)]


def _together(found: list[tuple[Tensor, SparseCode]], atoms: int) -> SparseCode:
    """Sort the values of codes over parts of the atoms in one: the largest first, of equals the lowest atom."""
    taken = torch.cat([torch.arange(c.k, device=c.count.device) < c.count[:, None] for _, c in found], dim=1)
    indices = torch.cat([part[code.indices] for part, code in found], dim=1)
    values = torch.cat([code.coefficients for _, code in found], dim=1).where(taken, -1.0)
    by_atom = indices.where(taken, atoms).argsort(dim=1, stable=True)
    order = by_atom.gather(1, values.gather(1, by_atom).argsort(dim=1, descending=True, stable=True))
    count = taken.sum(dim=1)
    padding = torch.arange(indices.shape[1], device=count.device) >= count[:, None]
    return SparseCode(
        indices.gather(1, order).masked_fill(padding, 0), values.gather(1, order).masked_fill(padding, 0), count
    )
