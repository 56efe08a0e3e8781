"""Search for the nearest activations of each atom in a stream of activations: exact, whatever the batches.

A search can be stopped and gone on with: what it has found so far is a set of `Candidates`, and those of the parts of
a stream, put together, give what one search over all of it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.dictionary import ITDA, check_width, target_of
from itda.core.intake import Rows, rows_of
from itda.core.labels import Label, Labels
from itda.core.nearest import NEAREST, Nearest
from itda.core.pursuit.fixed_order import fixed_dot, root
from itda.core.pursuit.products import correlations, product_error
from itda.errors import SettingError

ROWS = 2**13
"""Most activations whose cosines to all atoms are in memory at once."""
NO_LABEL = Label("", 0, 0, 0, -1, "", "", "")
"""A row that stands for no activation."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Activations that are among the nearest of an atom in a part of a stream: one a row, in any order."""

    atom: Int64[np.ndarray, " rows"]
    index: Int64[np.ndarray, " same"]
    """The place of the activation in the stream."""
    cosine: Float64[np.ndarray, " one"]
    document: Int64[np.ndarray, " each"]
    """The number of the activation's document."""

    @staticmethod
    def concatenate(parts: Sequence[Candidates]) -> Candidates:
        """Return the rows of several, one after the other."""
        return Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))


COLUMNS = ("atom", "index", "cosine", "document")


class NearestActivations:
    """Gathers, from a stream of activations, the nearest of each atom: of each document the nearest one alone.

    Exact, and the same for any cut of the stream into batches: a float32 product proposes, and what its rounding error
    could matter to is computed again in float64 in a fixed order. Equal cosines are in reading order.

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

    def candidates(self, since: int = 0) -> Candidates:
        """Return what was found so far, of the activations from place `since` of the stream on."""
        atom, place = np.nonzero(self.index >= since)
        return Candidates(atom, *(each[atom, place] for each in (self.index, self.cosines, self._document)))

    def go_on(self, found: Candidates, seen: int) -> None:
        """Go on after the `seen` activations of which another search found these, part by part or at once."""
        order = np.lexsort((found.index, -found.cosine, found.atom))
        atom, document = found.atom[order], found.document[order]
        # Of each document the nearest alone, then the first `most` of each atom.
        _, first = np.unique(atom * (document.max(initial=0) + 1) + document, return_index=True)
        order = order[np.sort(first)]
        atom = found.atom[order]
        place = np.arange(len(atom)) - np.searchsorted(atom, atom)
        kept, order = (each[place < self.index.shape[1]] for each in (place, order))
        rows = found.atom[order], kept
        self.index[rows], self.cosines[rows] = found.index[order], found.cosine[order]
        self._document[rows] = found.document[order]
        self.seen = seen

    def _take(self, rows: Tensor, document: np.ndarray) -> None:
        self._atoms = self._atoms.to(rows.device)
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


class NearestSearch:
    """A search for the nearest activations of a dictionary's atoms. Massive activations are left out.

    >>> labels = Labels.of(Label("a", 0, 0, 1, 0, "", "x", ""))
    >>> search = NearestSearch(ITDA(torch.tensor([[1.0, 0.0]]), labels, k=1))
    >>> search.add(torch.tensor([[5.0, 0.0], [3.0, 4.0], [-1.0, 0.0]]), ["a", "b", "c"])
    >>> found = search.result(lambda places: Labels.of(*(Label("b", 7, 0, 1, 0, "", "y", "") for _ in places)))
    >>> [(label.document, round(cosine, 2)) for label, cosine in found.of(0)]
    [('b', 0.6)]
    """

    def __init__(self, dictionary: ITDA, most: int = NEAREST) -> None:
        self._dictionary, self._numbers = dictionary, dict[str, int]()
        own = self._numbers_of(dictionary.labels.document.tolist())
        self._found = NearestActivations(dictionary.atoms, own, most)

    @property
    def seen(self) -> int:
        """Number of activations so far."""
        return self._found.seen

    def add(self, activations: Float[Tensor, "batch d_model"], documents: Sequence[str]) -> None:
        """Take the next activations, and the id of each one's document. Raises `ActivationError`."""
        z = target_of(activations, self._dictionary.d_model, self._dictionary.offset)
        # A massive activation counts as one of no direction.
        z = torch.where(self._dictionary.is_massive(activations)[:, None], 0, z)
        self._found.add(z, self._numbers_of(documents))

    def candidates(self, since: int = 0) -> Candidates:
        """Return what was found so far, of the activations from place `since` of the stream on."""
        return self._found.candidates(since)

    def go_on(self, found: Candidates, documents: Sequence[str], seen: int) -> None:
        """Go on after `seen` activations of which another search of these atoms found some.

        `documents` has the id of the document of each row of `found`; its own numbers are not used.
        """
        self._found.go_on(replace(found, document=self._numbers_of(documents)), seen)

    def result(self, labels_at: Callable[[Int64[np.ndarray, " places"]], Labels]) -> Nearest:
        """Return the nearest activations: those of a positive cosine. `labels_at` gives the labels at some places.

        The places are those of the stream, each once and in ascending order.
        """
        found = self._found
        count = ((found.index >= 0) & (found.cosines > 0)).sum(axis=1)
        places, rows = np.unique(found.index, return_inverse=True)
        labels = labels_at(places[places >= 0])
        if len(places) and places[0] < 0:
            labels = Labels.concatenate([Labels.of(NO_LABEL), labels])
        cosines = np.where(np.isfinite(found.cosines), found.cosines, 0).astype(np.float32)
        return Nearest(labels[rows.reshape(found.index.shape)], cosines, count)

    def _numbers_of(self, documents: Sequence[str]) -> Int64[np.ndarray, " rows"]:
        numbers = self._numbers
        return np.array([numbers.setdefault(name, len(numbers)) for name in documents], dtype=np.int64)


@torch.no_grad()
def find_nearest(dictionary: ITDA, activations: Rows, labels: Labels, *, most: int = NEAREST) -> ITDA:
    """Return the dictionary with the activations [batch, d_model] nearest to each atom, for `Atom.nearest`.

    What they share is what the atom means. They are of other documents than the atom's label, by the document's id, one
    of each, `most` in all; massive ones are left out, and those whose cosine to the atom, after the offset, is not
    positive. Raises `ActivationError` for activations that do not fit, `SettingError` for another number of labels.

    >>> import torch, itda
    >>> labels = itda.Labels.of(*(itda.Label(f"essay {i}", 0, 0, 1, i, "", "xyz"[i], "") for i in range(3)))
    >>> x = torch.tensor([[2.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    >>> dictionary = itda.ITDA(torch.eye(2)[:1], labels[:1], k=1)
    >>> [(label.token, round(cosine, 2)) for label, cosine in find_nearest(dictionary, x, labels).atom(0).nearest]
    [('y', 0.6)]
    """
    rows = rows_of(activations)
    check_width(rows, dictionary.d_model)
    if len(labels) != len(rows):
        raise SettingError(f"{len(labels)} labels for {len(rows)} activations: give one label for each")
    search = NearestSearch(dictionary, most)
    documents = labels.document.tolist()
    for start in range(0, len(rows), ROWS):
        search.add(rows[start : start + ROWS], documents[start : start + ROWS])
    return replace(dictionary, nearest=search.result(lambda places: labels[places]))
