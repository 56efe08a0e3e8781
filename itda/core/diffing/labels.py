"""Labels: the tokens that are new to both models at a site, to the base alone, or to the changed model alone.

Each model's novelty is found in its own activations (`itda.core.similarity.fingerprint`), so widths and bases may
differ. A token just above a threshold in one model and just below it in the other says nothing: what counts is the
*margin*, by how much newer a token is to one model, and the index over all tokens, which says how far a layer moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from itda.core.bootstrap import interval
from itda.core.similarity.fingerprint import STEPS, FingerprintSettings, TokenNovelty, fingerprint_of_segment
from itda.core.similarity.fingerprint_index import GROUPS
from itda.core.similarity.overlap import adjusted_of
from itda.errors import SettingError

SEGMENT = 4096
"""Tokens whose novelty is found together, in both models alike."""

RUNG = 2
"""The rung of the ladder whose atoms are counted as labels: the middle one."""


@dataclass(frozen=True, eq=False)
class LabelDifference:
    """How far the labels of two models at a site agree. Rows are numbers of tokens, from 0, as they were offered."""

    tokens: int
    """Tokens that are massive in neither model."""
    index: float
    """Shared novelty: the sum over tokens of the smaller novelty over that of the larger; 1 for a site that stayed."""
    low: float
    high: float
    """The ends of its 95% interval, by resampling documents; NaN for one document."""
    adjusted: float
    """The Jaccard index of the labels at the middle rung, less what chance gives: (J - E) / (1 - E)."""
    shared: int
    """Labels of both models, of the base alone, and of the changed model alone."""
    only_base: Int64[np.ndarray, " base_labels"]
    only_changed: Int64[np.ndarray, " changed_labels"]
    """Tokens, those of the largest margin first."""
    margin: Float64[np.ndarray, " tokens"]
    """By how much newer each token is to the changed model, from -1 to 1; 0 where it is massive in one of them."""


class LabelsPass:
    """Takes the activations of both models at the same tokens, in order, in pieces of any size.

    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> both = LabelsPass()
    >>> both.offer(x, 2 * x, np.arange(100) // 10)
    >>> found = both.finish()
    >>> found.index, len(found.only_changed)
    (1.0, 0)
    """

    def __init__(self, segment: int = SEGMENT) -> None:
        self.settings = FingerprintSettings(segment=segment)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._documents: list[np.ndarray] = []
        self._parts: tuple[list[TokenNovelty], list[TokenNovelty]] = ([], [])

    def offer(
        self,
        base: Float[Tensor, "batch base_width"],
        changed: Float[Tensor, "batch changed_width"],
        documents: Shaped[np.ndarray, " batch"],
    ) -> None:
        """Take some tokens, each with its document."""
        self._waiting.append((base, changed))
        self._documents.append(np.asarray(documents))
        while sum(len(x) for x, _ in self._waiting) >= self.settings.segment:
            self._segment(self.settings.segment)

    def _segment(self, size: int) -> None:
        both = [torch.cat([each[model] for each in self._waiting]) for model in range(2)]
        self._waiting = [(both[0][size:], both[1][size:])]
        for part, x in zip(self._parts, both, strict=True):
            part.append(fingerprint_of_segment(x[:size], self.settings))

    def finish(self, rung: int = RUNG) -> LabelDifference:
        """Return what differs. Raises `SettingError` if no token came."""
        left = sum(len(x) for x, _ in self._waiting)
        if left:
            self._segment(left)
        base, changed = (TokenNovelty.joined(part) for part in self._parts)
        if not len(base):
            raise SettingError("there are no tokens: give at least one")
        return label_difference(base, changed, np.concatenate(self._documents), rung)


def label_difference(
    base: TokenNovelty, changed: TokenNovelty, documents: Shaped[np.ndarray, " tokens"], rung: int = RUNG
) -> LabelDifference:
    """Compare the novelty of the same tokens in two models.

    >>> one = TokenNovelty(np.array([60000, 0], np.uint16), np.array([4, 0], np.uint8), np.zeros(2, np.uint8))
    >>> found = label_difference(one, one, np.array(["essay", "poem"]))
    >>> found.index, found.shared
    (1.0, 1)
    """
    there = ~(base.massive | changed.massive)
    a, b = (np.where(there, each.novelty, 0).astype(np.float64) for each in (base, changed))
    left, right = base.is_atom(rung) & there, changed.is_atom(rung) & there
    columns = np.stack([np.minimum(a, b), np.maximum(a, b), left & right, left, right, there], axis=1)
    _, names = np.unique(documents, return_inverse=True)
    group = names % GROUPS
    sums = np.stack([np.bincount(group, column) for column in columns.T.astype(np.float64)], axis=1)
    index = interval(sums, lambda found: _share(found[..., 0], found[..., 1]))
    margin = (b - a) / STEPS
    only_base, only_changed = (left & ~right).nonzero()[0], (right & ~left).nonzero()[0]
    return LabelDifference(
        int(there.sum()),
        float(index.value),
        float(index.low),
        float(index.high),
        float(adjusted_of(sums.sum(axis=0)[2:])),
        int((left & right).sum()),
        only_base[np.argsort(margin[only_base], kind="stable")],
        only_changed[np.argsort(-margin[only_changed], kind="stable")],
        margin,
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
