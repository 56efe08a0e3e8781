"""The first page of a run: what it is, how good, ten atoms worth seeing, and prompts to try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from itda.core.batch import Site
from itda.explorer.contexts import example, rounded
from itda.explorer.run_cache import IndexedDictionary, RunCache

WORTH = 10
"""Atoms that the page shows."""
LEAST_USES, MOST_USED = 20, 0.05
"""Uses that an atom worth seeing has at least, and the share of tokens that it has at most."""
ALIKE = 0.5
"""Cosine from which an atom is too much like one that is shown already."""
LOOKED_AT = 400
"""Atoms of the best ones by rank that are looked at for ten different ones."""
EXAMPLES, PROMPTS = 2, 3
"""Uses shown of each atom, and prompts offered."""
PROMPT_BEFORE, PROMPT_AFTER = 160, 30
"""Characters of a prompt before its atom's token, at most, and after it."""


def landing(runs: RunCache, run: str, site: str) -> dict[str, Any]:
    """Return the data of the first page. Raises `StoreError` for a run that is not whole."""
    record, dictionary = runs.record(run), runs.dictionary(run, site)
    itda, measured = dictionary.itda, runs.metrics(run, Site.parse(site))
    kept = dictionary.first_page
    if not kept:
        kept |= {"best": list(worth_seeing(dictionary)), "explained": _explained(dictionary)}
    best = kept["best"]
    return {
        **{name: record[name] for name in ("model", "corpus", "tokens", "window")},
        "part": record["corpus_part"],
        "revision": record["revision"],
        "atoms": len(itda),
        "d_model": itda.d_model,
        "k": itda.k,
        "centres": itda.provenance.get("refinement", {}).get("recipe") == 2,
        "measured": None if measured is None else {name: measured.get(name) for name in ("fvu", "ce_loss_score", "l0")},
        "verdict": [] if measured is None else list(measured.get("verdict", ())),
        "explained": kept["explained"],
        "replication": itda.replication.summary() if itda.replication is not None else None,
        "best": [_shown(dictionary, atom) for atom in best],
        "prompts": [_prompt(dictionary, atom) for atom in best[:PROMPTS]],
        "trouble": dictionary.index_trouble,
    }


def worth_seeing(dictionary: IndexedDictionary) -> Iterator[int]:
    """Yield atoms worth seeing: used often but not everywhere, picked first where they are used, that replicate.

    No two have one token, and none is much like another that is shown.
    """
    itda = dictionary.itda
    shown: list[int] = []
    tokens: set[str] = set()
    for atom in _ranked(dictionary)[:LOOKED_AT].tolist():
        token = itda.labels[atom].token.strip().lower()
        if token in tokens or (shown and float((itda.atoms[shown] @ itda.atoms[atom]).max()) > ALIKE):
            continue
        tokens.add(token)
        shown.append(atom)
        yield atom
        if len(shown) == WORTH:
            return


def _ranked(dictionary: IndexedDictionary) -> np.ndarray:
    """Return the atoms, those most worth seeing first; of equals the one that was added first."""
    itda, index = dictionary.itda, dictionary.index
    score = np.ones(len(itda))
    if index is not None:
        uses = index.counts.astype(np.float64)
        fits = (uses >= min(LEAST_USES, index.tokens // 1000)) & (uses <= MOST_USED * index.tokens)
        first = index.first_picks / np.maximum(1, uses)
        score = np.where(fits, 1.0, 0.01) * np.log1p(uses) * first
    if itda.replication is not None:
        score *= np.where(itda.replication.replicates, 0.5 + itda.replication.share, 0.01)
    found = np.argsort(-score, kind="stable")[: 4 * LOOKED_AT]
    # A token without a letter says less to a reader; only the best are asked, as labels take time.
    wordy = np.array([any(c.isalpha() for c in itda.labels[atom].token) for atom in found.tolist()], dtype=bool)
    return found[np.argsort(-score[found] * np.where(wordy, 1.0, 0.25), kind="stable")]


def _shown(dictionary: IndexedDictionary, atom: int) -> dict[str, Any]:
    label, index, replication = dictionary.itda.labels[atom], dictionary.index, dictionary.itda.replication
    examples = []
    if index is not None:
        found, coefficients = index.uses(atom)
        seen: set[tuple[str, ...]] = set()
        for token, coefficient in zip(found[:50].tolist(), coefficients[:50].tolist(), strict=True):
            context = tuple(index.text.token_strings_around(token, 4, 2))
            if context not in seen and coefficient > 0:
                seen.add(context)
                examples.append(example(index, token, atom, coefficient))
            if len(examples) == EXAMPLES:
                break
    return {
        "atom": atom,
        "text": [label.before[-PROMPT_BEFORE:], label.token, label.after[:48]],
        "bytes": index.text.partial_ids.get(label.token_id) if index is not None else None,
        "uses": int(index.counts[atom]) if index is not None else None,
        "tokens": index.tokens if index is not None else None,
        "replication": rounded(float(replication.share[atom])) if replication is not None else None,
        "examples": examples,
    }


def _prompt(dictionary: IndexedDictionary, atom: int) -> str:
    """Return a text to try: what stands around an atom's token, from the beginning of a word on."""
    label = dictionary.itda.labels[atom]
    before = label.before[-PROMPT_BEFORE:]
    if len(before) < len(label.before):
        before = before[before.find(" ") + 1 :]
    after = label.after[:PROMPT_AFTER]
    return before.lstrip() + label.token + (after.rpartition(" ")[0] or after)


def _explained(dictionary: IndexedDictionary) -> float | None:
    """Return the mean share of a token's activation that its atoms explain, over the index; None without one."""
    if dictionary.index is None:
        return None
    errors = dictionary.index.ordinary_errors()[:: max(1, dictionary.index.ordinary // 100_000)]
    return rounded(1 - float(torch.from_numpy(errors).clamp(0, 1).mean())) if len(errors) else None
