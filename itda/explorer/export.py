"""The explorer as one HTML file: the same pages and scripts, with the answers in the file instead of a server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from itda.errors import ItdaError
from itda.explorer.landing import worth_seeing
from itda.explorer.pages import Explorer
from itda.explorer.readouts import READOUTS

STATIC = Path(__file__).parent / "static"
MODULES = (
    "dom", "text", "state", "api", "list", "charts", "heat", "source", "match", "save", "notes", "noted", "atoms",
    "browse", "uses", "landing", "corpus", "elsewhere", "picture", "help", "steer", "strip", "detail", "tinted",
    "atom", "prompt", "compare", "overview", "fingerprints", "shades", "diff", "app",
)  # fmt: skip
"""The JavaScript modules of the pages, each after those that it imports."""

EXPORT = re.compile(r"^export (?:async )?(?:function|const|class) (\w+)", re.MULTILINE)

USES_WITHOUT_SCRIPTS = 3
"""Examples of an atom that a reader sees whose viewer runs no scripts."""


@dataclass(frozen=True)
class Contents:
    """The contents of an exported page: for each run one site, with some atoms and prompts."""

    site: Mapping[str, str]
    """By run."""
    atoms: Mapping[str, Sequence[int]]
    """By run."""
    prompts: Sequence[str]
    """Texts, each decomposed with every run."""


def page(explorer: Explorer, contents: Contents, update: Callable[[int], Any] = lambda _: None) -> str:
    """Return the HTML of one self-contained file. `update` is called with 1 for each atom done. Raises `ItdaError`s."""
    answers: dict[str, Any] = {}

    def carry(name: str, **query: str) -> Any:
        answers[answer_key(name, query)] = value = explorer.answer(name, query)
        return value

    runs = explorer.answer("runs", {})
    kept = [run for run in runs["runs"] if run["run"] in contents.site]
    for run in kept:
        run["sites"] = [site for site in run["sites"] if site["site"] == contents.site[run["run"]]]
    answers[answer_key("runs", {})] = {"runs": kept, "live": False}
    sections = []
    for run, site in contents.site.items():
        carry("overview", run=run)
        atoms = list(contents.atoms[run])
        query = {"run": run, "site": site}
        answers[answer_key("atoms", query)] = _rows(explorer.answer("atoms", query), atoms)
        carry("start", **query)
        carry("notes", **query)
        for atom in atoms:
            sections.append(_plain(carry("atom", **query, atom=str(atom))))
            update(1)
        with suppress(ItdaError):  # a model without logits, or none at hand: the page does without
            for atom, value in zip(atoms, explorer.logits(run, site, atoms), strict=True):
                answers[answer_key("logits", {**query, "atom": str(atom)})] = value
        for text in contents.prompts:
            for readout in _readouts(runs, run, site):
                # As the page asks: the usual one has no name in the address.
                carry("decompose", **query, text=text, **({} if readout == READOUTS[0] else {"readout": readout}))
    names = list(contents.site)
    for b in names[1:] or names:
        a = names[0]
        carry("compare", a=a, b=b)
        if a != b:
            query = {"a": a, "b": b, "site_a": contents.site[a], "site_b": contents.site[b]}
            answers[answer_key("labels", query)] = _only_carried(explorer.answer("labels", query), contents, a, b)
    prompts = [[run, site, text] for run, site in contents.site.items() for text in contents.prompts]
    return document({"answers": answers, "prompts": prompts}, "\n".join(sections), ", ".join(names))


def _readouts(runs: Mapping[str, Any], run: str, site: str) -> list[str]:
    sites = next(each["sites"] for each in runs["runs"] if each["run"] == run)
    return next(each["readouts"] for each in sites if each["site"] == site)


def answer_key(name: str, query: Mapping[str, str]) -> str:
    """Return what an exported page calls the answer to a question."""
    return name + "?" + urlencode(sorted(query.items()))


def _rows(atoms: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    columns = {
        name: [column[atom] for atom in kept] if isinstance(column, list) and name != "documents" else column
        for name, column in atoms.items()
    }
    return columns | {
        "ids": list(kept),
        "bytes": {str(row): atoms["bytes"][str(atom)] for row, atom in enumerate(kept) if str(atom) in atoms["bytes"]},
    }


def _only_carried(labels: dict[str, Any], contents: Contents, a: str, b: str) -> dict[str, Any]:
    left, right = set(contents.atoms[a]), set(contents.atoms[b])
    return {
        "both": [pair for pair in labels["both"] if pair[0] in left],
        "only_a": [atom for atom in labels["only_a"] if atom in left],
        "only_b": [atom for atom in labels["only_b"] if atom in right],
        "counts": labels["counts"],
    }


def chosen_atoms(explorer: Explorer, run: str, site: str, prompts: Sequence[str], most: int) -> list[int]:
    """Choose atoms for an exported page: the first of the prompts' codes and features, then the most used.

    There are `most` in all, at most half of them for the prompts, and up to a quarter that the first page shows. Others
    that do not replicate are the last to be chosen.
    """
    first: list[int] = []
    some = [name for name in _readouts(explorer.answer("runs", {}), run, site) if name in (READOUTS[0], "features")]
    for text in prompts:
        for readout in some:
            found = explorer.answer("decompose", {"run": run, "site": site, "text": text, "readout": readout})
            ordinary = zip(found["codes"], found["explained"], strict=True)
            first += [ids[0] for (ids, _), share in ordinary if ids and share]
    dictionary = explorer.runs.dictionary(run, site)
    number = len(dictionary.itda)
    uses = dictionary.index.counts if dictionary.index is not None else np.zeros(number)
    unreplicated = np.array([dictionary.no_finding(atom) for atom in range(number)], dtype=bool)
    ranked = np.lexsort((-uses, unreplicated)).tolist()
    of_prompts = list(dict.fromkeys(first))[: most // 2]
    best = list(worth_seeing(dictionary))[: most // 4]
    return sorted(list(dict.fromkeys([*of_prompts, *best, *ranked]))[:most])


def _plain(atom: Mapping[str, Any]) -> str:
    """Return an atom as static HTML, for viewers that run no scripts, such as mail programs."""
    label = atom["label"]
    text = f"<p>{html.escape(label['before'][-200:])}<mark>{html.escape(label['token'])}</mark>"
    found = atom["replication"]
    doubt = "<p>It does not replicate: do not take it for a finding.</p>" if found and not found["replicates"] else ""
    lines = [f"<section><h2>Atom {atom['atom']}</h2>{doubt}{text}{html.escape(label['after'][:80])}</p>"]
    groups = atom["uses"]["groups"][:1] if atom["uses"] else []
    for example in [one for group in groups for one in group["examples"][:USES_WITHOUT_SCRIPTS]]:
        tokens = [html.escape(token) for token in example["tokens"]]
        tokens[example["at"]] = f"<mark>{tokens[example['at']]}</mark>"
        lines.append(f"<p>{example['coefficient']:+.5g} <bdi>{''.join(tokens)}</bdi></p>")
    return "".join(lines) + "</section>"


def script() -> str:
    """Return the pages' JavaScript as one script: each module is a function that returns its exports.

    A page from a file may not import modules from other files, and inline ones cannot import each other. No two
    modules may export one name, which a test holds.
    """
    parts = []
    for name in MODULES:
        text = (STATIC / f"{name}.js").read_text(encoding="utf-8")
        text = re.sub(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", "", text, flags=re.MULTILINE)
        exported = ", ".join(EXPORT.findall(text))
        body = EXPORT.sub(lambda found: found[0].removeprefix("export "), text)
        parts.append(f"const {{ {exported} }} = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();")
    return "\n".join(parts)


def document(data: Mapping[str, Any], plain: str, title: str) -> str:
    """Return the HTML of a page that carries its `data`; `plain` is what viewers without scripts show."""
    # No < may be left: a script element ends at the first </script, wherever it stands.
    embedded = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    code, style = script(), (STATIC / "style.css").read_text(encoding="utf-8")
    assert "</script" not in code, "the front end may not hold the end of a script element"
    assert "</style" not in style
    policy = (
        f"default-src 'none'; script-src '{_hash(code)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    shell = (STATIC / "index.html").read_text(encoding="utf-8")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{html.escape(title)} · itda</title>'
    shell = shell.replace("<title>itda</title>", meta)
    shell = shell.replace('<link rel="stylesheet" href="/static/style.css">', f"<style>{style}</style>")
    shell = re.sub(r'<(link rel="modulepreload"|script type="module") .*\n', "", shell)
    shell = shell.replace('<p class="view">This page needs JavaScript.</p>', f'<div class="view">{plain}</div>')
    data_block = f'<script type="application/json" id="data">{embedded}</script>'
    # Not str.replace on what holds corpus text: `plain` might contain any of these.
    head, closing = shell.rsplit("</body>", 1)
    return f'{head}{data_block}\n<script type="module">{code}</script>\n</body>{closing}'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
