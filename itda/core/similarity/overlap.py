"""The overlap of dictionaries by their labels: the paper's Jaccard index (Eq. 8), what chance makes of it, and a form
that counts an atom by how much it was needed.

A label is in a dictionary or not, and that is a noisy answer: an activation whose error is just above the threshold in
one model is just below it in the other. `weighted` therefore gives each atom its *excess*, the part of its novelty (the
error of its activation in the dictionary before it) above the threshold, and compares those: sum min / sum max over
all labels, the Jaccard index of weighted sets (Ruzicka 1958). It is 1 for equal dictionaries and 0 for disjoint ones,
as Jaccard is, and what is near the threshold hardly counts.

Everything is a function of sums over documents, so that documents can be resampled (`itda.core.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from itda.core.bootstrap import Interval, interval
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.labels import jaccard as jaccard_of_labels
from itda.core.similarity.table import similarity_index
from itda.core.tokens import Tokens
from itda.errors import SettingError

BOTH, A, B, TOKENS, LEAST, MOST = range(6)
Sums = Float[np.ndarray, "*batch columns"]


@dataclass(frozen=True, eq=False)
class Universe:
    """The tokens that several runs have all read, as sorted integers. A label elsewhere cannot be in all of them."""

    documents: dict[str, int]
    by_end: bool
    """True to tell tokens by the character where they end; False, for one tokenizer, by their position."""
    keys: Int64[np.ndarray, " tokens"]

    @staticmethod
    def of(several: Sequence[Tokens], *, by_end: bool) -> Universe:
        """Find the tokens that are in all of the tables. Raises `SettingError` if there is none."""
        documents: dict[str, int] = {}
        for tokens in several:
            for name in tokens.documents:
                documents.setdefault(name, len(documents))
        keys: np.ndarray | None = None
        for tokens in several:
            own = np.unique(_keys_of(tokens, documents, by_end))
            keys = own if keys is None else np.intersect1d(keys, own, assume_unique=True)
        if keys is None or not len(keys):
            raise SettingError(f"there is no token in common: {_why_none(several)}")
        return Universe(documents, by_end, keys)

    def rows_of(self, tokens: Tokens) -> Int64[np.ndarray, " tokens"]:
        """Return the row of a table in which each token of the universe stands; the first of tokens that end alike."""
        keys, first = np.unique(_keys_of(tokens, self.documents, self.by_end), return_index=True)
        return first[np.isin(keys, self.keys, assume_unique=True)]

    @property
    def per_document(self) -> Int64[np.ndarray, " documents"]:
        """Number of the tokens in each document."""
        return np.bincount(self.keys >> 32, minlength=len(self.documents))

    def share(self, tokens: Tokens) -> float:
        """Return the share of a run's tokens that all the other runs have too."""
        return float(np.isin(_keys_of(tokens, self.documents, self.by_end), self.keys).mean())


def _why_none(several: Sequence[Tokens]) -> str:
    """Say why tables of tokens share none, and what to do."""
    read = [set(tokens.documents) for tokens in several]
    numbers = " and ".join(f"{len(documents):,}" for documents in read)
    if set.intersection(*read):
        return f"of {numbers} documents some are the same, but not the tokens read of them: give more --tokens"
    return f"{numbers} documents were read, none of them the same: give more --tokens, or one --order and --seed"


def _keys_of(tokens: Tokens, documents: dict[str, int], by_end: bool) -> Int64[np.ndarray, " tokens"]:
    names = np.array([documents[name] for name in tokens.documents], dtype=np.int64)
    return _key(names[tokens.document], tokens.char_end if by_end else tokens.position)


def _key(document: np.ndarray, place: np.ndarray) -> Int64[np.ndarray, " tokens"]:
    """Return tokens as integers: the document's number in the upper half, the place in the document in the lower."""
    # Masked: mode reference has positions before the text, and their sign must not reach the number.
    return (document.astype(np.int64) << 32) | (place.astype(np.int64) & 0xFFFFFFFF)


@dataclass(frozen=True, eq=False)
class Members:
    """The tokens that are atoms of a dictionary, as sorted keys of a `Universe`, each with its weight and novelty."""

    keys: Int64[np.ndarray, " atoms"]
    excess: Float64[np.ndarray, " atoms"]
    """Novelty less the threshold; 0 for all atoms where the dictionary has no novelty."""
    rank: Int64[np.ndarray, " atoms"]
    """Rank of the novelty, 0 for the largest; the older of equals first. By age alone where there is no novelty."""
    has_novelty: bool = True

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def of(dictionary: ITDA, universe: Universe) -> Members:
        """Return the labels of a dictionary that are in the universe."""
        labels = dictionary.labels
        documents = np.array([universe.documents.get(str(name), -1) for name in labels.document], dtype=np.int64)
        keys = _key(documents, labels.char_end if universe.by_end else labels.position)
        novelty = excess = np.zeros(len(keys))
        has_novelty = dictionary.novelty is not None and dictionary.threshold is not None
        if dictionary.novelty is not None and dictionary.threshold is not None:
            novelty = dictionary.novelty.double().numpy()
            excess = np.maximum(novelty - dictionary.threshold, 0)
        # Tokens that share a character end at one place: the first of them stands for it.
        keys, first = np.unique(keys, return_index=True)
        inside = np.isin(keys, universe.keys, assume_unique=True)
        keys, first = keys[inside], first[inside]
        rank = np.empty(len(keys), np.int64)
        rank[np.lexsort((first, -novelty[first]))] = np.arange(len(keys))
        return Members(keys, excess[first], rank, has_novelty)

    def strongest(self, number: int) -> Members:
        """Return the `number` most novel atoms: about those that a higher threshold would have left."""
        kept = self.rank < number
        return Members(self.keys[kept], self.excess[kept], self.rank[kept], self.has_novelty)

    @staticmethod
    def union(several: Sequence[Members]) -> Members:
        """Return the tokens that are atoms in any of the dictionaries (the paper's Eq. 10), with the largest weight."""
        keys, place = np.unique(np.concatenate([each.keys for each in several]), return_inverse=True)
        excess = np.zeros(len(keys))
        np.maximum.at(excess, place, np.concatenate([each.excess for each in several]))
        rank = np.argsort(np.argsort(-excess, kind="stable"))
        return Members(keys, excess, rank, all(each.has_novelty for each in several))


