"""How alike two fingerprints are, site with site: THE index, the parts that it is made of, and controls.

Two sites are alike if the same tokens are new to both, by as much: the index is the weighted Jaccard index of their
novelty, sum of the smaller over sum of the larger value, over tokens. It was chosen on families of models by a rule
that was written down before (`benchmarks/index_choice.py`). What it owes to how novel the sites are on the whole,
whichever tokens that comes from, is a control, `sizes alone`; what labels say where sizes are equal is `equal sizes`:
of each site as many tokens, the most novel ones. The `ladder` is the mean of the Jaccard indices of the atoms at each
rung.

A token that is massive at one of two sites is left out of that pair. All is a function of sums over documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped, UInt8, UInt16

from itda.core.bootstrap import interval
from itda.core.similarity.fingerprint import LEFT_OUT, TokenNovelty
from itda.core.similarity.overlap import Universe, adjusted_of, jaccard_of, size_only_of
from itda.core.site import Site
from itda.core.tokens import Tokens

THE_INDEX = "shared novelty"
"""The index that is shown unless others are asked for: chosen on families of models, by a rule written down."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Shares of the tokens that `equal sizes` takes of each site, the most novel ones."""

GROUPS = 200
"""Groups of documents, at most, that are resampled: each document is one of its own where there are no more."""

FEWEST, STRETCHES = 20, 50
"""Of fewer documents than that, stretches of the text are resampled instead, and how many of them there are."""

