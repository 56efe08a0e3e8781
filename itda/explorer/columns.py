"""The list of atoms in parts: all numbers at once, packed, and the texts of the rows in sight."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from itda.core.effects import AtomEffects
from itda.errors import MissingError, SettingError
from itda.explorer.queries import Query
from itda.explorer.run_cache import IndexedDictionary
from itda.explorer.search import Search

MOST_ROWS = 400
"""Rows whose texts one question may ask for."""


def number_columns(dictionary: IndexedDictionary) -> dict[str, np.ndarray | None]:
    """Return what is known of each atom as numbers [atoms], by name; None for a column that is not known."""
    itda, index = dictionary.itda, dictionary.index
    return {
        "uses": index.counts if index is not None else None,
        "strongest": index.strongest if index is not None else None,
        "fidelity": itda.fidelity.numpy() if itda.fidelity is not None else None,
        "novelty": itda.novelty.numpy() if itda.novelty is not None else None,
        "replication": itda.replication.share if itda.replication is not None else None,
        **{f"effect_{target}": beyond_control(itda.effects, target) for target in ("continuation", "promoted")},
    }


def beyond_control(found: AtomEffects | None, target: str) -> np.ndarray | None:
    """Return what adding each atom does to a target of its own, beyond its controls; NaN for atoms not measured."""
    if found is None:
        return None
    measure = found.measures[f"added_{target}"]
    return measure.effect - measure.control


def packed_columns(dictionary: IndexedDictionary) -> dict[str, Any]:
    """Return the numbers of all atoms, each column as float32 in base64: a hundred thousand atoms take a megabyte."""
    replication = dictionary.itda.replication
    return {
        "atoms": len(dictionary.itda),
        "packed": {name: packed(values) for name, values in number_columns(dictionary).items() if values is not None},
        "replicates": packed(replication.replicates) if replication is not None else None,
        "tokens": dictionary.index.tokens if dictionary.index is not None else None,
        "trouble": dictionary.index_trouble,
    }


def packed(values: np.ndarray) -> str:
    """Return an array as little-endian float32 in base64.

    >>> packed(np.array([0.0, 1.0]))
    'AAAAAAAAgD8='
    """
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def rows_asked(query: Query, atoms: int) -> list[int]:
    """Return the atoms that a query lists, such as `atoms=3,17`. Raises `SettingError`, `MissingError`."""
    parts = [part for part in query.get("atoms", "").split(",") if part]
    if len(parts) > MOST_ROWS or any(not (part.isascii() and part.isdecimal() and len(part) <= 18) for part in parts):
        raise SettingError(f"atoms are not up to {MOST_ROWS} numbers: write them as 3,17,25")
    found = [int(part) for part in parts]
    wrong = [atom for atom in found if atom >= atoms]
    if wrong:
        raise MissingError(f"no atom {wrong[0]:,}: use one from 0 to {atoms - 1:,}")
    return found


def text_rows(dictionary: IndexedDictionary, atoms: list[int], search: Search | None, notes: dict[int, str]) -> Any:
    """Return the texts of some atoms as columns, and where a search found each: [start, end] in its text, or null."""
    shown = [dictionary.shown_of(atom) for atom in atoms]
    documents = [str(dictionary.itda.labels.document[atom]) for atom in atoms]
    partial_ids = dictionary.index.text.partial_ids if dictionary.index is not None else {}
    token_ids = [int(dictionary.itda.labels.token_id[atom]) for atom in atoms]
    match = None
    if search is not None:
        looked = {
            "text": ["".join(each) for each in shown],
            "token": [each[1] for each in shown],
            "document": documents,
            "note": [notes.get(atom, "") for atom in atoms],
        }
        match = [search.finds(text) for text in looked["token" if search.where == "exact" else search.where]]
    return {
        "atoms": atoms,
        "before": [each[0] for each in shown],
        "token": [each[1] for each in shown],
        "after": [each[2] for each in shown],
        "bytes": [partial_ids.get(token) for token in token_ids],
        "document": documents,
        "match": match,
    }
