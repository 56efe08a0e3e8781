"""A decomposed text as HTML for notebooks: tokens shaded by how well they are explained, and a table for each."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from itda.core.display.markup import (
    BOX,
    LINE,
    NEGATIVE,
    POSITIVE,
    SHARE,
    bar,
    chip,
    clip,
    clipped,
    direction,
    escaped,
    marked,
    passage,
    plain,
    share,
    sign,
    table,
)
from itda.core.replication import NO_FINDING, no_finding

if TYPE_CHECKING:
    from itda.core.labels import Label

MOST_TOKENS = 200
MOST_ATOMS = 40
"""Most rows in the table of a token that is shown alone."""
MOST_ROWS, ROWS_EACH = 450, 8
"""Most rows in all tables of a decomposition, column names included; and most atoms in the table of one token."""
TEXT_BYTES, ALL_BYTES = 100_000, 295_000
"""Most bytes of a decomposition's text, and of its text and tables together, whatever is in the labels."""


@runtime_checkable
class Use(Protocol):
    """One atom in a code, as far as it is shown; `AtomUse` has this shape."""

    @property
    def atom(self) -> int:
        """Index of the atom in the dictionary."""
        ...

    @property
    def coefficient(self) -> float:
        """Coefficient of the atom, or its cosine."""
        ...

    @property
    def label(self) -> Label:
        """Label of the token that the atom is."""
        ...

    @property
    def fidelity(self) -> float | None:
        """Cosine of the atom to the activation that its label names; None if it is that activation's direction."""
        ...

    @property
    def replication(self) -> float | None:
        """Share of draws of other documents in which the atom came back; None where it is not known."""
        ...

    @property
    def nearest(self) -> Sequence[str]:
        """Tokens of the activations nearest to the atom in other documents; none where they are not known."""
        ...


@runtime_checkable
class Parts(Protocol):
    """One token with its atoms, as far as it is shown; `TokenDecomposition` has this shape."""

    @property
    def label(self) -> Label:
        """Label of the token."""
        ...

    @property
    def explained(self) -> float | None:
        """Share of the token's activation that the atoms explain; None where it is massive."""
        ...

    @property
    def massive(self) -> float | None:
        """Norm of a massive activation, in medians; None for an ordinary one."""
        ...

    @property
    def atoms(self) -> Sequence[Use]:
        """The atoms of the token's code, in pick order."""
        ...


def one_token(parts: Parts, weight: str) -> str:
    """Return HTML of a token in its prompt, the share explained, and its atoms; `weight` names the coefficients."""
    caption = f"Atoms of the token {chip(parts.label.token)}, "
    if parts.explained is None:
        caption += f"whose activation is {_massive(parts)}"
    else:
        caption += f"which explain {share(parts.explained)} of its activation"
    return f"<div>{passage(parts.label)}{_atoms(parts.atoms, caption, weight, MOST_ATOMS)}</div>"


