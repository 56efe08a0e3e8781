"""Helpers for text of 80 columns: tables, prompts with a marked token, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itda.core.labels import Label

WIDTH = 80
"""Columns of a line, at most."""


def visible(text: str) -> str:
    """Return a text on one line, with signs for newlines, tabs and other control characters."""
    signs = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c, c if c.isprintable() else "·") for c in text)


def prompt(label: Label, width: int) -> str:
    """Return a label's token marked in its prompt, …before«token»after, in `width` characters at most."""
    token = visible(label.token)
    if len(token) > width // 2:
        token = token[: width // 2 - 1] + "…"
    room = width - len(token) - 2
    after = visible(label.after[: room // 4])
    before = visible(label.before[-(room + 1) :])
    room -= len(after)
    if len(before) > room:
        before = "…" + before[len(before) - room + 1 :]
    return f"{before}«{token}»{after}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text: the first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def strips(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a matrix with names, in strips of as many columns as there is room for."""
    width = max(5, *map(len, columns)) + 2
    each = max(1, (WIDTH - max(map(len, rows)) - 1) // width)
    lines: list[str] = []
    for start in range(0, len(columns), each):
        some = slice(start, start + each)
        strip = table(["", *columns[some]], [[row, *line[some]] for row, line in zip(rows, cells, strict=True)])
        lines += [*([""] if start else []), *strip.split("\n")]
    return lines


def number(value: float | None) -> str:
    """Return a measure with four decimals, or a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def end(text: str, width: int) -> str:
    """Return the last `width` characters of a name or path, whose end tells most, with … for what is cut."""
    return text if len(text) <= width else "…" + text[-width + 1 :]


def place(name: str) -> str:
    """Return a path in the current folder relative to it; return anything else as it is."""
    path = Path(name)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else name
