"""The nearest activations of each atom, one from each document: what they share is what the atom means.

An atom's label is one prompt, and much of a prompt is accident. The activations nearest to the atom in other
documents have in common what the atom stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from itda.core.labels import Label, Labels
from itda.errors import SettingError

NEAREST = 8
"""Activations that are kept for each atom."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each atom the nearest activations of other documents than its label's, one of a document, the nearest first.

    Raises `SettingError` if the parts do not fit together.

    >>> labels = Labels.of(Label("b", 4, 9, 12, 7, "to ", "see", ""), Label("", 0, 0, 0, -1, "", "", ""))
    >>> nearest = Nearest(labels[np.array([[0, 1]])], np.array([[0.9, 0.0]], np.float32), np.array([1]))
    >>> [(label.token, round(cosine, 2)) for label, cosine in nearest.of(0)]
    [('see', 0.9)]
    """

    labels: Labels
    """[atoms, most]: the labels of the activations; beyond `count`, rows without a meaning."""
    cosines: Float32[np.ndarray, "atoms most"]
    """[atoms, most]: their cosines to the atom, after the offset."""
    count: Int64[np.ndarray, " rows"]
    """[atoms]: how many there are: fewer than asked for, where fewer documents were read."""

    def __post_init__(self) -> None:
        if self.labels.document.shape != self.cosines.shape or self.count.shape != self.cosines.shape[:1]:
            raise SettingError(
                f"labels of shape {self.labels.document.shape} and {self.count.shape} counts with cosines of shape "
                f"{self.cosines.shape}: give one label per cosine, and one count per atom"
            )

    def __len__(self) -> int:
        return len(self.cosines)

    def __repr__(self) -> str:
        return f"<Nearest of {len(self):,} atoms: up to {self.cosines.shape[1]} activations each>"

    def of(self, atom: int) -> list[tuple[Label, float]]:
        """Return the labels of the nearest activations of an atom with their cosines, the nearest first."""
        number = int(self.count[atom])
        return [(self.labels.at((atom, place)), float(self.cosines[atom, place])) for place in range(number)]