def sums_of(a: Members, b: Members, universe: Universe) -> Float64[np.ndarray, "documents columns"]:
    """Count per document: labels in both, in a, in b, tokens; and sum the smaller and the larger weights.

    These two are 0 where one of the dictionaries does not know its novelty.
    """
    documents = len(universe.documents)
    _, left, right = np.intersect1d(a.keys, b.keys, assume_unique=True, return_indices=True)
    least = np.minimum(a.excess[left], b.excess[right])

    def per_document(keys: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(keys >> 32, weights, documents)

    smaller = per_document(a.keys[left], least)
    larger = per_document(a.keys, a.excess) + per_document(b.keys, b.excess) - smaller
    counts = per_document(a.keys[left]), per_document(a.keys), per_document(b.keys), universe.per_document
    known = a.has_novelty and b.has_novelty
    return np.stack([*counts, smaller * known, larger * known], axis=1).astype(np.float64)


def jaccard_of(sums: Sums) -> Float[np.ndarray, "*batch"]:
    """Return |A and B| / |A or B| (the paper's Eq. 8); 1 for two empty sets."""
    return _share(sums[..., BOTH], sums[..., A] + sums[..., B] - sums[..., BOTH])


def coefficient_of(sums: Sums) -> Float[np.ndarray, "*batch"]:
    """Return the overlap coefficient |A and B| / min(|A|, |B|): 1 where one set is inside the other."""
    return _share(sums[..., BOTH], np.minimum(sums[..., A], sums[..., B]))


def chance_of(sums: Sums) -> Float[np.ndarray, "*batch"]:
    """Return the Jaccard index at the overlap expected of two sets this large, drawn at random from the tokens."""
    both = sums[..., A] * sums[..., B] / np.maximum(sums[..., TOKENS], 1)
    return _share(both, sums[..., A] + sums[..., B] - both)


def adjusted_of(sums: Sums) -> Float[np.ndarray, "*batch"]:
    """Return Jaccard adjusted for chance, (J - E) / (1 - E): about 0 for random sets, 1 for equal ones."""
    chance = chance_of(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (jaccard_of(sums) - chance) / (1 - chance), 1.0)


def weighted_of(sums: Sums) -> Float[np.ndarray, "*batch"]:
    """Return the Jaccard index weighted by excess; plain Jaccard where a dictionary has no novelty."""
    return np.where(sums[..., MOST] > 0, _share(sums[..., LEAST], sums[..., MOST]), jaccard_of(sums))


def size_only_of(sums: Sums) -> Float[np.ndarray, "*batch"]:
    """Return the control, by the numbers of labels alone: min(|A|, |B|) / max(|A|, |B|)."""
    return _share(np.minimum(sums[..., A], sums[..., B]), np.maximum(sums[..., A], sums[..., B]))


OVERLAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jaccard": jaccard_of,
    "overlap_coefficient": coefficient_of,
    "adjusted": adjusted_of,
    "weighted": weighted_of,
    "size_only": size_only_of,
}
"""Measures of the overlap of two dictionaries by name, as functions of `sums_of`."""


@similarity_index("labels", "Leask et al. 2025, ITDA, Eq. 8; Jaccard 1901")
def jaccard(a: ITDA | Labels, b: ITDA | Labels) -> float:
    """|A & B| / |A | B| of the labels of two dictionaries, or of two `Labels`: the paper's Eq. 8.

    From 0 to 1; 1 for two dictionaries without atoms. It compares models of any widths that read the same texts, and
    sees no activations. Labels are the same if document, position and last character are. What chance makes of it,
    and the share of tokens that both have read, are the business of `itda compare`.

    >>> import itda
    >>> jaccard(Labels.of_texts(["one", "two", "three"]), Labels.of_texts(["two", "three", "four"]))
    0.5
    """
    return jaccard_of_labels(*(each.labels if isinstance(each, ITDA) else each for each in (a, b)))


def index_matrices(
    rows: Sequence[Members], columns: Sequence[Members], universe: Universe
) -> dict[str, Float[np.ndarray, "rows columns"]]:
    """Compute every index for every pair of dictionaries, and `matched`, by name."""
    sums = np.array([[sums_of(a, b, universe).sum(axis=0) for b in columns] for a in rows])
    found = {name: index(sums) for name, index in OVERLAPS.items()}
    found["matched"] = np.array([[matched(a, b, universe) for b in columns] for a in rows])
    return found


def matched(a: Members, b: Members, universe: Universe) -> float:
    """Return the Jaccard index of the strongest atoms, as many of a as of b, so that their sizes do not matter."""
    number = min(len(a), len(b))
    return float(jaccard_of(sums_of(a.strongest(number), b.strongest(number), universe).sum(axis=0)))


def index_interval(name: str, sums: Float64[np.ndarray, "documents columns"]) -> Interval:
    """Return an index with its 95% interval by resampling documents; those without tokens are left out."""
    return interval(sums[sums[:, TOKENS] > 0], OVERLAPS[name])


def _share(part: np.ndarray | np.float64, whole: np.ndarray | np.float64) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, 1.0)
