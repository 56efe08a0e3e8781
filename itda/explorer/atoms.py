"""The data of the page of one atom and of the list of all atoms, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from itda.core.labels import Label
from itda.core.replication import Replication
from itda.explorer.code_index import CodeIndex
from itda.explorer.columns import number_columns
from itda.explorer.contexts import example, rounded
from itda.explorer.run_cache import IndexedDictionary

TOP, PER_BAND, NEAREST = 10, 3, 8
"""Examples of the largest uses, examples from each band, and nearest atoms that a page shows."""
BANDS = ((0.9, 1.0), (0.75, 0.9), (0.5, 0.75), (0.25, 0.5), (0.0, 0.25))
"""Ranges of quantiles of an atom's positive coefficients; examples are shown from each of them."""

SEARCHED = 30
"""Uses looked through for each example shown, at most: a use with a context that was shown already is skipped."""

BARS = 32
"""Bars of the histogram of an atom's coefficients."""


def atom_list(dictionary: IndexedDictionary) -> dict[str, Any]:
    """Return the list of atoms as columns: token and text around it, uses, fidelity, novelty, replication, effects."""
    itda, index = dictionary.itda, dictionary.index
    before, token, after = ([each[i] for each in dictionary.shown] for i in range(3))
    documents: dict[str, int] = {}
    document = [documents.setdefault(name, len(documents)) for name in itda.labels.document.tolist()]
    return {
        "atoms": len(itda),
        "before": before,
        "token": token,
        "after": after,
        "bytes": partial_tokens(dictionary, itda.labels.token_id),
        "documents": list(documents),
        "document": document,
        **{name: None if each is None else _column(each) for name, each in number_columns(dictionary).items()},
        "replicates": itda.replication.replicates.tolist() if itda.replication is not None else None,
        "tokens": index.tokens if index is not None else None,
        "trouble": dictionary.index_trouble,
    }


def _column(values: np.ndarray) -> list[float | None] | list[int]:
    if values.dtype.kind == "i":
        return values.tolist()
    return [None if value != value else float(f"{value:.4g}") for value in values.tolist()]


def partial_tokens(dictionary: IndexedDictionary, token_ids: np.ndarray) -> dict[str, str]:
    """Return the bytes in hexadecimal, by row, of those tokens that are not whole characters."""
    if dictionary.index is None:
        return {}
    partial_ids = dictionary.index.text.partial_ids
    if not partial_ids:
        return {}
    return {str(row): partial_ids[i] for row, i in enumerate(token_ids.tolist()) if i in partial_ids}


def atom_page(dictionary: IndexedDictionary, atom: int) -> dict[str, Any]:
    """Return the data of an atom's page that can be had without the language model."""
    itda = dictionary.itda
    label = itda.labels[atom]
    return {
        "atom": atom,
        "atoms": len(itda),
        "label": label_values(label, dictionary),
        "fidelity": rounded(itda.fidelity[atom].item()) if itda.fidelity is not None else None,
        "novelty": rounded(itda.novelty[atom].item()) if itda.novelty is not None else None,
        "replication": replication_values(itda.replication, atom) if itda.replication is not None else None,
        "effects": {"strength": itda.effects.about["strength"], **itda.effects.values(atom)}
        if itda.effects is not None
        else None,
        "threshold": itda.threshold,
        "nearest": nearest(dictionary, atom),
        "activations": nearest_activations(dictionary, atom),
        "uses": use_values(dictionary.index, atom) if dictionary.index is not None else None,
        "trouble": dictionary.index_trouble,
    }


def replication_values(found: Replication, atom: int) -> dict[str, Any]:
    """Return how often an atom came back from other documents, and what all atoms and chance are beside it."""
    tokens, summary = int(found.tokens[atom]), found.summary()
    return {
        "share": rounded(float(found.share[atom])),
        "replicates": bool(found.replicates[atom]),
        "draws": found.draws,
        "cosine": found.cosine,
        "cosines": [rounded(each) for each in found.cosines[atom].tolist()],
        "strongest": rounded(int(found.kept[atom]) / tokens) if tokens else None,
        "tokens": tokens,
        "mean": rounded(summary["mean"]),
        "chance": rounded(found.chance),
    }


