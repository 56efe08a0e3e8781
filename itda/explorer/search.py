"""Search in the list of atoms: by the text around the token, by the token, by the document, or by a user's notes.

Regular expressions are RE2's, whose time is linear in the text: none that is typed can hang the server. What takes
longer than `MOST_SECONDS` all the same is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from itda.errors import SettingError
from itda.explorer.queries import Query

pc: Any = pyarrow.compute
"""Its functions are made at import, so a type checker knows none of them."""

PLACES = ("text", "token", "exact", "document", "note")
"""Where to look: the text around the token, in the token, a token that is it as a whole, the document's name, notes."""

MOST_PATTERN, MOST_SECONDS = 500, 2.0
"""Characters of a regular expression and seconds of a search, at most."""
CHUNK = 1024
"""Rows that are searched between two looks at the clock."""

Span = tuple[int, int]
"""The first character of a match and the one after its last."""


@dataclass(frozen=True)
class Search:
    """What is looked for, and where.

    >>> Search("the", "token").finds("There")
    (0, 3)
    >>> Search("t.e", "text", regex=True).finds("a tie")
    (2, 5)
    """

    text: str
    where: str = "text"
    regex: bool = False

    @staticmethod
    def of(query: Query) -> Search | None:
        """Return the search that a query asks for; None for none. Raises `SettingError` for a bad one."""
        text, where, regex = query.get("q", ""), query.get("in", "text"), bool(query.get("regex"))
        if where not in PLACES:
            raise SettingError(f"no place {where[:40]!r} to search in: use one of {', '.join(PLACES)}")
        if not text:
            return None
        found = Search(text, where, regex)
        if regex:
            found.check()
        return found

    def check(self) -> None:
        """Raises `SettingError` for a regular expression that RE2 cannot read."""
        if len(self.text) > MOST_PATTERN:
            raise SettingError(f"the expression has {len(self.text):,} characters: shorten it to {MOST_PATTERN}")
        try:
            pc.match_substring_regex(pa.array([""]), self.text)
        except (pa.ArrowException, UnicodeEncodeError) as error:
            reason = str(error).removeprefix("Invalid regular expression: ").splitlines()[0][:150]
            raise SettingError(
                f"the expression cannot be read ({reason}): correct it, or search for plain text"
            ) from None

    def finds(self, text: str) -> Span | None:
        """Return where the first match in a text is, in characters; None if there is none, or no place for it."""
        if self.regex:
            return self._regex_span(text)
        if self.where == "exact":
            return (0, len(text)) if text.strip().lower() == self.text.strip().lower() else None
        found = re.search(re.escape(self.text), text, re.IGNORECASE)
        return found.span() if found else None

    def _regex_span(self, text: str) -> Span | None:
        one = pa.array([text])
        if not pc.match_substring_regex(one, self.text)[0].as_py():
            return None
        # The expression is whole by itself, so its groups cannot end ours: \1 is what is before it, \2 the match.
        around = f"(?s:^(.*?))({self.text})(?s:.*$)"
        before, match = (
            pc.replace_substring_regex(one, around, rf"\{i}", max_replacements=1)[0].as_py() for i in (1, 2)
        )
        return len(before), len(before) + len(match)


class AtomTexts:
    """The texts of a dictionary's atoms, as columns that a search reads at once.

    >>> texts = AtomTexts([("a ", "red", " fox"), ("an ", "owl", "")], ["one", "two"])
    >>> texts.rows(Search("OWL")).tolist(), texts.rows(Search("^o", "document", regex=True)).tolist()
    ([1], [0])
    """

    def __init__(self, shown: Sequence[tuple[str, str, str]], documents: Sequence[str]) -> None:
        self._shown, self._documents = shown, documents

    def rows(self, search: Search, notes: Mapping[int, str] | None = None) -> np.ndarray:
        """Return the atoms that a search finds, in order; `notes` by atom. Raises `SettingError` for a slow one."""
        if search.where == "note":
            notes = notes or {}
            kept = sorted(notes)
            return np.array([kept[i] for i in _matching(_texts([notes[atom] for atom in kept]), search)], np.int64)
        column = {"text": "whole", "token": "token", "exact": "token", "document": "document"}[search.where]
        return _matching(getattr(self, column if search.regex else f"{column}_lower"), search)

    @cached_property
    def whole(self) -> pa.Array:
        """Each atom's token with the text around it."""
        return _texts([before + token + after for before, token, after in self._shown])

    @cached_property
    def token(self) -> pa.Array:
        """Each atom's token."""
        return _texts([token for _, token, _ in self._shown])

    @cached_property
    def document(self) -> pa.Array:
        """The name of each atom's document."""
        return _texts(self._documents)

    @cached_property
    def whole_lower(self) -> pa.Array:
        """The same as `whole` in small letters."""
        return _texts([text.lower() for text in self.whole.to_pylist()])

    @cached_property
    def token_lower(self) -> pa.Array:
        """The same as `token` in small letters."""
        return _texts([text.lower() for text in self.token.to_pylist()])

    @cached_property
    def document_lower(self) -> pa.Array:
        """The same as `document` in small letters."""
        return _texts([text.lower() for text in self.document.to_pylist()])


def well_formed(text: str) -> str:
    """Return a text that UTF-8 can hold: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _texts(texts: Sequence[str]) -> pa.Array:
    return pa.array([well_formed(text) for text in texts], pa.string())


def _matching(texts: pa.Array, search: Search) -> np.ndarray:
    """Return the rows that a search finds."""
    if search.regex:
        return _timed(texts, lambda part: pc.match_substring_regex(part, search.text))
    wanted = well_formed(search.text).lower()
    if search.where == "exact":
        return _timed(texts, lambda part: pc.equal(pc.utf8_trim_whitespace(part), wanted.strip()))
    lower = pc.utf8_lower(texts) if search.where == "note" else texts
    return _timed(lower, lambda part: pc.match_substring(part, wanted))


def _timed(texts: pa.Array, test: Callable[[pa.Array], pa.BooleanArray]) -> np.ndarray:
    end = time.monotonic() + MOST_SECONDS
    found = [np.zeros(0, np.int64)]
    for first in range(0, len(texts), CHUNK):
        if time.monotonic() > end:
            raise SettingError(f"the search takes over {MOST_SECONDS:.0f} seconds: search for a simpler expression")
        found.append(first + np.flatnonzero(test(texts.slice(first, CHUNK)).to_numpy(zero_copy_only=False)))
    return np.concatenate(found)
