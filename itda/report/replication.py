"""The text of replication: how much of each dictionary comes back from other documents."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from itda.core.replication import Replication
from itda.core.site import Site
from itda.report.text import WIDTH, prompt, table

if TYPE_CHECKING:
    from itda.recipes.replicate import Replicated

SHOWN = 5
"""Atoms shown of those that come back most, and of those that come back least."""


def replication_lines(found: Mapping[Site, Replication]) -> list[str]:
    """Return lines that say what replication is, with a row for each dictionary."""
    first = next(iter(found.values()))
    times = "1 draw splits" if first.draws == 1 else f"{first.draws} draws split"
    said = (
        f"Replication: {times} the documents into two halves at random, and a dictionary is made from each half. An "
        f"atom has come back if the half without its document has an atom with a cosine of {first.cosine:g} or more "
        "to it. Mean: how often atoms come back. Strongest: how often the strongest atom of a token has that "
        "direction in the half too. Chance: how often plain activations come back, instead of atoms."
    )
    rows = [_row(site, len(each), each.summary()) for site, each in found.items()]
    header = ["site", "atoms", "mean", "in all", "in half", "in none", "chance", "strongest", "halves"]
    after = "In half: atoms that come back in half of the draws or more. Halves: atoms of one half in the other."
    return [*textwrap.wrap(said, WIDTH), "", table(header, rows), "", *textwrap.wrap(after, WIDTH)]


def _row(site: Site, atoms: int, values: Mapping[str, Any]) -> list[str]:
    names = ("mean", "in_all", "in_half", "in_none", "chance", "readout")
    shares = [*(values[name] for name in names), values["halves"]["within"]]
    return [str(site), f"{atoms:,}", *("-" if share is None else f"{share:.1%}" for share in shares)]


def replication_summary(made: Replicated) -> str:
    """Return what `itda replicate` shows: the table, and of each site the atoms that come back most and least."""
    lines = [f"{made.folder}: {made.documents:,} documents, {made.tokens:,} tokens"]
    if not made.new:
        lines.append("It was there already: nothing to do.")
    lines += ["", *replication_lines(made.sites)]
    for site, found in made.sites.items():
        order = found.order()
        shown = min(SHOWN, len(found) // 2)
        if not shown:
            continue
        for which, atoms in (("most", order[:shown]), ("least", order[::-1][:shown])):
            lines += ["", f"{site}, come back {which}: replication, mean cosine, atom", ""]
            for atom in atoms.tolist():
                number = f"{found.share[atom]:.2f}  {found.cosines[atom].mean():.3f}  {atom:>6}  "
                lines.append(number + prompt(made.labels[site][atom], WIDTH - len(number)))
    return "\n".join([*lines, "", f"See it: itda explore {made.folder}, sorted by replication"])