def label_values(label: Label, dictionary: IndexedDictionary) -> dict[str, Any]:
    """Return a label with the whole window of text that the model read."""
    index = dictionary.index
    return {
        "document": label.document,
        "position": label.position,
        "before": label.before,
        "token": label.token,
        "after": label.after,
        "bytes": index.text.partial_ids.get(label.token_id) if index is not None else None,
    }


def nearest(dictionary: IndexedDictionary, atom: int) -> list[dict[str, Any]]:
    """Return the other atoms with the largest cosine to an atom, the nearest first."""
    atoms = dictionary.itda.atoms
    cosines = atoms @ atoms[atom]
    cosines[atom] = -torch.inf
    best = cosines.topk(min(NEAREST, len(atoms) - 1))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        {"atom": i, "cosine": rounded(cosine), "text": dictionary.shown_of(i), "unreplicated": dictionary.no_finding(i)}
        for i, cosine in found
    ]


def nearest_activations(dictionary: IndexedDictionary, atom: int) -> list[dict[str, Any]]:
    """Return the activations nearest to an atom in other documents, the nearest first; none if they are not known."""
    found = dictionary.itda.nearest
    if found is None:
        return []
    return [{**label_values(label, dictionary), "cosine": rounded(cosine)} for label, cosine in found.of(atom)]


def use_values(index: CodeIndex, atom: int) -> dict[str, Any]:
    """Return how an atom is used: counts, a histogram of its coefficients, and examples from the largest down."""
    tokens, coefficients = index.uses(atom)
    values: dict[str, Any] = {
        "tokens": index.tokens,
        "uses": len(tokens),
        "corpus": index.record["corpus"],
        "part": index.record["corpus_part"],
        "negative": int((coefficients < 0).sum()),
        "median": rounded(float(np.median(np.abs(coefficients)))) if len(tokens) else None,
        "steps": index.steps(atom).tolist(),
        "histogram": None,
        "groups": [],
    }
    if len(tokens):
        edges = np.linspace(coefficients[-1], coefficients[0], BARS + 1)
        # The coefficients are sorted, so a search for each edge is enough: there may be a million uses.
        counts = np.diff(np.searchsorted(coefficients[::-1], [*edges[:-1], np.inf]))
        values["histogram"] = {"counts": counts.tolist(), "edges": [rounded(edge) for edge in edges.tolist()]}
        values["groups"] = list(_groups(index, atom, tokens, coefficients))
    return values


def _groups(index: CodeIndex, atom: int, tokens: np.ndarray, coefficients: np.ndarray) -> Iterator[dict[str, Any]]:
    positive = int((coefficients > 0).sum())  # they come first
    shown: set[tuple[str, ...]] = set()
    taken: set[int] = set()

    def group(kind: str, ranks: np.ndarray, most: int, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
        examples: list[dict[str, Any]] = []
        for rank in ranks[: most * SEARCHED].tolist():
            if len(examples) == most:
                break
            context = tuple(index.text.token_strings_around(int(tokens[rank]), 4, 2))
            if rank in taken or context in shown:
                continue
            taken.add(rank)
            shown.add(context)
            examples.append(example(index, int(tokens[rank]), atom, float(coefficients[rank])))
        whole = coefficients[ranks.min() : ranks.max() + 1] if len(ranks) else np.zeros(0)
        ends = [rounded(float(whole.min())), rounded(float(whole.max()))] if len(whole) else None
        return {"kind": kind, "quantiles": [low, high], "range": ends, "uses": len(whole), "examples": examples}

    if positive:
        yield group("top", np.arange(positive), TOP)
        for low, high in BANDS:
            first, last = round(positive * (1 - high)), round(positive * (1 - low))
            if last > first:
                yield group("band", spread(first, last), PER_BAND, low, high)
    if positive < len(tokens):
        yield group("negative", np.arange(len(tokens) - 1, positive - 1, -1), TOP // 2)


def spread(first: int, last: int) -> np.ndarray:
    """Return ranks from `first` up to `last` in an order whose first few, however many, are spread evenly."""
    number = last - first
    if number <= 1:
        return np.arange(first, last)
    bits = min(int(number - 1).bit_length(), 10)
    ranks = (first + (_reversed(bits) + 0.5) * number / (1 << bits)).astype(np.int64)
    return ranks[np.sort(np.unique(ranks, return_index=True)[1])]


@cache
def _reversed(bits: int) -> np.ndarray:
    """Return 0, 1, 2 ... with bits reversed (van der Corput): first the middle, then the middles of the halves."""
    return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)])
