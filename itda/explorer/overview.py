"""The data of a run's overview page: settings, measures, growth of the dictionaries and use of their atoms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itda.core.batch import Site
from itda.errors import ItdaError
from itda.explorer.code_index import CodeIndex
from itda.explorer.contexts import rounded
from itda.explorer.run_cache import IndexedDictionary, RunCache

POINTS = 200
"""Points of a curve, at most: a screen cannot show more."""

SETTINGS = ("mode", "recipe", "k", "order", "refine", "min_fidelity", "window", "bos")
MEASURES = ("fvu", "l0", "ce_loss_score", "kl", "unused_atoms", "tokens")
MEASURES += ("massive_tokens", "massive_energy", "fvu_all", "massive")


def overview(runs: RunCache, run: str) -> dict[str, Any]:
    """Return the data of a run's overview page; for a site that cannot be read there is the error in its place.

    Raises `StoreError` for a run that is not whole.
    """
    record = runs.record(run)
    given: Mapping[str, Any] = record["settings"]
    sites = []
    for site in runs.sites(run):
        try:
            sites.append(_site(runs, run, str(site)))
        except ItdaError as error:
            sites.append({"site": str(site), "trouble": str(error)})
    return {
        "run": run,
        "model": record["model"],
        "revision": record["revision"],
        "corpus": record["corpus"],
        "part": record["corpus_part"],
        "fingerprint": record["fingerprint"],
        "tokens": record["tokens"],
        "seconds": record["seconds"],
        "device": record["device"],
        "versions": record["versions"],
        "settings": {name: given.get(name, record.get(name)) for name in SETTINGS},
        "sites": sites,
        "growth": growth(runs.folder(run) / "log.jsonl", record["tokens"], _atoms_at_end(record, sites)),
    }


def _site(runs: RunCache, run: str, site: str) -> dict[str, Any]:
    dictionary = runs.dictionary(run, site)
    measured = runs.metrics(run, Site.parse(site))
    return {
        "site": site,
        "atoms": len(dictionary.itda),
        "d_model": dictionary.itda.d_model,
        "k": dictionary.itda.k,
        "pursuit": dictionary.itda.pursuit,
        "threshold": dictionary.itda.threshold,
        "metrics": {name: measured.get(name) for name in MEASURES} if measured is not None else None,
        "massive": dictionary.itda.provenance.get("massive"),
        "use": use_values(dictionary),
        "replication": dictionary.itda.replication.summary() if dictionary.itda.replication is not None else None,
        "effects": dictionary.itda.effects.summary() if dictionary.itda.effects is not None else None,
        "trouble": dictionary.index_trouble,
    }


def use_values(dictionary: IndexedDictionary) -> dict[str, Any] | None:
    """Return how often atoms are used, the most used first, and a histogram of the explained shares of tokens."""
    index = dictionary.index
    if index is None:
        return None
    ranked = np.sort(index.counts)[::-1]
    places = np.unique(np.geomspace(1, len(ranked), POINTS).astype(np.int64)) if len(ranked) else np.zeros(0, int)
    counts, edges = np.histogram(_explained_sample(index), bins=20, range=(0.0, 1.0))
    return {
        "tokens": index.tokens,
        "massive": len(index.massive),
        "unused": int((index.counts == 0).sum()),
        "by_rank": [places.tolist(), ranked[places - 1].tolist()],
        "explained": {"edges": [rounded(edge) for edge in edges.tolist()], "counts": counts.tolist()},
    }


def _explained_sample(index: CodeIndex) -> np.ndarray:
    """Return the explained shares of up to 100,000 indexed tokens that are not massive, evenly spread."""
    step = max(1, index.ordinary // 100_000)
    return 1 - np.clip(index.ordinary_errors()[::step], 0.0, 1.0)


def _atoms_at_end(record: Mapping[str, Any], sites: list[dict[str, Any]]) -> dict[str, int]:
    """Return the atoms of each site at the end of the pass, before a crop to `--atoms`; none if nothing grew."""
    if not grew(record["settings"]):
        return {}
    atoms = {site["site"]: site["atoms"] for site in sites if "atoms" in site}
    return atoms | {site: number for site, number in record.get("found", {}).items() if number is not None}


def grew(made: Mapping[str, Any]) -> bool:
    """Return True if a run's dictionaries grew, by its settings: recipe 2 makes a given number of atoms in the end."""
    return made.get("recipe") != 2 or made.get("atoms") is None


def growth(log: Path, tokens_at_end: int, atoms_at_end: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the curve of atoms over tokens read, for each site, from a run's log.jsonl; None if there is no curve."""
    tokens: list[int] = [0]
    atoms: dict[str, list[int]] = {site: [0] for site in atoms_at_end}
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        try:
            entry = json.loads(line)
            counts = {str(site): int(number) for site, number in entry["atoms"].items()}
            tokens.append(int(entry["tokens"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line cut short
        for site, number in counts.items():
            atoms.setdefault(site, []).append(number)
    tokens.append(tokens_at_end)
    for site, number in atoms_at_end.items():
        atoms[site].append(number)
    if not atoms_at_end or any(len(each) != len(tokens) for each in atoms.values()):
        return None
    kept = sorted(set(np.linspace(0, len(tokens) - 1, POINTS).astype(int).tolist()))
    return {
        "tokens": [tokens[i] for i in kept],
        "atoms": {site: [each[i] for i in kept] for site, each in atoms.items()},
    }
