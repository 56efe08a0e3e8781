"""Fingerprints in the explorer: read, compared with each other, and their corpus opened again for its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.errors import CorpusError
from itda.explorer.fingerprints import FingerprintPages, names_of
from itda.recipes.compare_fingerprints import compare_several, fingerprint_comparison_values
from itda.recipes.runs import finite, reopened_corpus
from itda.sources.corpora.document import Document
from itda.store.fingerprints import Fingerprint, load_fingerprint


def fingerprint_pages(paths: tuple[Path, ...], corpus_path: str | None = None) -> FingerprintPages:
    """Read fingerprints for the explorer and compare every pair of them, so that bad ones are refused at once.

    `corpus_path` is where their corpus is now, if it was moved. Raises an `ItdaError` for one that cannot be read, or
    two that cannot be compared.
    """
    read = [load_fingerprint(path) for path in paths]
    pairs = compare_several([(str(path), made) for path, made in zip(paths, read, strict=True)])
    known = {(pair.a, pair.b): _shown(pair) for pair in pairs}
    places = dict(zip(names_of(paths), map(str, paths), strict=True))
    fingerprints = dict(zip(places, read, strict=True))

    def alike(a: str, b: str) -> Mapping[str, Any]:
        asked = places[a], places[b]
        if asked not in known:
            several = [(place, fingerprints[name]) for place, name in zip(asked, (a, b), strict=True)]
            known[asked] = _shown(compare_several(several[: 1 if a == b else 2])[0])
        return known[asked]

    def documents(name: str) -> Iterable[Document]:
        return _corpus_of(fingerprints[name], places[name], corpus_path)

    return FingerprintPages(fingerprints, alike, documents)


def _shown(pair: Any) -> dict[str, Any]:
    """Return what the page shows of a comparison, as JSON values: THE index, how sure it is, and of what."""
    values = finite(fingerprint_comparison_values([pair]))
    (found,) = values["pairs"]
    kept = ("kind", "tokens", "documents", "shares", "matched_by", "sites", "intervals", "lead", "union", "massive")
    shown = {name: found[name] for name in (*kept, "differences")}
    return {**shown, "index": values["index"], "matrix": found["matrices"][values["index"]]}


def _corpus_of(made: Fingerprint, place: str, corpus_path: str | None) -> Iterable[Document]:
    """Open the corpus that a fingerprint was made from. Raises `CorpusError` if it is not there, or has changed."""
    if not made.about.get("corpus"):
        raise CorpusError(f"{place} does not say of which corpus it is: make it anew to see the text of its tokens")
    corpus = reopened_corpus(made.about, place, settings.RunCorpusOptions(corpus_path=corpus_path))
    if corpus.fingerprint != made.about.get("fingerprint"):
        raise CorpusError(
            f"{corpus_path or made.about['corpus']} has changed since {place} was made (another Python, or "
            "changed files): name the one that was with --corpus-path"
        )
    return corpus
