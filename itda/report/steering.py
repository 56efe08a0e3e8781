"""What steering did, as text: untouched, steered and a control side by side, and the next token's changes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from itda.report.text import WIDTH, prompt, visible
from itda.steering.attribution import Attribution
from itda.steering.beside import Steered, Way
from itda.steering.finding import Proposed
from itda.steering.next_token import TokenChange

COLUMN, GAP = 25, "  "
"""Width of one of three columns, and what is between two."""


def steered(found: Steered) -> str:
    """Return a prompt gone on with in three columns for each strength, and the changes of the next token.

    The text of the controls is that of the first one; KL is given for all.
    """
    lines = [f"{found.site}, {visible(found.prompt)!r}"[:WIDTH], ""]
    numbers = (*found.atoms, *found.ablate)
    for place, (number, label) in enumerate(zip(numbers, found.labels, strict=True)):
        start = f"{'adding' if place < len(found.atoms) else 'ablating'} atom {number}: "
        lines.append(start + prompt(label, WIDTH - len(start)))
    if found.atoms:
        units = ", ".join(f"{unit:.4g}" for unit in found.unit)
        said = (
            f"strength 1 is a coefficient of {units}, the typical one in {found.source}; the prompt's activations are "
            f"{found.norm:.4g} long (median)"
        )
        lines += textwrap.wrap(said, WIDTH)
    for way in found.ways:
        lines += ["", *_way(found, way)]
    lines += ["", *textwrap.wrap(_verdict(found), WIDTH)]
    return "\n".join(lines)


def proposed(found: Sequence[Proposed], run: Path, text: str) -> str:
    """Return atoms that a text proposes: number, mean cosine, the atom's own prompt."""
    lines = [f"atoms that the activations of {visible(text)!r}"[: WIDTH - 15] + " are most like", ""]
    for each in found:
        start = f"{each.atom:>7}  {each.cosine:+.3f}  "
        lines.append(start + prompt(each.label, WIDTH - len(start)))
    if found:
        lines += ["", f'Try one: itda steer {run} "..." --atom {found[0].atom}']
    return "\n".join(lines)


def reasons(found: Attribution, top: int) -> str:
    """Return the atoms with the largest effects on the next token: effect, the token whose code has it, the atom."""
    how = "by removing each in turn" if found.way == "ablation" else "by one backward pass"
    probability = math.exp(found.log_probability)
    lines = [
        f"next token: «{visible(found.next_token)}», probability {_percent(probability)}",
        f"what an atom adds to its log-probability, {how}:",
        "effect, the token whose code has the atom, the atom with its own prompt",
        "",
    ]
    for each in found.top(top):
        token = visible(each.token.token)
        token = token if len(token) <= 10 else token[:9] + "…"
        start = f"{each.effect:+9.4f}  {f'«{token}»':<12}  {each.atom:>6}  "
        lines.append(start + prompt(each.label, WIDTH - len(start)))
    summed = ", ".join(f"{atom} {effect:+.3f}" for atom, effect in list(found.by_atom().items())[:5])
    return "\n".join([*lines, "", f"over all tokens: {summed}"[:WIDTH]])


def _way(found: Steered, way: Way) -> list[str]:
    strength = f"strength {way.strength:g}" if way.strength is not None else "ablated"
    control = "control: " + ",".join(map(str, way.control_atoms[0]))
    heads = ["untouched", strength, control]
    texts = [found.untouched, way.steered.text, way.control.text]
    columns = [_wrapped(text) for text in texts]
    lines = [_row([head[:COLUMN] for head in heads]), _row(["-" * COLUMN] * 3)]
    lines += [_row(row) for row in zip_longest(*columns, fillvalue="")]
    kls = sorted(way.control_kl)
    after = [way.steered.next_token, way.control.next_token]
    rows = [["next token: KL, nats", *(f"{each.kl:.4f}" for each in after)]]
    for name in ("promoted", "suppressed"):
        first = True
        for own, other in zip_longest(getattr(after[0], name), getattr(after[1], name)):
            rows.append([name if first else "", _change(own), _change(other)])
            first = False
    lines += ["", *(_row(row) for row in rows)]
    if len(kls) > 1:
        middle = kls[len(kls) // 2]
        lines.append(f"KL of {len(kls)} controls: {kls[0]:.4f} to {kls[-1]:.4f}, median {middle:.4f}")
    return [line.rstrip() for line in lines]


def _verdict(found: Steered) -> str:
    best = max(found.ways, key=lambda way: way.beyond)
    number = len(best.control_kl)
    said = f"{best.beyond} of {number} controls change the next token less"
    if best.strength is not None:
        said += f" at strength {best.strength:g}"
    return (
        f"{said}. Controls are random atoms of the same dictionary: used equally often and added with the same length "
        "or, where the atom is ablated, equally strong in the prompt. What they do too is not due to the atom."
    )


def _change(change: TokenChange | None) -> str:
    if change is None:
        return ""
    token = visible(change.token)
    token = token if len(token) <= 9 else token[:8] + "…"
    return f"«{token}» {_percent(change.before)} > {_percent(change.after)}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _wrapped(text: str) -> list[str]:
    """Return a text in lines of a column's width; its own line breaks stay."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = visible(line)
        lines += [shown[start : start + COLUMN] for start in range(0, max(1, len(shown)), COLUMN)]
    return lines


def _row(cells: Sequence[str]) -> str:
    return GAP.join(cell.ljust(COLUMN) for cell in cells).rstrip()
