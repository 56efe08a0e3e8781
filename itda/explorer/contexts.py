"""Tokens in their context: an example of a use, and a window of text with its codes. Pure data, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itda.core.code import SparseCode
from itda.explorer.code_index import CodeIndex
from itda.explorer.run_cache import Dictionary

BEFORE, AFTER = 22, 12
"""Tokens around that of an example."""


def rounded(value: float) -> float | None:
    """Five digits: what a page can show. JSON has no NaN: None stands for it."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def example(index: CodeIndex, token: int, atom: int, coefficient: float) -> dict[str, Any]:
    """A use of an atom: the tokens around it, and the atom's coefficients at each of them."""
    first, last = index.text.window(token)
    start, stop = max(first, token - BEFORE), min(last, token + AFTER + 1)
    starts, atoms, coefficients = index.codes_between(start, stop)
    places = np.flatnonzero(atoms == atom)
    rows = np.searchsorted(starts, places, side="right") - 1
    own = int(index.codes(token)[0].tolist().index(atom))
    massive = [each - start for each in index.medians(start, stop)]
    return {
        "token": token,
        "document": index.text.document(token),
        "position": index.text.position(token),
        "coefficient": rounded(coefficient),
        "step": own,
        "explained": rounded(1 - float(index.errors(token, token + 1)[0])),
        "at": token - start,
        "cut": [start > first, stop < last],
        "tokens": index.text.pieces_of(start, stop),
        "bytes": partial(index, start, stop),
        "weights": [
            [int(row), rounded(float(coefficients[place]))]
            for row, place in zip(rows, places, strict=True)
            if row not in massive
        ],
    }


def partial(index: CodeIndex, start: int, stop: int) -> dict[str, str]:
    """The bytes of those tokens that are not whole characters, by place."""
    found = ((t - start, index.text.partial(t)) for t in range(start, stop)) if index.text.partial_ids else ()
    return {str(place): hexadecimal for place, hexadecimal in found if hexadecimal is not None}


def indexed_window(dictionary: Dictionary, index: CodeIndex, token: int) -> dict[str, Any]:
    """The window of the corpus that a token is in, with the code of each of its tokens."""
    first, last = index.text.window(token)
    starts, atoms, coefficients = index.codes_between(first, last)
    massive = {place - first: each for place, each in index.medians(first, last).items()}
    return {
        "document": index.text.document(token),
        "position": index.text.position(first),
        "at": token - first,
        "first": first,
        "tokens": index.text.pieces_of(first, last),
        "bytes": partial(index, first, last),
        **_explained(index.errors(first, last).tolist(), massive),
        **_codes(dictionary, starts, atoms, coefficients),
    }


def text_window(
    dictionary: Dictionary,
    tokens: Sequence[str],
    pieces: Mapping[int, str],
    code: SparseCode,
    error: Sequence[float],
    massive: Mapping[int, float],
) -> dict[str, Any]:
    """A text that somebody typed, in the same form. `pieces` has the bytes of tokens that are not whole characters,
    `massive` the norms, in medians, of those that are massive."""
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
        "bytes": {str(place): hexadecimal for place, hexadecimal in pieces.items()},
        **_explained(error, massive),
        **_codes(dictionary, starts, np.concatenate(atoms or empty), np.concatenate(coefficients or empty)),
    }


def _explained(error: Sequence[float], massive: Mapping[int, float]) -> dict[str, Any]:
    """The share explained of each token, None for a massive one, of which there is the norm, in medians, instead."""
    shares = [None if place in massive else rounded(1 - each) for place, each in enumerate(error)]
    return {"explained": shares, "massive": {str(place): rounded(each) for place, each in massive.items()}}


def _codes(dictionary: Dictionary, starts: np.ndarray, atoms: np.ndarray, coefficients: np.ndarray) -> dict[str, Any]:
    ids, values = atoms.tolist(), [rounded(value) for value in coefficients.tolist()]
    return {
        "codes": [[ids[a:b], values[a:b]] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)],
        "labels": {str(i): dictionary.shown[i] for i in sorted(set(ids))},
    }
