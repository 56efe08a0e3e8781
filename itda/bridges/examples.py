"""Examples of the uses of many atoms at once: which uses, the tokens around each, the atom's weight at each of them.

Examples are of the positive part of an atom: tools made for sparse autoencoders know no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow
from jaxtyping import Float32, Int64

from itda.bridges.tables import lists, strings
from itda.explorer.atoms import BANDS, PER_BAND, SEARCHED, TOP, spread
from itda.explorer.code_index import CodeIndex
from itda.explorer.contexts import AFTER, BEFORE

NO_BAND = -1
"""The band of an atom's largest uses."""
SAME_BEFORE, SAME_AFTER = 4, 2
"""Two uses with the same tokens here, before and after, are one example."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Some uses of some atoms, one row each, in the order of the atoms; of an atom the largest first, then bands."""

    atom: Int64[np.ndarray, " rows"]
    token: Int64[np.ndarray, " rows"]
    band: Int64[np.ndarray, " rows"]
    """`NO_BAND` for one of the largest, else a row of `explorer.atoms.BANDS`: quantiles of the coefficients."""
    low: Float32[np.ndarray, " rows"]
    """The least coefficient of the band; for one of the largest, of all."""
    high: Float32[np.ndarray, " rows"]
    share: Float32[np.ndarray, " rows"]
    """The share of the atom's positive uses that the band has."""


@dataclass(frozen=True, eq=False)
class Passages:
    """The tokens around each of some examples, and the atom's coefficients there: 0 where it has no positive one."""

    tokens: pyarrow.Array
    """A list of strings for each example: none of them is empty, and none has a NUL."""
    values: pyarrow.Array
    """A list of float32 for each example, as long as that of its tokens."""
    starts: Int64[np.ndarray, " ends"]
    """Where each list begins, and the end of the last."""
    at: Int64[np.ndarray, " rows"]
    """The place of the example's own token in its list."""


class Chooser:
    """Chooses examples of atoms' positive uses: the largest of each atom, then some of each band of quantiles.

    Of one window, and of uses in the same few tokens of context, the largest alone is taken.
    """

    def __init__(self, index: CodeIndex) -> None:
        self._index = index
        tokens = np.arange(index.tokens)
        self._window = index.text.windows_of(tokens).astype(np.int32)
        self._context = _context_keys(index, self._window)

    def of(self, atoms: Sequence[int]) -> Examples:
        """Choose the examples of some atoms."""
        columns: list[list[np.ndarray]] = [[], [], [], [], [], []]
        for atom in atoms:
            tokens, coefficients = self._index.uses(atom)
            number = int((coefficients > 0).sum())
            for band, first, last, own in self._groups(tokens, number):
                ends = coefficients[last - 1], coefficients[first]
                values = (atom, tokens[own], band, *ends, (last - first) / number)
                for column, value in zip(columns, values, strict=True):
                    column.append(np.broadcast_to(value, len(own)))
        kinds = (np.int64, np.int64, np.int64, np.float32, np.float32, np.float32)
        empty = np.zeros(0)
        return Examples(
            *(np.concatenate([empty, *column]).astype(kind) for column, kind in zip(columns, kinds, strict=True))
        )

    def _groups(self, tokens: np.ndarray, number: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Yield the bands of an atom's uses, the largest first: each with its range of ranks, and those chosen."""
        windows, contexts = np.zeros(0, np.int32), np.zeros(0, np.uint64)
        for band, (low, high) in enumerate([(0.0, 1.0), *BANDS], NO_BAND):
            first, last = round(number * (1 - high)), round(number * (1 - low))
            if last <= first:
                continue
            most = TOP if band == NO_BAND else PER_BAND
            ranks = np.arange(first, min(last, most * SEARCHED)) if band == NO_BAND else spread(first, last)
            ranks = ranks[: most * SEARCHED]
            own, keys = self._window[tokens[ranks]], self._context[tokens[ranks]]
            new = np.flatnonzero(~np.isin(own, windows) & ~np.isin(keys, contexts))
            for values in (own, keys):
                new = new[np.sort(np.unique(values[new], return_index=True)[1])]
            new = new[:most]
            windows, contexts = np.concatenate([windows, own[new]]), np.concatenate([contexts, keys[new]])
            yield band, first, last, ranks[new]


def _context_keys(index: CodeIndex, window: np.ndarray) -> np.ndarray:
    """Return for each token a hash of the tokens about it in its window: equal for equal contexts."""
    ids = index.text.token_id
    keys = np.zeros(len(window), np.uint64)
    for distance in range(-SAME_BEFORE, SAME_AFTER + 1):
        there = np.full(len(window), -1, np.int64)
        to, of = slice(max(0, -distance), len(window) - max(0, distance)), slice(max(0, distance), None)
        of = slice(of.start, len(window) - max(0, -distance))
        there[to] = np.where(window[of] == window[to], ids[of], -1)
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + (there + 2).astype(np.uint64)
        keys ^= keys >> np.uint64(29)
    return keys


def passages(index: CodeIndex, examples: Examples) -> Passages:
    """Return the tokens around each example within its window, and the atom's positive coefficients there."""
    windows, bounds = index.text.windows_of(examples.token), index.text.window_starts
    begins = np.maximum(bounds[windows], examples.token - BEFORE)
    ends = np.minimum(bounds[windows + 1], examples.token + AFTER + 1)
    lengths = ends - begins
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    tokens = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], lengths)
    rows, atoms, coefficients = index.codes_of(tokens)
    own = np.repeat(np.repeat(examples.atom, lengths), np.diff(rows)) == atoms
    values = np.zeros(len(tokens), np.float32)
    values[np.repeat(np.arange(len(tokens)), np.diff(rows))[own]] = np.maximum(coefficients[own], 0)
    values[np.isin(tokens, index.massive)] = 0  # massive tokens are no uses
    shown = shown_strings(index, tokens)
    return Passages(lists(starts, shown), lists(starts, values), starts, examples.token - begins)


def shown_strings(index: CodeIndex, tokens: Int64[np.ndarray, " some"]) -> pyarrow.Array:
    """Return the strings of tokens for databases and pages: the bytes of those that are not whole characters.

    No string is empty, and a NUL is shown by its sign, as PostgreSQL has none.
    """
    text = index.text
    packed, starts = text.packed_strings(tokens)
    column = strings(packed, starts)
    ids = text.token_id[tokens]
    partial = np.isin(ids, np.array(list(text.partial_ids), np.int64)) if text.partial_ids else np.zeros(len(ids), bool)
    odd = np.flatnonzero(partial | (np.diff(starts) == 0) | _has_nul(packed, starts))
    if not len(odd):
        return column
    values = column.to_pylist()
    for place in odd.tolist():
        in_bytes = text.partial_ids.get(int(ids[place]))
        values[place] = f"<{in_bytes}>" if in_bytes is not None else values[place].replace("\0", "␀") or "∅"
    return pyarrow.array(values, pyarrow.string())


def _has_nul(packed: np.ndarray, starts: np.ndarray) -> np.ndarray:
    has = np.zeros(len(starts) - 1, bool)
    has[np.searchsorted(starts, np.flatnonzero(packed == 0), side="right") - 1] = True
    return has
