"""Massive activations: a few tokens whose norm is many times that of the others, kept apart from all measures.

In many language models the first token of a window, and now and then another, has an activation tens to hundreds of
times as long as all others. Such tokens hold nearly all of the energy and mean next to nothing, so that a measure, a
mean or a sample that they are part of says nothing of the others. One rule finds them: a norm above `MULTIPLE` times
the median norm of the first activations of the stream. The limit is fixed then. An outlier *dimension* that all tokens
share raises the median with the rest, and so makes nobody massive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from itda.core.pursuit.fixed_order import fixed_dot, root
from itda.errors import SettingError

MULTIPLE = 10.0
"""An activation is massive if its norm is above this many medians."""

FIRST_TOKENS = 4096
"""Number of first activations of a stream from which the median norm is taken."""

ROWS = 4096
"""Most rows whose float64 copy is in memory at once."""

MOST = 1e150
"""Most medians that a norm counts as, so that no energy overflows."""

Use = Literal["skip", "atoms"]
"""Treatment of massive activations in training: left out of it, or candidates for atoms like the others."""


def norms(activations: Float[Tensor, "*batch d_model"]) -> Float64[Tensor, "*batch"]:
    """Return the norm of each activation, in float64: the same to the bit for any batch and on any device.

    >>> norms(torch.tensor([[3.0, 4.0]])).tolist()
    [5.0]
    """
    flat = activations.reshape(-1, activations.shape[-1])
    parts = [part.double() for part in flat.split(ROWS)] if flat.shape[1] else [flat.new_zeros(len(flat), 1).double()]
    return torch.cat([root(fixed_dot(part, part)) for part in parts]).reshape(activations.shape[:-1])


def median_norm(first: Float[Tensor, "tokens d_model"]) -> float:
    """Return the median norm of the first activations of a stream, the lower of the middle two; 0 if there is none.

    >>> median_norm(torch.tensor([[900.0], [1.0], [2.0]]))
    2.0
    """
    return norms(first).median().item() if len(first) else 0.0


def limit_of(median: float) -> float | None:
    """Return the norm above which activations are massive; None, so that none is, if the median is 0 or not finite.

    >>> limit_of(23.5), limit_of(0.0)
    (235.0, None)
    """
    limit = MULTIPLE * median
    return limit if 0 < limit < float("inf") else None


def massive(activations: Float[Tensor, "*batch d_model"], limit: float | None) -> Bool[Tensor, "*batch"]:
    """Return a mask of the activations whose norm is above the limit; all False if that is None."""
    if limit is None:
        return torch.zeros(activations.shape[:-1], dtype=torch.bool, device=activations.device)
    return norms(activations) > limit


def medians(norm: Float64[Tensor, "*batch"], limit: float | None) -> Float64[Tensor, "*batch"]:
    """Return norms in medians: an activation is massive where this is above `MULTIPLE`. NaN if there is no limit."""
    return norm / (limit / MULTIPLE) if limit is not None else torch.full_like(norm, torch.nan)


def massive_medians(activations: Float[Tensor, "tokens d_model"], limit: float | None) -> list[float | None]:
    """Return the norms of massive activations in medians; None for each of the others.

    >>> massive_medians(torch.tensor([[3.0], [400.0]]), 50.0)
    [None, 80.0]
    """
    if limit is None:
        return [None] * len(activations)
    return [each if each > MULTIPLE else None for each in medians(norms(activations), limit).tolist()]


def check_limit(limit: float | None) -> None:
    """Raises `SettingError` unless the limit is None or a positive number."""
    if limit is not None and not 0 < limit < float("inf"):
        raise SettingError(f"a massive_norm of {limit}: give a positive number, or None for no limit")


@dataclass
class Tally:
    """Counts massive activations among those of a stream, whatever its batches.

    >>> tally = Tally(median=1.0)
    >>> mask = tally.update(torch.tensor([[40.0, 0.0], [0.0, 1.0]]), np.array([True, False]))
    >>> mask.tolist(), tally.record()["tokens"], tally.record()["energy"]
    ([True, False], 1, 0.9993753903810119)
    """

    median: float
    seen: int = 0
    tokens: int = 0
    """Number of massive activations."""
    windows: int = 0
    """Number of activations that were the first of their window."""
    first: int = 0
    """Number of massive activations that were the first of their window."""
    energy: float = 0.0
    """Sum of squared norms of all activations, in squared medians; `massive_energy` is that of massive ones."""
    massive_energy: float = 0.0

    @property
    def limit(self) -> float | None:
        """The norm above which an activation is massive."""
        return limit_of(self.median)

    def update(self, activations: Float[Tensor, "batch d_model"], first: Bool[np.ndarray, " batch"]) -> Tensor:
        """Count a batch, where `first` is True for the first of each window; return a mask of the massive ones."""
        norm = norms(activations).cpu()
        limit = self.limit
        mask = norm > limit if limit is not None else torch.zeros(len(norm), dtype=torch.bool)
        self.seen += len(norm)
        self.tokens += int(mask.sum())
        self.windows += int(first.sum())
        self.first += int((mask.numpy() & first).sum())
        if limit is not None:
            square = (norm / self.median).clamp(max=MOST).square()
            self.energy = _added(self.energy, square)
            self.massive_energy = _added(self.massive_energy, square[mask])
        return mask

    def record(self) -> dict[str, Any]:
        """Return the counts as JSON values, for a dictionary's provenance."""
        return {
            "multiple": MULTIPLE,
            "median": self.median,
            "limit": self.limit,
            "seen": self.seen,
            "tokens": self.tokens,
            "energy": self.massive_energy / self.energy if self.energy else 0.0,
            "windows": self.windows,
            "first": self.first,
        }

    def state(self) -> dict[str, Any]:
        """Return all that `Tally(**state)` needs to go on from here."""
        return dict(vars(self))


def _added(total: float, terms: Tensor) -> float:
    """Return total + terms, added one after the other, so that the cut into batches does not change the last bit."""
    return float(np.cumsum(np.concatenate([[total], terms.numpy()]))[-1])
