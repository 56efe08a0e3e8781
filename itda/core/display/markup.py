"""Labels as text and HTML, for notebooks: pure functions from labels and numbers to strings.

A notebook may strip scripts, style sheets and ids, and it may be light or dark. So every style stands in its element,
the colour of text is the notebook's own, tints are transparent, and what a colour says a number or a length says too.
Corpus text is never trusted: it comes in as strings, and leaves escaped, its control characters as signs.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itda.core.labels import Label

SHARE, POSITIVE, NEGATIVE = "#148c7d", "#3278dc", "#cd5f14"
"""Colours of bars and shades. Each has a contrast of more than 3.5 to white and to #111."""
LINE = "#8888"
BOX = f"border:1px solid {LINE};border-radius:4px;padding:.4em .7em;margin:.5em 0;overflow-wrap:anywhere"
BOX += ";font-family:monospace;white-space:pre-wrap;line-height:1.8"
SIGNS = {"\n": ("⏎", "newline"), "\t": ("⇥", "tab"), "\r": ("␍", "carriage return"), "\u00a0": ("⍽", "no-break space")}


def one_line(label: Label, before: int = 36, token: int = 30, after: int = 20) -> str:
    r"""Return the token in its prompt as one line of plain text.

    >>> from itda.core.labels import Label
    >>> one_line(Label("essay", 1, 2, 5, 9, before="To", token=" be", after="\nor"))
    'To« be»⏎or'
    """
    left, inside, right = (plain(part) for part in clipped(label, before, token, after))
    return f"{left}«{inside}»{right}"


def in_prompt(label: Label) -> str:
    """Return the token in its prompt as one line of HTML."""
    before, token, after = clipped(label)
    return f"<bdi>{escaped(before)}</bdi>{marked(token)}<bdi>{escaped(after)}</bdi>"


def plain(text: str) -> str:
    """Return text on one line, not escaped, with signs for characters that control, hide or reorder text."""
    return "".join(_shown(c)[0] for c in text)


def escaped(text: str, *, token: bool = False, lines: bool = False) -> str:
    """Return text as HTML, with faint signs for invisible characters; in a token also for its leading spaces.

    The title of a sign names its character, so that it is not taken for the text's own. With `lines`, a newline ends a
    line as well.

    >>> escaped("a<b")
    'a&lt;b'
    """
    if token and not text:
        return sign("∅", "a token without text")
    spaces = len(text) - len(text.lstrip(" ")) if token else 0
    parts = [sign("·" * spaces, "space")] if spaces else []
    for (shown, name), run in groupby(text[spaces:], _kind):
        if not name:
            parts.append(html.escape("".join(run)))
        else:
            parts.append(sign((shown + "<br>" if lines and name == "newline" else shown) * len(list(run)), name))
    return "".join(parts)


def sign(shown: str, name: str) -> str:
    """Return a faint sign that stands for a character; its title names the character."""
    return f'<span title="{name}" style="opacity:.6">{shown}</span>'


def marked(token: str, *, lines: bool = False) -> str:
    """Return a token marked by colours, so that it stands out from its prompt."""
    inside = escaped(token, token=True, lines=lines)
    return f'<mark style="background:#fd6;color:#000"><bdi>{inside}</bdi></mark>'


def chip(token: str) -> str:
    """Return a token alone, in a small frame."""
    inside = escaped(clip(token, 30), token=True)
    return (
        f'<bdi style="font-family:monospace;border:1px solid {LINE};padding:0 3px;white-space:pre-wrap">{inside}</bdi>'
    )


def passage(label: Label) -> str:
    """Return a prompt with its line breaks, and its token marked."""
    before, token, after = clipped(label, 400, 200, 200)
    inside = (
        f"<bdi>{escaped(before, lines=True)}</bdi>{marked(token, lines=True)}<bdi>{escaped(after, lines=True)}</bdi>"
    )
    return f'<div dir="{direction(label)}" style="{BOX}">{inside}</div>'


def bar(start: float, end: float, colour: str) -> str:
    """Return a small frame filled from one share of its width to another."""
    a, b = (100 * min(1.0, max(0.0, share)) for share in (start, end))
    before = f"#0000 {a:.0f}%," if a else ""
    fill = f"linear-gradient(90deg,{before}{colour} 0 {b:.0f}%,#0000 0)"
    return f'<span style="display:inline-block;width:6em;height:.7em;border:1px solid {LINE};background:{fill}"></span>'


def share(value: float) -> str:
    """Return a share as a bar and a number."""
    return f"{bar(0.0, value, SHARE)} {value:.1%}"


def table(caption: str) -> str:
    """Return the beginning of a table; the caption is HTML."""
    return f'<table style="border-spacing:.6em 1px"><caption style="text-align:left">{caption}</caption>'


def facts(caption: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names, each with its value in HTML."""
    left = 'style="text-align:left"'
    lines = (f'<tr><th scope="row" {left}>{name}</th><td {left}>{value}</td></tr>' for name, value in rows)
    return f"{table(caption)}<tbody>{''.join(lines)}</tbody></table>"


def clipped(label: Label, before: int = 36, token: int = 30, after: int = 20) -> tuple[str, str, str]:
    """Return the text before a token, the token, and the text after it, in at most so many characters each.

    A text of its own has room for all three.
    """
    if label.whole:
        return "", clip(label.token, before + token + after), ""
    left = label.before if len(label.before) <= before else "…" + label.before[len(label.before) - before + 1 :]
    return left, clip(label.token, token), clip(label.after, after)


def clip(text: str, most: int) -> str:
    """Return a text cut to at most `most` characters, the last of them an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def direction(label: Label) -> str:
    """Return the direction of a prompt, by the first letter of its token, or else of the text around it."""
    for part in (label.token, label.before[-40:], label.after[:40]):
        for kind in map(unicodedata.bidirectional, part):
            if kind in ("L", "R", "AL"):
                return "ltr" if kind == "L" else "rtl"
    return "ltr"


def _shown(c: str) -> tuple[str, str]:
    """Return the text that stands for a character, and the character's name if that text is a sign."""
    if c in SIGNS:
        return SIGNS[c]
    # Control characters, lone surrogates, marks of direction: what a page cannot hold, or would not show.
    return (c, "") if c.isprintable() else (f"⟨{ord(c):04X}⟩", f"U+{ord(c):04X}")


def _kind(c: str) -> tuple[str, str]:
    """Return the key of the element that a character goes into: one for all plain characters, one for each sign."""
    shown, name = _shown(c)
    return (shown, name) if name else ("", "")
