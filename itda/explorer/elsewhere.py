"""An atom in other dictionaries: the same label at the other sites and runs, and the nearest atoms of other runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from itda.core.labels import Label
from itda.errors import ItdaError
from itda.explorer.contexts import rounded
from itda.explorer.run_cache import IndexedDictionary, RunCache

NEAREST = 5
"""Nearest atoms of another run that are shown."""


def elsewhere(runs: RunCache, run: str, site: str, atom: int) -> dict[str, Any]:
    """Return where else an atom's label is, and the atoms of other runs of the same model and site nearest to it.

    What cannot be read is left out.
    """
    own = runs.dictionary(run, site)
    label = own.itda.labels[atom]
    same, near = [], []
    for other, at in _others(runs, run, site):
        try:
            dictionary = runs.dictionary(other, at)
            number = dictionary.numbers.get(_key(label))
            if number is not None:
                same.append({"run": other, "site": at, "atom": number, "unreplicated": dictionary.no_finding(number)})
            if at == site and _same_model(runs, run, other):
                near.append({"run": other, "site": at, "atoms": _nearest(own, dictionary, atom)})
        except ItdaError:
            continue
    return {"same": same, "near": near, "sites": len(runs.sites(run)), "runs": len(runs.folders)}


def _others(runs: RunCache, run: str, site: str) -> Iterator[tuple[str, str]]:
    for other in runs.folders:
        try:
            sites = [str(each) for each in runs.sites(other)]
        except ItdaError:
            continue
        yield from ((other, each) for each in sites if (other, each) != (run, site))


def _key(label: Label) -> tuple[str, int]:
    # By the end of the token, so that models with other tokenizers have it too.
    return label.document, label.char_end


def _same_model(runs: RunCache, a: str, b: str) -> bool:
    left, right = runs.record(a), runs.record(b)
    return a != b and all(left.get(name) == right.get(name) for name in ("model", "revision"))


def _nearest(own: IndexedDictionary, other: IndexedDictionary, atom: int) -> list[dict[str, Any]]:
    """Return the atoms of another dictionary with the largest cosine to an atom, the nearest first."""
    if other.itda.d_model != own.itda.d_model or not len(other.itda):
        return []
    cosines = other.itda.atoms @ own.itda.atoms[atom]
    best = cosines.topk(min(NEAREST, len(cosines)))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        {"atom": i, "cosine": rounded(cosine), "text": other.shown_of(i), "unreplicated": other.no_finding(i)}
        for i, cosine in found
    ]
