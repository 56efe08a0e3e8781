"""The card of a run on the Hub: its README.md with figures and sample atoms, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from itda.core.site import Site
from itda.errors import StoreError
from itda.files import first_line
from itda.store.records import DictionaryRecord, RunRecord

SHOWN = 12
"""Atoms that the card shows, evenly spread over a dictionary."""
AROUND = 40
"""Characters of text shown before an atom's token; a quarter of them after it."""
CITATION = """```bibtex
@inproceedings{leask2025itda,
  title     = {Inference-Time Decomposition of Activations ({ITDA}): A Scalable Approach to Interpreting Large
               Language Models},
  author    = {Leask, Patrick and Nanda, Neel and Al Moubayed, Noura},
  booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
  year      = {2025},
  note      = {arXiv:2505.17769}
}
```
"""
"""The paper's entry for BibTeX; docs/cite.md has the same."""
MEASURES = {"fvu": "fvu", "ce_loss_score": "CE loss score", "l0": "l0"}


def run_card(run: RunRecord, repository: str, *, picture: str | None) -> str:
    """Return the README of a run's repository, with the metadata that the Hub reads."""
    made, summaries = run.record, run.summaries()
    base = str(made.get("model", "a model"))
    hub_id = base.partition(":")[0]
    tag = f"base_model: {hub_id}\n" if hub_id.count("/") == 1 and hub_id[0] not in "./~" else ""
    first = next(iter(run.sites), None)
    shown = f"\n![Measures and atoms of each dictionary]({picture})\n" if picture is not None else ""
    width = summaries[first].config["d_model"] if first is not None else "d_model"
    window = f"{made.get('window', '-')}{_front(made)}"
    return f"""---
library_name: itda
tags: [itda, interpretability, sparse-coding]
{tag}---

# ITDA dictionaries of {base}

One folder for each site of the model. Each atom of a dictionary is an activation of the model, divided by its norm, or
the centre of a group of them, labelled with the document and the token at which it, or the one nearest to it, was read
(`labels.parquet`).

{_figures(summaries)}

fvu is the fraction of variance unexplained, CE loss score what the dictionary keeps of what the site does for
predictions (1: all), l0 the atoms per token, all on held-out text; replicated is how often an atom comes back from
other documents. A dash: not measured.
{shown}
| setting | value |
|---|---|
| mode | {made["settings"].get("mode", "-")} |
| corpus | {made.get("corpus", "-")} |
| tokens | {made.get("tokens", "-")} |
| window | {window} |

```
pip install itda
itda info {repository}
itda decompose {repository} "some text"
itda explore {repository}
```

```python
import itda
model = itda.ITDA.from_pretrained("{repository}/{first}")
code = model.encode(activations)      # activations [batch, {width}]
model.labels[code.indices]            # the labels of the atoms
```
{_atoms(run, first) if first is not None else ""}
Method: Leask, Nanda, Al Moubayed, "Inference-Time Decomposition of Activations (ITDA)", ICML 2025, arXiv 2505.17769.

{CITATION}"""


def _front(made: Mapping[str, Any]) -> str:
    if "prefix" not in made:
        return ""
    return f", each begins with {_code(' '.join(made['prefix']))}" if made["prefix"] else ", without a BOS"


def _figures(summaries: Mapping[Site, DictionaryRecord]) -> str:
    """Return the table of what each dictionary is and how well it does, as Markdown."""
    rows = [
        "| site | atoms | k | fvu | CE loss score | l0 | replicated | effect beyond control |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for site, one in summaries.items():
        measured = one.metrics or {}
        cells = [str(site), f"{one.atoms:,}", str(one.config["k"])]
        cells += ["-" if measured.get(name) is None else f"{measured[name]:.4g}" for name in MEASURES]
        cells += [f"{one.replication.summary()['mean']:.0%}" if one.replication is not None and one.atoms else "-"]
        beyond = one.effects.summary()["measures"]["added"]["beyond_control"] if one.effects is not None else None
        cells += ["-" if beyond is None else f"{beyond:.0%}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _atoms(run: RunRecord, site: Site) -> str:
    """Return some atoms of a dictionary in their own text, as Markdown."""
    path = run.sites[site] / "labels.parquet"
    try:
        labels = pyarrow.parquet.read_table(path, columns=["token", "before", "after"])
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}): train the run anew") from error
    numbers = np.unique(np.linspace(0, len(labels) - 1, min(SHOWN, len(labels))).astype(int))
    if not len(numbers):
        return ""
    rows = ["", f"Some atoms of {site}, each as the token where it was read:", "", "| atom | text |", "|---|---|"]
    for number, one in zip(numbers.tolist(), labels.take(numbers).to_pylist(), strict=True):
        text = f"{one['before'][-AROUND:]}«{one['token']}»{one['after'][: AROUND // 4]}"
        rows.append(f"| {number} | {_code(text)} |")
    return "\n".join([*rows, ""])


def _code(text: str) -> str:
    """Return a text as one cell of a Markdown table, in which nothing of it is taken for Markdown or HTML.

    >>> _code("a`|b\\n<i>")
    '<code>a&#96;&#124;b⏎&lt;i&gt;</code>'
    """
    signs = {"\n": "⏎", "\t": "⇥", "\r": "␍", "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}
    signs |= {"*": "&#42;", "_": "&#95;", "\\": "&#92;", "[": "&#91;", "]": "&#93;", "$": "&#36;", "~": "&#126;"}
    return f"<code>{''.join(signs.get(c, c if c.isprintable() else '·') for c in text)}</code>"


def has_matplotlib() -> bool:
    """Return True if pictures can be drawn."""
    return find_spec("matplotlib") is not None


def draw(run: RunRecord, path: Path) -> None:
    """Write the picture of a run to the file `path` (PNG): its measures by site, and how new its atoms were."""
    from matplotlib.figure import Figure
    from safetensors.numpy import load_file

    summaries = run.summaries()
    names = [site.short for site in summaries]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines: dict[str, Sequence[float]] = {}
    for key, name in list(MEASURES.items())[:2]:
        values = [(one.metrics or {}).get(key) for one in summaries.values()]
        if any(value is not None for value in values):
            lines[name] = [float("nan") if value is None else float(value) for value in values]
    if not lines:
        lines["atoms"] = [one.atoms for one in summaries.values()]
    for (name, values), mark in zip(lines.items(), "os", strict=False):
        left.plot(names, values, mark + "-", label=name)
    left.set_xlabel("layer")
    left.legend(fontsize=8)
    left.set_title("measures on held-out text" if "atoms" not in lines else "atoms of each dictionary", fontsize=9)
    said = {"novelty": "error of the atom in the dictionary before it", "fidelity": "cosine of the atom to its label's"}
    tensors = {site: load_file(folder / "atoms.safetensors") for site, folder in run.sites.items()}
    kind = next((kind for kind in said if any(kind in each for each in tensors.values())), "novelty")
    for site, each in tensors.items():
        if len(each.get(kind, ())):
            right.plot(np.sort(each[kind])[::-1], np.linspace(0, 1, len(each[kind])), label=site.short)
    right.set_xlabel(said[kind])
    right.set_ylabel("share of atoms above")
    right.set_title("how new each atom was" if kind == "novelty" else "how near each atom is to its label", fontsize=9)
    if right.lines and len(run.sites) <= 8:
        right.legend(fontsize=8, title="layer", title_fontsize=8)
    figure.savefig(path, dpi=120, format="png", metadata={"Software": None})
