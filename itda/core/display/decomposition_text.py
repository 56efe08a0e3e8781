"""A decomposed text as plain text for terminals: one line for each token, with its strongest atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from itda.core.display.markup import plain
from itda.core.replication import NO_FINDING, no_finding

if TYPE_CHECKING:
    from itda.core.display.decomposition import Parts

TOKENS, ATOMS = 24, 3
"""Most lines, and most atoms on each line."""
TOKEN_WIDTH, ATOM_WIDTH = 14, 17
"""Columns for a token, and for an atom: a line has at most 80."""


def decomposition_text(tokens: Sequence[Parts], heading: str) -> str:
    """Return a heading, then a line of at most 80 columns for each first token: share explained, strongest atoms.

    An atom is shown as its number, its own token, and its coefficient or cosine.
    """
    lines = [heading]
    for token in tokens[:TOKENS]:
        apart = token.massive is not None
        share = f"massive {token.massive:,.0f}x" if apart else f"{token.explained or 0.0:.1%}"
        strongest = sorted(token.atoms, key=lambda use: -abs(use.coefficient))[:ATOMS]
        atoms = [
            f"{number} {_clipped(use.label.token, ATOM_WIDTH - 8 - len(number))} {use.coefficient:+.3g}"
            for use in strongest
            for number in [("?" if no_finding(use.replication) else "") + str(use.atom)]
        ]
        line = f"{_clipped(token.label.token, TOKEN_WIDTH):<{TOKEN_WIDTH + 2}} {share:>8}  "
        lines.append((line + "".join(f"{atom:<{ATOM_WIDTH + 1}}" for atom in atoms)).rstrip())
    if len(tokens) > TOKENS:
        lines.append(f"and {len(tokens) - TOKENS} more tokens")
    if any(no_finding(use.replication) for token in tokens for use in token.atoms):
        lines.append(f"? {NO_FINDING}")
    return "\n".join(lines)


def _clipped(text: str, width: int) -> str:
    shown = plain(text)
    return f"«{shown if len(shown) <= max(1, width) else shown[: max(1, width) - 1] + '…'}»"
