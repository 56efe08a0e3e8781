"""Tokens in their context, as plain values for JSON: an example of a use, and a window of text with its codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itda.core.code import SparseCode
from itda.explorer.code_index import CodeIndex
from itda.explorer.run_cache import IndexedDictionary

BEFORE, AFTER = 22, 12
"""Tokens shown before and after the token of an example."""


def rounded(value: float) -> float | None:
    """Round to five significant digits, as a page shows them; return None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def example(index: CodeIndex, token: int, atom: int, coefficient: float) -> dict[str, Any]:
    """Return an example of a use of an atom: the tokens around it, and the atom's coefficients at each of them."""
    first, last = index.text.window(token)
    start, stop = max(first, token - BEFORE), min(last, token + AFTER + 1)
    starts, atoms, coefficients = index.codes_between(start, stop)
    places = np.flatnonzero(atoms == atom)
    rows = np.searchsorted(starts, places, side="right") - 1
    ids, values = index.codes(token)
    own, explained = int(ids.tolist().index(atom)), 1 - float(index.errors(token, token + 1)[0])
    massive = [each - start for each in index.medians(start, stop)]
    return {
        "token": token,
        "document": index.text.document(token),
        "position": index.text.position(token),
        "coefficient": rounded(coefficient),
        "step": own,
        "explained": rounded(explained),
        "share": rounded(share_of(values, own) * max(0.0, explained)),
        "at": token - start,
        "cut": [start > first, stop < last],
        "tokens": index.text.token_strings(start, stop),
        "bytes": partial(index, start, stop),
        "weights": [
            [int(row), rounded(float(coefficients[place]))]
            for row, place in zip(rows, places, strict=True)
            if row not in massive
        ],
    }


def share_of(coefficients: np.ndarray, place: int) -> float:
    """Return the part of one coefficient in a code, by the squares: the energy that its atom takes of all explained.

    >>> share_of(np.array([3.0, -4.0]), 1)
    0.64
    """
    squares = np.square(coefficients, dtype=np.float64)
    return float(squares[place] / squares.sum())


def partial(index: CodeIndex, start: int, stop: int) -> dict[str, str]:
    """Return the bytes in hexadecimal of those tokens that are not whole characters, by their place from `start`."""
    return {str(token - start): hexadecimal for token, hexadecimal in index.text.partials(start, stop).items()}


def indexed_window(dictionary: IndexedDictionary, index: CodeIndex, token: int) -> dict[str, Any]:
    """Return the window of the corpus that contains a token, with the code of each of the window's tokens."""
    first, last = index.text.window(token)
    starts, atoms, coefficients = index.codes_between(first, last)
    massive = {place - first: each for place, each in index.medians(first, last).items()}
    return {
        "document": index.text.document(token),
        "position": index.text.position(first),
        "at": token - first,
        "first": first,
        "tokens": index.text.token_strings(first, last),
        "bytes": partial(index, first, last),
        **_explained(index.errors(first, last).tolist(), massive),
        **_codes(dictionary, starts, atoms, coefficients),
    }


def text_window(
    dictionary: IndexedDictionary,
    tokens: Sequence[str],
    byte_strings: Mapping[int, str],
    code: SparseCode,
    error: Sequence[float],
    massive: Mapping[int, float],
) -> dict[str, Any]:
    """Return a typed text with the code of each of its tokens, in the form of `indexed_window`.

    By place, `byte_strings` has the bytes of tokens that are not whole characters, and `massive` the norms, in medians,
    of massive tokens.
    """
    counts = code.count.tolist()
    starts = np.concatenate([[0], np.cumsum(counts)])
    kept = [slice(0, count) for count in counts]
    atoms = [code.indices[row, part].numpy() for row, part in enumerate(kept)]
    coefficients = [code.coefficients[row, part].float().numpy() for row, part in enumerate(kept)]
    empty = [np.zeros(0, np.int64)]
    return {
        "document": None,
        "position": 0,
        "at": None,
        "first": None,
        "tokens": list(tokens),
        "bytes": {str(place): hexadecimal for place, hexadecimal in byte_strings.items()},
        **_explained(error, massive),
        **_codes(dictionary, starts, np.concatenate(atoms or empty), np.concatenate(coefficients or empty)),
    }


def _explained(error: Sequence[float], massive: Mapping[int, float]) -> dict[str, Any]:
    """Return the explained share of each token, None for a massive one, and the norms of massive ones in medians."""
    shares = [None if place in massive else rounded(1 - each) for place, each in enumerate(error)]
    return {"explained": shares, "massive": {str(place): rounded(each) for place, each in massive.items()}}


def _codes(
    dictionary: IndexedDictionary, starts: np.ndarray, atoms: np.ndarray, coefficients: np.ndarray
) -> dict[str, Any]:
    ids, values = atoms.tolist(), [rounded(value) for value in coefficients.tolist()]
    return {
        "codes": [[ids[a:b], values[a:b]] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)],
        "labels": {str(i): dictionary.shown_of(i) for i in sorted(set(ids))},
        "unreplicated": [i for i in sorted(set(ids)) if dictionary.no_finding(i)],
    }
