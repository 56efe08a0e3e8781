"""The nearest activations of each atom, one from each document: what they share is what the atom means.

An atom's label is one prompt, and much of a prompt is accident. The activations nearest to the atom in other
documents have in common what the atom stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.labels import Label, Labels
from itda.core.pursuit.fixed_order import fixed_dot, root
from itda.core.pursuit.products import correlations, product_error
from itda.errors import SettingError

NEAREST = 8
"""Activations that are kept for each atom."""
ROWS = 2**13
"""Most activations whose cosines to all atoms are in memory at once."""


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


class NearestActivations:
    """Gathers, from a stream of activations, the nearest of each atom: of each document the nearest one alone.

    Exact, and the same for any cut of the stream into batches: a float32 product proposes, and what its rounding error
    could matter to is computed again in float64 in a fixed order. Equal cosines are in stream order.

    >>> found = NearestActivations(torch.eye(2), own=np.array([0, 1]), most=2)
    >>> found.add(torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [2.0, 0.0]]), np.array([0, 1, 2, 2]))
    >>> found.index.tolist(), found.cosines.round(2).tolist()
    ([[3, 1], [2, 0]], [[1.0, 0.6], [1.0, 0.0]])
    """

    def __init__(
        self, atoms: Float32[Tensor, "atoms d_model"], own: Int64[np.ndarray, " atoms"], most: int = NEAREST
    ) -> None:
        """`own` is the number of each atom's own document, of which none is kept; -1 for none."""
        self._atoms, self._own = atoms, own
        self.index: Int64[np.ndarray, "atoms most"] = np.full((len(atoms), most), -1)
        """The place of each activation in the stream; -1 where there are too few."""
        self.cosines: Float64[np.ndarray, "atoms most"] = np.full((len(atoms), most), -np.inf)
        self._document = np.full((len(atoms), most), -1)
        self.seen = 0
        """Number of activations so far."""
        self._slack = 2 * product_error(atoms.shape[1]) + 1e-6  # an atom's own norm is one within float32

    def add(self, activations: Float[Tensor, "batch d_model"], document: Int64[np.ndarray, " batch"]) -> None:
        """Take the next activations, after the offset, and the number of each one's document.

        Only their directions count. A zero has a cosine of 0 to all.
        """
        for start in range(0, len(document), ROWS):
            self._take(activations[start : start + ROWS].double(), document[start : start + ROWS])

    def _take(self, rows: Tensor, document: np.ndarray) -> None:
        size = rows.abs().amax(dim=1, keepdim=True)
        rows = rows / torch.where(size > 0, size, torch.ones_like(size))  # no square overflows
        norm = root(fixed_dot(rows, rows))[:, None]
        units = rows / torch.where(norm > 0, norm, torch.ones_like(norm))
        cosines = correlations(units, self._atoms)
        starts = np.flatnonzero(np.concatenate([[True], document[1:] != document[:-1]])) if len(document) else []
        for start, end in zip(starts, [*starts[1:], len(document)], strict=True):
            self._take_one(units[start:end], cosines[start:end], int(document[start]), self.seen + int(start))
        self.seen += len(document)

    def _take_one(self, units: Tensor, cosines: Tensor, document: int, first: int) -> None:
        """Take some activations of one document, the first of which is number `first` of the stream."""
        largest = cosines.amax(dim=0)
        hopeful = largest.double().cpu().numpy() + self._slack >= self.cosines[:, -1]
        atoms = np.flatnonzero(hopeful & (self._own != document))
        if not len(atoms):
            return
        chosen = torch.from_numpy(atoms).to(cosines.device)
        near = cosines[:, chosen] >= largest[chosen] - 2 * self._slack
        place, row = (each.cpu() for each in near.T.nonzero(as_tuple=True))
        exact = torch.cat(
            [
                fixed_dot(units[r], self._atoms[chosen[p]].double()).cpu()
                for p, r in zip(place.split(2**15), row.split(2**15), strict=True)
            ]
        )
        best = torch.full((len(atoms),), -torch.inf, dtype=torch.float64).scatter_reduce(0, place, exact, "amax")
        equal = exact == best[place]
        at = torch.full((len(atoms),), len(units)).scatter_reduce(0, place[equal], row[equal], "amin")
        self._merge(atoms, best.numpy(), first + at.numpy(), document)

    def _merge(self, atoms: np.ndarray, cosine: np.ndarray, index: np.ndarray, document: int) -> None:
        """Put one activation of a document into the list of each of some atoms, if it belongs there."""
        cosines = np.concatenate([self.cosines[atoms], cosine[:, None]], axis=1)
        indices = np.concatenate([self.index[atoms], index[:, None]], axis=1)
        documents = np.concatenate([self._document[atoms], np.full((len(atoms), 1), document)], axis=1)
        order = np.lexsort((np.where(indices < 0, np.iinfo(np.int64).max, indices), -cosines), axis=1)
        cosines, indices, documents = (np.take_along_axis(x, order, 1) for x in (cosines, indices, documents))
        # Of two of the document the second goes: it moves to the end, which is cut off.
        of_document = documents == document
        second = of_document & (of_document.cumsum(axis=1) == 2)
        kept = np.argsort(second, axis=1, kind="stable")[:, : self.index.shape[1]]
        for state, new in ((self.cosines, cosines), (self.index, indices), (self._document, documents)):
            state[atoms] = np.take_along_axis(new, kept, 1)
