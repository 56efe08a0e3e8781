"""The text of decomposed tokens and of the uses of an atom."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from itda.core.labels import Label
from itda.core.replication import NO_FINDING, no_finding
from itda.recipes import AtomUse, TokenDecomposition
from itda.report.text import WIDTH, prompt, visible


def decomposition(tokens: Sequence[TokenDecomposition], top: int, *, by_size: bool = True) -> str:
    """Return each token with its explained share and up to `top` atoms: coefficient, number, the atom's prompt.

    The atoms come by the size of their coefficients, the largest first; without `by_size`, as the token has them.
    """
    blocks: list[str] = []
    shown: list[AtomUse] = []
    for token in tokens:
        head = f"{prompt(token.label, WIDTH - 20)}"
        if token.massive is not None:
            blocks.append(f"{head:<{WIDTH - 18}}  massive, {token.massive:6,.0f}x")
        else:
            blocks.append(f"{head:<{WIDTH - 18}}  explained {token.explained:5.1%}")
        atoms = sorted(token.atoms, key=lambda use: -abs(use.coefficient)) if by_size else token.atoms
        for use in atoms[:top]:
            shown += [use]
            faithful = f"  {use.fidelity:4.2f}" if use.fidelity is not None else ""
            numbered = ("?" if no_finding(use.replication) else "") + str(use.atom)
            start = f"  {significant(use.coefficient):>9}  {numbered:>6}{faithful}  "
            near = "  ≈" + "".join(f"«{clipped(token)}»" for token in use.nearest) if use.nearest else ""
            own = f"{visible(use.name)[:20]}: " if use.name else ""
            blocks.append(start + own + prompt(use.label, WIDTH - len(start) - len(near) - len(own)) + near)
        if len(token.atoms) > top:
            blocks.append(f"  {'':9}  and {len(token.atoms) - top} more atoms")
    if any(no_finding(use.replication) for use in shown):
        blocks += ["", f"? {NO_FINDING}"]
    if any(token.massive is not None for token in tokens):
        said = (
            "massive: how many times the median the norm is. Such tokens say little about the text, so no share "
            "explained is shown for them."
        )
        blocks += ["", *textwrap.wrap(said, WIDTH)]
    return "\n".join(blocks)


def significant(value: float) -> str:
    """Return a number with its sign, in three significant digits and without an exponent.

    >>> significant(-3.14159), significant(1234.5), significant(0.04321), significant(2.0)
    ('-3.14', '+1230', '+0.0432', '+2.00')
    """
    if not value or not math.isfinite(value):
        return f"{value:+.2f}"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{round(value, decimals):+.{max(0, decimals)}f}"


def clipped(token: str) -> str:
    """Return a token on one line, in seven characters at most."""
    shown = visible(token)
    return shown if len(shown) <= 7 else shown[:6] + "…"


def uses(atom: int, label: Label, found: Sequence[AtomUse], replication: float | None = None) -> str:
    """Return an atom's own prompt and the tokens that use it most; of one that does not replicate, that it does not."""
    lines = [f"atom {atom}: {prompt(label, WIDTH - 8 - len(str(atom)))}"]
    if no_finding(replication):
        lines.append(f"  it {NO_FINDING}")
    lines += [f"  {significant(use.coefficient):>9}  {prompt(use.label, WIDTH - 13)}" for use in found]
    if not found:
        lines.append("  used by no token here")
    return "\n".join(lines)
