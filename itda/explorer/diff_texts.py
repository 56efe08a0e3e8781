"""Texts in which a diff is shaded token by token: the KL divergence, the energy of the difference, the atoms there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from itda.core.site import Site
from itda.explorer.contexts import rounded
from itda.store.diffs import Diff

Piece = tuple[str, int | None]
"""A piece of a text, and the row of the token that it is; None between tokens."""


@dataclass(frozen=True, eq=False)
class Shades:
    """What is known of the tokens of a text, a row for each."""

    starts: Int[np.ndarray, " tokens"]
    """Where each token starts, and where it ends, in characters of the text."""
    ends: Int[np.ndarray, " tokens"]
    kl: Float[np.ndarray, " tokens"]
    """KL(changed || base) of what comes after it; NaN where it is not known."""
    energy: Float[np.ndarray, " tokens"]
    """The energy of the difference there; NaN for a token that was left out at the site."""
    atoms: Int64[np.ndarray, "tokens k"]
    explained: Float[np.ndarray, "tokens k"]
    """The energy that each atom of its code explains, 0 for places of the code that are not used."""


def shaded(text: str, shades: Shades, at: int | None = None) -> dict[str, Any]:
    """Return a text in pieces, as JSON values: a token each, and what is between tokens, of which nothing is known.

    `at` is the row of the token that the text is shown for; None for no token. Of each piece there are its text, `kl`,
    `energy`, and `codes`, a list of pairs of an atom and the energy that it explains.

    >>> none = np.zeros((1, 0))
    >>> known = Shades(np.array([2]), np.array([5]), np.array([0.5]), np.array([0.25]), none.astype(int), none)
    >>> shaded("a cat", known, 0)
    {'tokens': ['a ', 'cat'], 'kl': [None, 0.5], 'energy': [None, 0.25], 'codes': [[], []], 'at': 1}
    """
    pieces = _pieces(text, shades)
    rows = [row for _, row in pieces]
    return {
        "tokens": [piece for piece, _ in pieces],
        "kl": [None if row is None else rounded(float(shades.kl[row])) for row in rows],
        "energy": [None if row is None else rounded(float(shades.energy[row])) for row in rows],
        "codes": [[] if row is None else _code(shades, row) for row in rows],
        "at": None if at is None else rows.index(at),
    }


def _code(shades: Shades, row: int) -> list[list[Any]]:
    pairs = zip(shades.atoms[row].tolist(), shades.explained[row].tolist(), strict=True)
    return [[atom, rounded(energy)] for atom, energy in pairs if energy > 0]


def _pieces(text: str, shades: Shades) -> Sequence[Piece]:
    """Cut a text at its tokens. Where two tokens share a character, the first has it."""
    pieces: list[Piece] = []
    done = 0
    for row, (start, end) in enumerate(zip(shades.starts.tolist(), shades.ends.tolist(), strict=True)):
        if start > done:
            pieces.append((text[done:start], None))
        pieces.append((text[max(start, done) : end], row))
        done = max(done, end)
    return [*pieces, (text[done:], None)] if done < len(text) else pieces


def places_of(diff: Diff, site: Site, atom: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the text of an atom and those of its other places, shaded; `atom` is as the values of a diff have it."""
    return [
        {**_place(diff, site, token), "document": token["document"], "position": token["position"]}
        for token in [atom, *atom["examples"]]
    ]


def _place(diff: Diff, site: Site, token: Mapping[str, Any]) -> dict[str, Any]:
    text, start = token["before"] + token["token"] + token["after"], token["char_start"] - len(token["before"])
    stream = diff.tokens
    there = np.flatnonzero(stream["document"] == token["document"])
    inside = (stream["char_start"][there] >= start) & (stream["char_end"][there] <= start + len(text))
    there = there[inside]
    own = np.flatnonzero(stream["position"][there] == token["position"])
    shades = _shades_at(diff, site, there, start)
    return shaded(text, shades, int(own[0]) if len(own) else None)


def _shades_at(diff: Diff, site: Site, stream: Int64[np.ndarray, " tokens"], start: int) -> Shades:
    """Return what is known of some tokens of the stream; a text begins at character `start` of their document."""
    rows = diff.rows[site]
    k = sum(name.startswith("atom_") for name in rows)
    place = np.searchsorted(rows["token"], stream).clip(max=max(0, len(rows["token"]) - 1))
    known = rows["token"][place] == stream if len(rows["token"]) else np.zeros(len(stream), bool)
    columns = [np.stack([rows[f"{name}_{i}"][place] for i in range(k)], axis=1) for name in ("atom", "coefficient")]
    kl = diff.tokens["kl"][stream] if "kl" in diff.tokens else np.full(len(stream), np.nan)
    energy = np.where(known, rows["energy"][place], np.nan)
    explained = explained_by(columns[1].astype(np.float64), energy, rows["left"][place])
    starts, ends = (diff.tokens[name][stream] - start for name in ("char_start", "char_end"))
    return Shades(starts, ends, kl, energy, columns[0].astype(np.int64), np.where(known[:, None], explained, 0.0))


def explained_by(
    coefficients: Float[np.ndarray, "tokens k"],
    energy: Float[np.ndarray, " tokens"],
    left: Float[np.ndarray, " tokens"],
) -> Float[np.ndarray, "tokens k"]:
    """Divide the energy that each code explains over its atoms, by their squared coefficients.

    >>> explained_by(np.array([[3.0, 4.0]]), np.array([30.0]), np.array([5.0]))
    array([[ 9., 16.]])
    """
    squares = coefficients**2
    whole = squares.sum(axis=1, keepdims=True)
    return np.divide(squares, whole, out=np.zeros_like(squares), where=whole > 0) * (energy - left)[:, None]
