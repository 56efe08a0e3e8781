"""The strings of a query, checked."""

from __future__ import annotations

from collections.abc import Mapping

from itda.errors import MissingError, SettingError

Query = Mapping[str, str]
"""The parameters of a page by name."""


def given(query: Query, name: str) -> str:
    """Return a parameter. Raises `SettingError` if it is empty or not there.

    >>> given({"run": "tiny"}, "run")
    'tiny'
    """
    if not query.get(name):
        raise SettingError(f"the question lacks {name}: add {name}=...")
    return query[name]


def number(query: Query, name: str, most: int, what: str) -> int:
    """Return a parameter that is a number from 0 to below `most`. Raises `SettingError`, `MissingError` for more.

    >>> number({"atom": "3"}, "atom", 10, "atoms")
    3
    """
    text = given(query, name)
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise SettingError(f"{name} is {text[:40]!r}: give a number from 0 to {most - 1:,}")
    if int(text) >= most:
        raise MissingError(f"no {name} {int(text):,}: there are {most:,} {what}, use 0 to {most - 1:,}")
    return int(text)
