"""The text of effects: what atoms do to the next token, beside controls."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from itda.core.effects import LEAST_USES, AtomEffects
from itda.core.site import Site
from itda.report.text import WIDTH, prompt, table, visible

if TYPE_CHECKING:
    from itda.recipes.effects import Measured

SHOWN = 5
"""Atoms shown of those whose effect exceeds their controls' most."""
NAMES = {
    "added_continuation": "added: its continuation",
    "added_promoted": "added: promoted tokens",
    "added": "added: one of the two",
    "ablated_continuation": "ablated: its continuation",
    "ablated_promoted": "ablated: promoted tokens",
    "ablated": "ablated: one of the two",
}


def effects_lines(found: Mapping[Site, AtomEffects]) -> list[str]:
    """Return lines that say what was measured, with a table for each dictionary."""
    lines: list[str] = []
    for site, each in found.items():
        made = each.summary()
        said = (
            f"Effects at {site}: each atom was added at the last token of {made['contexts']} texts, "
            f"{made['strength']:g} typical coefficients, and ablated at up to {made['contexts']} tokens whose code "
            "has it. The change in log-probability (nats, medians) of the token that follows its own in its label, and "
            f"of the tokens that its direction promotes, for the {made['used_often']:,} atoms with {LEAST_USES} uses "
            f"or more in {made['sample']:,} tokens."
        )
        header = ["", "effect", "control", "beyond control", "shams"]
        rows = [_row(name, made["measures"][name]) for name in NAMES]
        lines += [*([""] if lines else []), *textwrap.wrap(said, WIDTH), "", table(header, rows)]
    said = "Beyond control: among the 5% largest of the atom and its controls. Shams: of atoms with another's targets."
    return [*lines, "", *textwrap.wrap(said, WIDTH)]


def _row(name: str, values: Mapping[str, Any]) -> list[str]:
    middles = [values.get("median_effect"), values.get("median_control")]
    shares = [values["beyond_control"], values["false_positives"]]
    cells = ["-" if each is None else f"{each:+.3f}" for each in middles]
    return [NAMES[name], *cells, *("-" if share is None else f"{share:.1%}" for share in shares)]


def effects_summary(made: Measured) -> str:
    """Return what `itda effects` shows: the tables, and of each site the atoms with the largest effects."""
    lines = [f"{made.folder}"]
    if not made.new:
        lines.append("It was measured already: nothing to do.")
    lines += ["", *effects_lines(made.sites)]
    for site, found in made.sites.items():
        each = found.measures["added_continuation"]
        beyond = each.effect - each.control
        known = np.flatnonzero((found.uses >= LEAST_USES) & ~np.isnan(beyond))
        order = known[np.argsort(-beyond[known], kind="stable")][:SHOWN]
        if len(order):
            lines += ["", f"{site}, added, the most beyond control: effect, control, atom, what follows it", ""]
        for atom in order.tolist():
            start = f"{each.effect[atom]:+.2f} {each.control[atom]:+.2f}  {atom:>6}  "
            end = f"  «{visible(found.continuation[atom] or '')[:12]}»"
            lines.append(start + prompt(made.labels[site][atom], WIDTH - len(start) - len(end)) + end)
    return "\n".join([*lines, "", f"See it: itda explore {made.folder}, sorted by effect"])
