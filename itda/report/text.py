"""Text on lines of 80 columns: tables, and labels in their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itda.core.labels import Label

WIDTH = 80


def visible(text: str) -> str:
    """Text on one line: newlines, tabs and other control characters as signs."""
    signs = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c, c if c.isprintable() else "·") for c in text)


def prompt(label: Label, width: int) -> str:
    """The end of a label's prompt with its token marked: ...before«token»after, in `width` characters."""
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
    """Columns set flush right, but for the first; each as wide as its widest cell."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float | None) -> str:
    """A measure with four decimals; a dash for none."""
    return "-" if value is None else f"{value:.4f}"


def end(text: str, width: int) -> str:
    """The end of a text, where that of a path or a name tells most."""
    return text if len(text) <= width else "…" + text[-width + 1 :]


def place(name: str) -> str:
    """A path as it is called from here, if it is in this folder; what is no path stays."""
    path = Path(name)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else name
