"""What the page of one atom shows, and the list of all atoms: pure data, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from itda.core.labels import Label
from itda.explorer.code_index import CodeIndex
from itda.explorer.contexts import example, rounded
from itda.explorer.run_cache import Dictionary

TOP, PER_BAND, NEAREST = 10, 3, 8
BANDS = ((0.9, 1.0), (0.75, 0.9), (0.5, 0.75), (0.25, 0.5), (0.0, 0.25))
"""Quantiles of an atom's positive coefficients, from which examples are shown beside the largest."""

SEARCHED = 30
"""How many uses are looked at for each example shown: those with a context that was shown already are left out."""

BARS = 32


def atom_list(dictionary: Dictionary) -> dict[str, Any]:
    """Columns with a row per atom: its prompt around its token, how often it is used, how faithful and new it is."""
    model, index = dictionary.model, dictionary.index
    before, token, after = ([each[i] for each in dictionary.shown] for i in range(3))
    documents: dict[str, int] = {}
    document = [documents.setdefault(name, len(documents)) for name in model.labels.document.tolist()]
    return {
        "atoms": len(model),
        "before": before,
        "token": token,
        "after": after,
        "bytes": partial_tokens(dictionary, model.labels.token_id),
        "documents": list(documents),
        "document": document,
        "uses": index.counts.tolist() if index is not None else None,
        "strongest": _column(index.strongest) if index is not None else None,
        "fidelity": _column(model.fidelity.numpy()) if model.fidelity is not None else None,
        "novelty": _column(model.novelty.numpy()) if model.novelty is not None else None,
        "tokens": index.tokens if index is not None else None,
        "trouble": dictionary.index_trouble,
    }


def _column(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def partial_tokens(dictionary: Dictionary, token_ids: np.ndarray) -> dict[str, str]:
    """The bytes, in hexadecimal, of those tokens that are not whole characters, by row."""
    if dictionary.index is None:
        return {}
    pieces = dictionary.index.text.partial_ids
    if not pieces:
        return {}
    return {str(row): pieces[i] for row, i in enumerate(token_ids.tolist()) if i in pieces}


def atom_page(dictionary: Dictionary, atom: int) -> dict[str, Any]:
    """Everything about one atom that needs no language model."""
    model = dictionary.model
    label = model.labels[atom]
    return {
        "atom": atom,
        "atoms": len(model),
        "label": label_values(label, dictionary),
        "fidelity": rounded(model.fidelity[atom].item()) if model.fidelity is not None else None,
        "novelty": rounded(model.novelty[atom].item()) if model.novelty is not None else None,
        "threshold": model.threshold,
        "nearest": nearest(dictionary, atom),
        "uses": use_values(dictionary.index, atom) if dictionary.index is not None else None,
        "trouble": dictionary.index_trouble,
    }


def label_values(label: Label, dictionary: Dictionary) -> dict[str, Any]:
    """A label with the whole window of text that the model saw."""
    index = dictionary.index
    return {
        "document": label.document,
        "position": label.position,
        "before": label.before,
        "token": label.token,
        "after": label.after,
        "bytes": index.text.partial_ids.get(label.token_id) if index is not None else None,
    }


def nearest(dictionary: Dictionary, atom: int) -> list[dict[str, Any]]:
    """The atoms with the largest cosine to one, that one left out."""
    atoms = dictionary.model.atoms
    cosines = atoms @ atoms[atom]
    cosines[atom] = -torch.inf
    best = cosines.topk(min(NEAREST, len(atoms) - 1))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"atom": i, "cosine": rounded(cosine), "text": dictionary.shown[i]} for i, cosine in found]


def use_values(index: CodeIndex, atom: int) -> dict[str, Any]:
    """How an atom is used: numbers, histograms, and examples from the largest coefficient down."""
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
        # They are sorted: a search for each edge instead of a look at each of a million uses.
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
            context = tuple(index.text.pieces_around(int(tokens[rank]), 4, 2))
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
                yield group("band", _spread(first, last), PER_BAND, low, high)
    if positive < len(tokens):
        yield group("negative", np.arange(len(tokens) - 1, positive - 1, -1), TOP // 2)


def _spread(first: int, last: int) -> np.ndarray:
    """All ranks from first to last, those that halve the range before those that halve its halves, and so on."""
    number = last - first
    if number <= 1:
        return np.arange(first, last)
    # Reversed bits of 0, 1, 2 ... (van der Corput): any first few of them are spread evenly.
    bits = min(int(number - 1).bit_length(), 10)
    order = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)])
    ranks = (first + (order + 0.5) * number / (1 << bits)).astype(np.int64)
    return ranks[np.sort(np.unique(ranks, return_index=True)[1])]
