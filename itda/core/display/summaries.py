"""Labels and dictionaries as a line for a prompt or a small table for a notebook, however large they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from itda.core.display import markup

if TYPE_CHECKING:
    from itda.core.dictionary import ITDA
    from itda.core.labels import Label, Labels

LINE_LABELS, TABLE_LABELS = 3, 10
"""Most labels shown in a line, and in a table."""


def labels_line(labels: Labels) -> str:
    """Return one line about labels: their number, and the first of them in their prompts."""
    first = [markup.one_line(label, 12, 16, 8) for label in _first(labels, LINE_LABELS)]
    more = ["…"] if labels.document.size > len(first) else []
    shown = f": {', '.join([*first, *more])}" if first else ""
    return f"<Labels of {_shape(labels)}{shown}>"


def labels_html(labels: Labels) -> str:
    """Return a table of the first labels: where each is, and its prompt; or the text alone, where that is the label."""
    first = _first(labels, TABLE_LABELS)
    rest = labels.document.size - len(first)
    whole = _whole(labels)
    rows = "".join(f"<tr>{'' if whole else _place(label)}{_prompt(label)}</tr>" for label in first)
    names = ("text",) if whole else ("document", "position", "prompt")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    caption = f"<b>Labels</b> of {_shape(labels)}" + (f", the first {len(first)}" if rest else "")
    return f"<div>{markup.table(caption)}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def dictionary_line(dictionary: ITDA) -> str:
    """Return one line about a dictionary: its size, and the settings that made it."""
    return f"<ITDA of {', '.join(_about(dictionary).values())}>"


def dictionary_html(dictionary: ITDA) -> str:
    """Return a table about a dictionary: the facts of its line, and where it comes from."""
    rows = {
        **_about(dictionary),
        **{name: str(dictionary.provenance[name]) for name in PROVENANCE if dictionary.provenance.get(name)},
    }
    return facts_html("ITDA", {name: value for name, value in rows.items() if value})


PROVENANCE = ("model", "corpus", "tokens", "window")
"""Entries of a dictionary's provenance that its table shows."""


def facts_html(title: str, rows: Mapping[str, str]) -> str:
    """Return a small table of names and values, all of them escaped."""
    shown = [(name, f"<bdi>{markup.escaped(markup.clip(value, 200))}</bdi>") for name, value in rows.items()]
    return f"<div>{markup.facts(f'<b>{markup.escaped(title)}</b>', shown)}</div>"


def _about(dictionary: ITDA) -> dict[str, str]:
    where = f" at {dictionary.site}" if dictionary.site is not None else ""
    found = {"atoms": f"{len(dictionary):,} atoms of width {dictionary.d_model:,}{where}", "k": f"k {dictionary.k}"}
    found |= {"pursuit": f"pursuit {dictionary.pursuit}", "mode": f"mode {dictionary.mode}"}
    if dictionary.fidelity is not None:
        centres = dictionary.provenance.get("refinement", {}).get("recipe") == 2
        found["refined"] = "centres of groups" if centres else "refined"
    return found


def _place(label: Label) -> str:
    document = markup.escaped(markup.clip(label.document, 60))
    return f"<td><bdi>{document}</bdi></td><td>{label.position:,}</td>"


def _prompt(label: Label) -> str:
    style = "text-align:left;font-family:monospace;white-space:pre-wrap"
    return f'<td style="{style}">{markup.in_prompt(label)}</td>'


def _whole(labels: Labels) -> bool:
    """Return True if the first labels are whole texts; then, in all likelihood, all are."""
    first = _first(labels, TABLE_LABELS)
    return bool(first) and all(label.whole for label in first)


def _shape(labels: Labels) -> str:
    shape = labels.document.shape
    noun = "texts" if _whole(labels) else "tokens"
    return f"{shape[0]:,} {noun}" if len(shape) == 1 else f"shape [{', '.join(map(str, shape))}]"


def _first(labels: Labels, most: int) -> list[Label]:
    number = min(most, labels.document.size)
    return [labels.at(np.unravel_index(i, labels.document.shape)) for i in range(number)]
