"""A diff as one HTML file: the pages of the explorer with their answers in the file."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from itda.explorer.export import answer_key, document
from itda.explorer.pages import Explorer


def diff_page(explorer: Explorer) -> str:
    """Return the HTML of one self-contained file with all diffs of an explorer: what changed, and the listed atoms."""
    assert explorer.diffs is not None
    listed = [{**each, "live": False} for each in explorer.diffs.listed()]
    none = {"runs": [], "live": False, "fingerprints": []}
    answers: dict[str, Any] = {answer_key("runs", {}): {**none, "diffs": listed}}
    sections = []
    for name in explorer.diffs.diffs:
        query = {"diff": name}
        answers[answer_key("diff", query)] = found = explorer.answer("diff", query)
        sections.append(_plain(found))
        for site, atom in explorer.diffs.listed_atoms(name):
            one = {**query, "site": site, "atom": str(atom)}
            answers[answer_key("diff_atom", one)] = explorer.answer("diff_atom", one)
    titles = ", ".join(f"{each['base']} → {each['changed']}" for each in listed)
    return document({"answers": answers, "prompts": []}, "\n".join(sections), titles)


def _plain(found: Mapping[str, Any]) -> str:
    """Return a diff as static HTML, for viewers that run no scripts, such as mail programs."""
    lines = [f"<h2>{html.escape(found['base'])} → {html.escape(found['changed'])}</h2>"]
    lines += [f"<p>{html.escape(each)}</p>" for each in found["verdict"]]
    for atom in found["atoms"]:
        before, after = html.escape(atom["before"][-200:]), html.escape(atom["after"][:80])
        lines.append(f"<p>{atom['rank']}. <bdi>{before}<mark>{html.escape(atom['token'])}</mark>{after}</bdi></p>")
    return f"<section>{''.join(lines)}</section>"
