"""Search in the text of an index: every window that holds what is looked for, with the atom that is strongest there."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from itda.errors import SettingError
from itda.explorer.code_index import CodeIndex
from itda.explorer.contexts import rounded
from itda.explorer.run_cache import IndexedDictionary
from itda.explorer.search import Search, pc, well_formed

SHOWN = 50
"""Places that are shown."""
MOST_SECONDS = 2.0
"""Seconds of a search, at most: then it says how far it came."""
CHUNK = 2048
"""Windows that are searched between two looks at the clock."""
BEFORE, AFTER = 90, 60
"""Characters shown before and after a match."""


def search_corpus(dictionary: IndexedDictionary, index: CodeIndex, search: Search) -> dict[str, Any]:
    """Return the first places in an index that a search finds, one for each window, and how many windows there are.

    `searched` is the share of the windows that were looked at in time. Raises `SettingError` for a bad expression.
    """
    texts, end = index.text.windows_as_strings(), time.monotonic() + MOST_SECONDS
    found: list[tuple[int, int]] = []
    windows, first = 0, 0
    while first < len(texts) and time.monotonic() < end:
        part = texts.slice(first, CHUNK)
        hits = np.flatnonzero(_hits(part, search).to_numpy(zero_copy_only=False))
        for place in hits[: SHOWN - len(found)].tolist():
            found.append((first + place, place))
        windows += len(hits)
        first += CHUNK
    return {
        "windows": windows,
        "searched": rounded(min(1.0, first / max(1, len(texts)))),
        "places": [_place(dictionary, index, window, _text(texts, window), search) for window, _ in found],
    }


def _text(texts: pa.LargeStringArray, window: int) -> str:
    return texts[window].as_buffer().to_pybytes().decode(errors="replace")


def _hits(part: pa.Array, search: Search) -> pa.BooleanArray:
    try:
        if search.regex:
            return pc.match_substring_regex(part, search.text)
        return pc.match_substring(part, well_formed(search.text), ignore_case=True)
    except pa.ArrowException as error:
        raise SettingError("the indexed text cannot be searched for that: search for a simpler expression") from error


def _place(dictionary: IndexedDictionary, index: CodeIndex, window: int, text: str, search: Search) -> dict[str, Any]:
    start, end = search.finds(text) or (0, 0)
    first, last = index.text.window_range(window)
    begin = len(text[:end].encode()) - 1
    token = first + max(0, int(np.searchsorted(index.text.begins(first, last), begin, side="right")) - 1)
    ids, values = index.codes(token)
    strongest = int(np.abs(values).argmax()) if len(ids) else None
    return {
        "token": token,
        "document": index.text.document(token),
        "before": text[max(0, start - BEFORE) : start],
        "match": text[start:end],
        "after": text[end : end + AFTER],
        "atom": int(ids[strongest]) if strongest is not None else None,
        "label": list(dictionary.shown_of(int(ids[strongest]))) if strongest is not None else None,
    }
