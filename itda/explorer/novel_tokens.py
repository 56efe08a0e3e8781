"""Tokens that are new to a site of one fingerprint and not to a site of another, with their text, as values for JSON.

A fingerprint holds no text: where its tokens end in which document. `Texts` brings the beginnings of the documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from itda.core.similarity.fingerprint import LEFT_OUT, STEPS, TokenNovelty
from itda.core.similarity.overlap import Universe
from itda.core.site import Site
from itda.core.tokens import Tokens
from itda.explorer.contexts import rounded
from itda.explorer.run_cache import AFTER, BEFORE
from itda.sources.corpora.document import Document
from itda.store.fingerprints import Fingerprint

MOST = 2000
"""Tokens that a list has, at most: the first, whose novelties differ most."""

PASSAGE_BEFORE, PASSAGE_AFTER = 500, 250
"""Characters before and after a token on its own page."""

Texts = Mapping[str, str]
"""The beginnings of documents, by id."""


@dataclass(frozen=True, eq=False)
class NovelPair:
    """Two fingerprints at the tokens that both read. A token's number is its place among these."""

    a: Fingerprint
    b: Fingerprint
    universe: Universe

    @staticmethod
    def of(a: Fingerprint, b: Fingerprint) -> NovelPair:
        """Pair two fingerprints that can be compared. Raises `SettingError` if they have no token in common."""
        by_end = a.about.get("tokenizer") != b.about.get("tokenizer")
        return NovelPair(a, b, Universe.of([a.tokens, b.tokens], by_end=by_end))

    def __len__(self) -> int:
        return len(self.universe.keys)

    @cached_property
    def rows(self) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, " tokens"]]:
        """The row of each token in the table of a, and in that of b."""
        return self.universe.rows_of(self.a.tokens), self.universe.rows_of(self.b.tokens)

    @cached_property
    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Where in its document each row of the table of a begins, and each of that of b."""
        return starts_of(self.a.tokens), starts_of(self.b.tokens)


def starts_of(tokens: Tokens) -> Int64[np.ndarray, " tokens"]:
    """Return the character at which each token begins: where the token before it in its document ends.

    >>> tokens = Tokens(["a", "b"], *(np.array(column, np.int32) for column in ([0, 0, 1], [0, 1, 0], [2, 5, 4])))
    >>> starts_of(tokens).tolist()
    [0, 2, 0]
    """
    order = np.lexsort((tokens.position, tokens.document))
    document, end = tokens.document[order], tokens.char_end[order].astype(np.int64)
    before = np.zeros_like(end)
    if len(end):
        same = document[1:] == document[:-1]
        before[1:][same] = end[:-1][same]
        # The beginning of the document was not read: of such a token the last character is known alone.
        unknown = np.concatenate([[True], ~same]) & (tokens.position[order] > 0)
        before[unknown] = end[unknown] - 1
    # A token that ends where the one before it does is a part of a character, and has all of it for a text.
    start = np.empty_like(end)
    start[order] = np.minimum(before, end - 1).clip(0)
    return start


def texts_of(documents: Iterable[Document], several: Iterable[Fingerprint]) -> dict[str, str]:
    """Read the documents that some fingerprints are of, as far as their tokens go and a passage beyond.

    Stops as soon as all are found. Raises `CorpusError` if a file cannot be read.
    """
    needed: dict[str, int] = {}
    for made in several:
        ends = np.zeros(len(made.tokens.documents), np.int64)
        np.maximum.at(ends, made.tokens.document, made.tokens.char_end)
        for name, end in zip(made.tokens.documents, ends.tolist(), strict=True):
            needed[name] = max(needed.get(name, 0), end + PASSAGE_AFTER)
    found: dict[str, str] = {}
    for document in documents if needed else ():
        if document.id in needed and document.id not in found:
            found[document.id] = document.beginning(needed[document.id])
            if len(found) == len(needed):
                break
    return found


def novel_lists(pair: NovelPair, sites: tuple[Site, Site], rung: int | None, texts: Texts | None) -> dict[str, Any]:
    """Return the tokens that are atoms at a rung at one of two sites alone, the most different in novelty first.

    Without a rung, return those that are more novel at one than at the other. `texts` is None where the corpus is not
    there; the lists have documents and offsets then.
    """
    left, right = (made[site] for made, site in zip((pair.a, pair.b), sites, strict=True))
    novelty = np.stack([each.novelty[rows] for each, rows in zip((left, right), pair.rows, strict=True)])
    there = (novelty != LEFT_OUT).all(axis=0)
    more = novelty[0].astype(np.int64) - novelty[1]
    if rung is None:
        only_a, only_b, both = there & (more > 0), there & (more < 0), there & (more == 0)
    else:
        in_a, in_b = (each.is_atom(rung)[rows] & there for each, rows in zip((left, right), pair.rows, strict=True))
        only_a, only_b, both = in_a & ~in_b, in_b & ~in_a, in_a & in_b
    lists: dict[str, Any] = {}
    for side, (name, chosen, by) in enumerate((("only_a", only_a, more), ("only_b", only_b, -more))):
        tokens = np.flatnonzero(chosen)
        tokens = tokens[np.argsort(-by[tokens], kind="stable")][:MOST]
        lists[name] = _columns(pair, tokens, side, texts) | {
            "more": _shares(by[tokens]),
            "novelty": [_shares(each[tokens]) for each in novelty],
        }
    counts = {"both": both, "only_a": only_a, "only_b": only_b, "tokens": there}
    threshold = pair.a.settings.rungs[rung] if rung is not None else None
    return {
        **lists,
        "counts": {name: int(each.sum()) for name, each in counts.items()},
        "threshold": threshold,
        "most": MOST,
    }


def token_page(pair: NovelPair, token: int, texts: Texts | None) -> dict[str, Any]:
    """Return one token: its passage, as each of the two reads it, and its novelty and rungs at every site of both."""
    sides = []
    for side, made in enumerate((pair.a, pair.b)):
        row = int(pair.rows[side][token])
        sites = [{"site": str(site), **_at(found, row, len(made.settings.rungs))} for site, found in made.sites.items()]
        sides.append({"sites": sites, "passage": _passage(pair, token, side, texts)})
    columns = _columns(pair, np.array([token]), 0, None)
    place = {"document": columns["documents"][0], "position": columns["position"][0], "end": columns["end"][0]}
    return {"token": token, "tokens": len(pair), **place, "a": sides[0], "b": sides[1]}


def _at(found: TokenNovelty, row: int, rungs: int) -> dict[str, Any]:
    """Return what a site says of one token, at each rung too: None for the novelty of a massive activation."""
    massive = bool(found.massive[row])
    share = None if massive else rounded(int(found.novelty[row]) / STEPS)
    return {
        "novelty": share,
        "is_atom": [bool(int(found.bits[row]) >> rung & 1) and not massive for rung in range(rungs)],
    }


def _shares(steps: np.ndarray) -> list[float]:
    return (steps / STEPS).round(4).tolist()


def _columns(pair: NovelPair, tokens: np.ndarray, side: int, texts: Texts | None) -> dict[str, Any]:
    """Return some tokens, as one of the two reads them: number, document, position, end, and text around it."""
    made = (pair.a, pair.b)[side].tokens
    rows = pair.rows[side][tokens]
    names: dict[str, int] = {}
    document = [names.setdefault(made.documents[i], len(names)) for i in made.document[rows].tolist()]
    pieces = [_around(pair, int(row), side, texts, BEFORE, AFTER) for row in rows] if texts is not None else None
    return {
        "token": tokens.tolist(),
        "documents": list(names),
        "document": document,
        "position": made.position[rows].tolist(),
        "end": made.char_end[rows].tolist(),
        "text": pieces,
    }


def _passage(pair: NovelPair, token: int, side: int, texts: Texts | None) -> list[str] | None:
    row = int(pair.rows[side][token])
    return None if texts is None else _around(pair, row, side, texts, PASSAGE_BEFORE, PASSAGE_AFTER)


def _around(pair: NovelPair, row: int, side: int, texts: Texts, before: int, after: int) -> list[str]:
    """Return the text before a token of a table, its own, and the text after it."""
    made = (pair.a, pair.b)[side].tokens
    text = texts.get(made.documents[int(made.document[row])], "")
    start, end = int(pair.starts[side][row]), int(made.char_end[row])
    return [text[max(0, start - before) : start], text[start:end], text[end : end + after]]
