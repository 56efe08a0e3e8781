"""The text of decomposed tokens and of the uses of an atom."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from itda.core.labels import Label
from itda.core.replication import NO_FINDING, no_finding
from itda.recipes import AtomUse, TokenDecomposition
from itda.report.text import WIDTH, prompt, visible


def decomposition(tokens: Sequence[TokenDecomposition], top: int) -> str:
    """Return each token with its explained share and up to `top` atoms: coefficient, number, the atom's prompt."""
    blocks = []
    for token in tokens:
        head = f"{prompt(token.label, WIDTH - 20)}"
        if token.massive is not None:
            blocks.append(f"{head:<{WIDTH - 18}}  massive, {token.massive:6,.0f}x")
        else:
            blocks.append(f"{head:<{WIDTH - 18}}  explained {token.explained:5.1%}")
        for use in token.atoms[:top]:
            faithful = f"  {use.fidelity:4.2f}" if use.fidelity is not None else ""
            numbered = ("?" if no_finding(use.replication) else "") + str(use.atom)
            start = f"  {use.coefficient:+9.3f}  {numbered:>6}{faithful}  "
            near = "  ≈" + "".join(f"«{clipped(token)}»" for token in use.nearest) if use.nearest else ""
            blocks.append(start + prompt(use.label, WIDTH - len(start) - len(near)) + near)
        if len(token.atoms) > top:
            blocks.append(f"  {'':9}  and {len(token.atoms) - top} more atoms")
    if any(no_finding(use.replication) for token in tokens for use in token.atoms[:top]):
        blocks += ["", f"? {NO_FINDING}"]
    if any(token.massive is not None for token in tokens):
        said = (
            "massive: a norm so many times the median. Such tokens say little of the text, and a share of them that "
            "is explained would say nothing."
        )
        blocks += ["", *textwrap.wrap(said, WIDTH)]
    return "\n".join(blocks)


def clipped(token: str) -> str:
    """Return a token on one line, in seven characters at most."""
    shown = visible(token)
    return shown if len(shown) <= 7 else shown[:6] + "…"


def uses(atom: int, label: Label, found: Sequence[AtomUse], replication: float | None = None) -> str:
    """Return an atom's own prompt and the tokens that use it most; of one that does not replicate, that it does not."""
    lines = [f"atom {atom}: {prompt(label, WIDTH - 8 - len(str(atom)))}"]
    if no_finding(replication):
        lines.append(f"  it {NO_FINDING}")
    lines += [f"  {use.coefficient:+9.3f}  {prompt(use.label, WIDTH - 13)}" for use in found]
    if not found:
        lines.append("  used by no token here")
    return "\n".join(lines)