def decomposition(tokens: Sequence[Parts], where: str | None, weight: str) -> str:
    """Return HTML of a text, its tokens shaded by the share explained, and under it a table of atoms for each."""
    if not tokens:
        return "<div>A decomposition of no tokens</div>"
    text = _fitting(_shaded(tokens[:MOST_TOKENS]), TEXT_BYTES)
    shown = tokens[: len(text)]
    each = max(1, min(ROWS_EACH, MOST_ROWS // len(shown) - 1))
    details = (_details(place, parts, weight, each) for place, parts in enumerate(shown))
    tables = _fitting(details, ALL_BYTES - sum(len(part.encode()) for part in text))
    number = f"{len(tokens):,} token{'s' if len(tokens) > 1 else ''}" + (
        f" at {escaped(clip(where, 100))}" if where else ""
    )
    ordinary = [parts.explained for parts in tokens if parts.explained is not None]
    mean = f"{share(statistics.fmean(ordinary))} explained on average" if ordinary else "all of them massive"
    if 0 < len(ordinary) < len(tokens):
        mean += f"; {len(tokens) - len(ordinary):,} massive, left out of this"
    scale = " ".join(_tinted(f"{percent}%", percent / 100, "") for percent in (50, 75, 100))
    legend = f"Shade and line of a token: how much of its activation its atoms explain, {scale}"
    return (
        f"<div><div><b>{number}</b>, {mean}</div>"
        f'<div dir="{direction(tokens[0].label)}" style="{BOX}">{"".join(text)}</div>'
        f"{_left_out(len(tokens) - len(text), 'tokens', len(text))}"
        f"<div>{legend}. Open a token to see its atoms, or look at one alone, such as [0]:</div>{''.join(tables)}"
        f"{_left_out(len(shown) - len(tables), 'tables', len(tables))}</div>"
    )


def _shaded(tokens: Sequence[Parts]) -> Iterable[str]:
    yield _shaded_token(0, tokens[0], None)
    for place, (last, parts) in enumerate(pairwise(tokens), 1):
        a, b = last.label, parts.label
        # Some tokenizers leave out the spaces between tokens.
        gap = b.char_start - a.char_end if a.document == b.document else 0
        between = escaped(clip(b.before[-gap:], 40), lines=True) if 0 < gap <= len(b.before) else ""
        # Others make several tokens of the bytes of one character.
        again = b.token and b.position == a.position + 1 and (a.char_start, a.char_end) == (b.char_start, b.char_end)
        yield between + _shaded_token(place, parts, sign("″", "more of the same character") if again else None)


def _shaded_token(place: int, parts: Parts, instead: str | None) -> str:
    inside = instead or escaped(clip(parts.label.token, 60), token=True, lines=True)
    if parts.explained is None:  # no shade and no line: it is apart
        title = f' title="token {place}: {_massive(parts)}"'
        return f'<bdi{title} style="border:1px dashed {LINE};padding:2px 0 4px;margin:0 1px">{inside}</bdi>'
    return _tinted(inside, parts.explained, f' title="token {place}: {parts.explained:.1%} explained"')


def _massive(parts: Parts) -> str:
    return f"massive, its norm {parts.massive:,.0f} times the median"


def _tinted(inside: str, value: float, title: str) -> str:
    full = min(1.0, max(0.0, value))
    line = f"linear-gradient({SHARE},{SHARE}) 0 100%/{full:.0%} 3px no-repeat"
    # Most tokens are well explained: cubed, so that their shades differ. The line is as long as the share itself.
    style = f"background:{line} {SHARE}{round(150 * full**3):02x};padding:2px 0 4px;margin:0 1px"
    return f'<bdi{title} style="{style}">{inside}</bdi>'


def _details(place: int, parts: Parts, weight: str, most: int) -> str:
    name = f'<span style="display:inline-block;min-width:12em">{place} {chip(parts.label.token)}</span>'
    shown = _massive(parts) if parts.explained is None else share(parts.explained)
    # One is open, to show what there is to see.
    return (
        f"<details{'' if place else ' open'}><summary>{name} {shown}</summary>"
        f"{_atoms(parts.atoms, f'Atoms of token {place}', weight, most)}</details>"
    )


def _atoms(uses: Sequence[Use], caption: str, weight: str, most: int) -> str:
    """Return a table of atoms: index, coefficient as a number and a bar, and the atom's own token in its prompt."""
    faithful, known = any(use.fidelity is not None for use in uses), any(use.nearest for use in uses)
    largest = max((abs(use.coefficient) for use in uses), default=0) or 1
    signed = any(use.coefficient < 0 for use in uses)
    places = min(9, max(0, 3 - math.floor(math.log10(largest))))
    head = f'<th scope="col">atom</th><th scope="colgroup" colspan="2">{weight}</th>'
    head += '<th scope="col">fidelity</th>' if faithful else ""
    head += '<th scope="colgroup" colspan="2" style="text-align:center">named by the marked token</th>'
    head += '<th scope="col" style="text-align:left">nearest in other documents</th>' if known else ""
    rows = []
    for use in uses[:most]:
        size = use.coefficient / largest
        # One zero for all bars of a table: in the middle if any is negative.
        start, end = sorted((0.5, 0.5 + size / 2)) if signed else (0.0, size)
        number = f"{'?' if no_finding(use.replication) else ''}{use.atom}"
        cells = f'<th scope="row">{number}</th><td>{use.coefficient:+.{places}f}</td>'
        cells += f"<td>{bar(start, end, NEGATIVE if size < 0 else POSITIVE)}</td>"
        if faithful:
            cells += f"<td>{'-' if use.fidelity is None else f'{use.fidelity:.2f}'}</td>"
        document = html.escape(plain(clip(use.label.document, 100)))
        near = f'<td style="text-align:left">{" ".join(map(chip, use.nearest))}</td>' if known else ""
        rows.append(f'<tr title="{document}">{cells}{_prompt(use.label)}{near}</tr>')
    doubtful = any(no_finding(use.replication) for use in uses[:most])
    more = f"<div>? {NO_FINDING}</div>" if doubtful else ""
    more += f"<div>and {len(uses) - most} more atoms</div>" if len(uses) > most else ""
    body = f'<tbody style="font-family:monospace;text-align:right;white-space:pre-wrap">{"".join(rows)}</tbody>'
    return f"{table(caption)}<thead><tr>{head}</tr></thead>{body}</table>{more}"


def _prompt(label: Label) -> str:
    """Return two cells, so that a table's tokens stand below each other; one where text runs from right to left."""
    before, token, after = clipped(label)
    left, right = f"<bdi>{escaped(before)}</bdi>", f"{marked(token)}<bdi>{escaped(after)}</bdi>"
    if direction(label) == "rtl":
        return f'<td colspan="2" dir="rtl" style="text-align:center">{left}{right}</td>'
    return f'<td>{left}</td><td style="text-align:left">{right}</td>'


def _left_out(number: int, what: str, shown: int) -> str:
    return (
        f"<div>… and {number:,} more {what}, left out here: look at a part, such as [{shown}:]</div>" if number else ""
    )


def _fitting(parts: Iterable[str], room: int) -> list[str]:
    """Return the first of some parts, as many as fit into `room` bytes."""
    found = []
    for part in parts:
        room -= len(part.encode())
        if room < 0:
            break
        found.append(part)
    return found