Matrix = Float[np.ndarray, "rows columns"]
Sums = Float[np.ndarray, "*batch columns"]
Masks = Bool[np.ndarray, "sets sites tokens"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """The sites of one fingerprint, at the tokens that all those compared have read."""

    sites: list[Site]
    bits: UInt8[np.ndarray, "sites tokens"]
    novelty: UInt16[np.ndarray, "sites tokens"]
    norm: UInt8[np.ndarray, "sites tokens"]
    rungs: int

    @staticmethod
    def of(sites: Mapping[Site, TokenNovelty], tokens: Tokens, universe: Universe, rungs: int) -> Aligned:
        """Take the tokens of a universe from a fingerprint."""
        rows = universe.rows_of(tokens)
        bits, novelty, norm = (
            np.stack([getattr(found, name)[rows] for found in sites.values()]) for name in ("bits", "novelty", "norm")
        )
        return Aligned(list(sites), bits, novelty, norm, rungs)

    @property
    def there(self) -> Bool[np.ndarray, "sites tokens"]:
        """False where an activation is massive."""
        return self.novelty != LEFT_OUT

    @property
    def atoms(self) -> Masks:
        """The atoms of each rung."""
        return np.stack([(self.bits >> rung & 1).astype(bool) for rung in range(self.rungs)])

    @property
    def new(self) -> UInt16[np.ndarray, "1 sites tokens"]:
        """The novelty of each token; 0 for those that are massive."""
        return np.where(self.there, self.novelty, 0)[None].astype(np.uint16)

    @property
    def new_by_mean(self) -> Int64[np.ndarray, "1 sites tokens"]:
        """The novelty of each token divided by the site's mean, in whole numbers of 1 / 65,536; 0 for massive ones."""
        new = self.new[0].astype(np.float64)
        mean = new.sum(axis=1, keepdims=True) / np.maximum(self.there.sum(axis=1, keepdims=True), 1)
        return np.rint(new * (65_536 / np.where(mean > 0, mean, 1))).astype(np.int64)[None]

    @property
    def most_novel(self) -> Masks:
        """As many tokens of each site for each of `SHARES`, the most novel; of equals the first."""
        number, there = self.novelty.shape[1], self.there
        # Massive ones come last.
        order = np.argsort(np.where(there, -self.novelty.astype(np.int64), 1), axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(number)[None], axis=1)
        return np.stack([(rank < round(share * number)) & there for share in SHARES])

    def shifted(self) -> Aligned:
        """Return the same with tokens moved by half their number: a pairing that means nothing."""
        by = self.bits.shape[1] // 2
        bits, novelty, norm = (np.roll(each, by, axis=1) for each in (self.bits, self.novelty, self.norm))
        return Aligned(self.sites, bits, novelty, norm, self.rungs)

    @property
    def union(self) -> Aligned:
        """The tokens that are atoms at any site, as one site."""
        kept = np.where(self.there, self.novelty, 0).max(axis=0, keepdims=True)
        left_out = ~self.there.any(axis=0, keepdims=True)
        bits = np.bitwise_or.reduce(self.bits, axis=0, keepdims=True)
        novelty = np.where(left_out, LEFT_OUT, kept).astype(np.uint16)
        return Aligned(self.sites[:1], bits, novelty, self.norm[:1], self.rungs)


def groups_of(universe: Universe) -> Int64[np.ndarray, " tokens"]:
    """Return the group that each token of a universe is resampled with, from 0 on: documents, or stretches of them."""
    names, document = np.unique(universe.keys >> 32, return_inverse=True)
    if len(names) >= FEWEST:
        return document % GROUPS
    return np.arange(len(document)) * min(STRETCHES, max(1, len(document) // 20)) // max(1, len(document))


def overlap_sums(
    a: Shaped[np.ndarray, "sets rows tokens"],
    b: Shaped[np.ndarray, "sets columns tokens"],
    there: tuple[np.ndarray, np.ndarray],
    group: Int64[np.ndarray, " tokens"],
) -> Float[np.ndarray, "groups rows columns sets 4"]:
    """Count, per group of documents and pair of sites: tokens in both sets, in a, in b, and all.

    Of whole numbers in place of sets: the sum of the smaller ones, the sums of both, and the number of tokens.
    """
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(int(group.max(initial=0)) + 2))
    found = np.zeros((len(starts) - 1, a.shape[1], b.shape[1], len(a), 4))
    for g, (start, end) in enumerate(pairwise(starts)):
        some = order[start:end]
        left, right = (each[:, some].astype(np.float64) for each in there)
        found[g, ..., 3] = (left @ right.T)[..., None]
        for s in range(len(a)):
            rows, columns = a[s][:, some], b[s][:, some]
            found[g, :, :, s, 0] = _in_both(rows, columns)
            found[g, :, :, s, 1] = rows.astype(np.float64) @ right.T
            found[g, :, :, s, 2] = left @ columns.astype(np.float64).T
    return found


def _in_both(rows: np.ndarray, columns: np.ndarray) -> Matrix:
    """Return the sum of the smaller of two numbers, for each pair of rows: of sets, how many are in both."""
    if rows.dtype == bool:
        return (rows.astype(np.float32) @ columns.astype(np.float32).T).astype(np.float64)
    return np.stack([np.minimum(row, columns).sum(axis=1, dtype=np.int64) for row in rows]).astype(np.float64)


def _mean_of(measure: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: measure(sums).mean(axis=-1)


OF_SUMS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    THE_INDEX: ("new", _mean_of(jaccard_of)),
    "equal sums": ("new_by_mean", _mean_of(jaccard_of)),
    "equal sizes": ("most_novel", _mean_of(jaccard_of)),
    "sizes alone": ("new", _mean_of(size_only_of)),
    "ladder": ("atoms", _mean_of(jaccard_of)),
    "adjusted": ("atoms", _mean_of(adjusted_of)),
    "ladder sizes": ("atoms", _mean_of(size_only_of)),
}
"""Indices by name: the sets or numbers that each compares, and what it makes of sums [..., sets, 4]."""

NAMES = (*OF_SUMS, "correlation", "norms", "shuffled")
"""All indices: those of `OF_SUMS`; the correlations over tokens of novelty and of norms; and THE index where the tokens
of the second are moved by half their number."""


def resampled(a: Aligned, b: Aligned, group: Int64[np.ndarray, " tokens"], name: str = THE_INDEX) -> np.ndarray:
    """Return the sums of an index [groups, rows, columns, sets, 4], for intervals."""
    return overlap_sums(getattr(a, OF_SUMS[name][0]), getattr(b, OF_SUMS[name][0]), (a.there, b.there), group)


def matrices_of(a: Aligned, b: Aligned) -> dict[str, Matrix]:
    """Return every index for every pair of sites, by name, as in `NAMES`."""
    alike = np.zeros(a.bits.shape[1], np.int64)
    sums = {
        sets: overlap_sums(getattr(a, sets), getattr(b, sets), (a.there, b.there), alike)[0]
        for sets in dict.fromkeys(sets for sets, _ in OF_SUMS.values())
    }
    found = {name: measure(sums[sets]) for name, (sets, measure) in OF_SUMS.items()}
    found["correlation"] = correlation(a.novelty, b.novelty, (a.there, b.there))
    found["norms"] = correlation(a.norm, b.norm, (a.there, b.there))
    sets, measure = OF_SUMS[THE_INDEX]
    moved = b.shifted()
    mixed = overlap_sums(getattr(a, sets), getattr(moved, sets), (a.there, moved.there), alike)[0]
    return {**found, "shuffled": measure(mixed)}


def correlation(a: np.ndarray, b: np.ndarray, there: tuple[np.ndarray, np.ndarray]) -> Matrix:
    """Return Pearson's correlation of the rows of two arrays, each pair at the tokens that are there in both.

    To 12 decimals, so that equal rows give 1; 0 where one does not vary.
    """
    left, right = (mask.astype(np.float64) for mask in there)
    x, y = (_from_middle(each, mask) for each, mask in ((a, left), (b, right)))
    number = np.maximum(left @ right.T, 1)
    mean_x, mean_y = x @ right.T / number, left @ y.T / number
    covariance = x @ y.T / number - mean_x * mean_y
    variance = ((x * x) @ right.T / number - mean_x**2) * (left @ (y * y).T / number - mean_y**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-12, covariance / np.sqrt(variance), 0.0).round(12).clip(-1, 1)


def _from_middle(values: np.ndarray, there: Float[np.ndarray, "rows tokens"]) -> Float[np.ndarray, "rows tokens"]:
    """Return the values less the mean of their row, so that sums of squares lose no digits; 0 where they are not."""
    mean = (values * there).sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
    return (values - mean) * there


@dataclass(frozen=True, eq=False)
class Sureness:
    """How sure an index is of what it says, by resampling documents; NaN where there is only one."""

    low: Matrix
    high: Matrix
    lead: Float[np.ndarray, " rows"]
    """By how much the most similar column of a row leads the next."""
    least_lead: Float[np.ndarray, " rows"]
    """The lower end of the 95% interval of that: above 0, the row is sure of its column."""

    @property
    def sure(self) -> Bool[np.ndarray, " rows"]:
        """True for rows that are sure of their most similar column."""
        return self.least_lead > 0

    def times_as_many(self) -> Float[np.ndarray, " rows"]:
        """Return how many times as many tokens would make each row sure, if the lead stays; infinite for no lead."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.sure, 1.0, ((self.lead - self.least_lead) / self.lead) ** 2)


def sureness(a: Aligned, b: Aligned, group: Int64[np.ndarray, " tokens"], name: str = THE_INDEX) -> Sureness:
    """Resample documents for an index of two fingerprints."""
    sums, measure = resampled(a, b, group, name), OF_SUMS[name][1]
    shape, rows = sums.shape[1:], np.arange(sums.shape[1])
    matrix = measure(sums.sum(axis=0))
    best = matrix.argmax(axis=1)

    def values(flat: np.ndarray) -> np.ndarray:
        found = measure(flat.reshape(*flat.shape[:-1], *shape))
        others = found.copy()
        others[..., rows, best] = -np.inf
        next_best = others.max(axis=-1) if shape[1] > 1 else np.nan  # a column alone leads nobody
        lead = found[..., rows, best] - next_best
        return np.concatenate([found.reshape(*found.shape[:-2], -1), lead], axis=-1)

    made = interval(sums.reshape(len(sums), -1), values)
    cells = matrix.size
    low, high = (each[:cells].reshape(matrix.shape) for each in (made.low, made.high))
    return Sureness(low, high, made.value[cells:], made.low[cells:])
