"""The overview of a run: its settings, what was measured, how its dictionaries grew and are used."""

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
from itda.explorer.run_cache import Dictionary, Opened

POINTS = 200
"""Of a curve: more than a screen shows tell nothing."""

SETTINGS = ("mode", "k", "order", "refine", "min_fidelity", "window", "bos")
MEASURES = ("fvu", "l0", "ce_loss_score", "kl", "unused_atoms", "tokens")
MEASURES += ("massive_tokens", "massive_energy", "fvu_all", "massive")


def overview(opened: Opened, run: str) -> dict[str, Any]:
    """Raises `StoreError` for a run that is not whole; a site that cannot be read has its trouble in its place."""
    record = opened.record(run)
    given: Mapping[str, Any] = record["settings"]
    sites = []
    for site in opened.sites(run):
        try:
            sites.append(_site(opened, run, str(site)))
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
        "growth": growth(opened.folder(run) / "log.jsonl", record["tokens"], _found(record, sites)),
    }


def _site(opened: Opened, run: str, site: str) -> dict[str, Any]:
    dictionary = opened.dictionary(run, site)
    measured = opened.metrics(run, Site.parse(site))
    return {
        "site": site,
        "atoms": len(dictionary.model),
        "d_model": dictionary.model.d_model,
        "k": dictionary.model.k,
        "pursuit": dictionary.model.pursuit,
        "threshold": dictionary.model.threshold,
        "metrics": {name: measured.get(name) for name in MEASURES} if measured is not None else None,
        "massive": dictionary.model.provenance.get("massive"),
        "use": use_values(dictionary),
        "trouble": dictionary.index_trouble,
    }


def use_values(dictionary: Dictionary) -> dict[str, Any] | None:
    """How often atoms are used, from the most to the least used, and how much of tokens is explained."""
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
    """The share explained of up to 100,000 indexed tokens that are not massive, evenly spread."""
    step = max(1, index.ordinary // 100_000)
    return 1 - np.clip(index.ordinary_errors()[::step], 0.0, 1.0)


def _found(record: Mapping[str, Any], sites: list[dict[str, Any]]) -> dict[str, int]:
    """Atoms at the end of the pass, before a crop to `--atoms`."""
    sizes = {site["site"]: site["atoms"] for site in sites if "atoms" in site}
    return sizes | {site: number for site, number in record.get("found", {}).items() if number is not None}


def growth(log: Path, at_last: int, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """Tokens read and atoms by then, for each site, up to `sizes` at the end; None where there is no log."""
    tokens: list[int] = [0]
    atoms: dict[str, list[int]] = {site: [0] for site in sizes}
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
    tokens.append(at_last)
    for site, number in sizes.items():
        atoms[site].append(number)
    if not sizes or any(len(each) != len(tokens) for each in atoms.values()):
        return None
    kept = sorted(set(np.linspace(0, len(tokens) - 1, POINTS).astype(int).tolist()))
    return {
        "tokens": [tokens[i] for i in kept],
        "atoms": {site: [each[i] for i in kept] for site, each in atoms.items()},
    }
