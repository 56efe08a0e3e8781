"""The text of summaries: of a run folder, of a code index, of a folder of activations."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itda.core.arithmetic import on_other_bits
from itda.core.site import Site
from itda.report.effects import effects_lines
from itda.report.replication import replication_lines
from itda.report.text import WIDTH, number, place, table, visible
from itda.store.notes import Notes
from itda.store.records import DictionaryRecord, RunRecord

if TYPE_CHECKING:
    from itda.recipes.features import Fitted
    from itda.recipes.harvest import Harvest
    from itda.recipes.index import Indexing

NAMES = 20
"""Names of atoms that are listed, at most."""


def _name(folder: Path) -> str:
    """Return how a run is named in commands: a copy of one on the Hub by its repository."""
    repository = folder.parts[-3] if folder.parts[-2:-1] == ("snapshots",) else ""
    return repository.removeprefix("models--").replace("--", "/") if repository.startswith("models--") else str(folder)


def run_summary(run: RunRecord, loaded: Mapping[Site, DictionaryRecord]) -> str:
    """Return a summary of a run folder; the table has columns of measures once the run has been evaluated."""
    record = run.record
    front = ""
    if "prefix" in record:
        front = f" that begin with {' '.join(record['prefix'])}" if record["prefix"] else " without a BOS"
    order = "in corpus order" if record.get("order", "corpus") == "corpus" else "documents shuffled"
    read = f"{record['tokens']:,} tokens in windows of {record['window']}{front}"
    lines = [
        f"{_name(run.folder)}: {place(record['model'])} on {place(record['corpus'])} ({record['corpus_part']} part)",
        *([f"the model is stored as {record['quantisation']}"] if record.get("quantisation") else []),
        *textwrap.wrap(f"{read}, mode {record['settings']['mode']}, {order}, in {record['seconds']:.0f} s", WIDTH),
        "",
    ]
    if record["settings"].get("atoms") is not None:
        found = ", ".join(f"{site} {number:,}" for site, number in record.get("found", {}).items())
        why = f" ({record['atoms_default']}, by default)" if "atoms_default" in record else ""
        asked = f"{record['settings']['atoms']} atoms{why}"
        shown = f"found before the crop to {asked}: {found}" if found else f"asked for: {asked}"
        lines[-1:] = [*textwrap.wrap(shown, WIDTH), ""]
    evaluated = any(dictionary.metrics for dictionary in loaded.values())
    measured = {"fvu": "fvu", "CE score": "ce_loss_score"} if evaluated else {}
    said, columns = _settings(loaded)
    rows = []
    for site, dictionary in loaded.items():
        figures = dictionary.metrics or {}
        cells = [str(site), f"{dictionary.atoms:,}", *(cells[site] for cells in columns.values())]
        rows.append([*cells, *(number(figures.get(name)) for name in measured.values())])
    lines += [*textwrap.wrap(said, WIDTH), table(["site", "atoms", *columns, *measured], rows)]
    lines += _arithmetic({site: each.arithmetic for site, each in loaded.items()})
    lines += _massive({site: each.massive for site, each in loaded.items() if each.massive is not None})
    refined = {site: each.fidelity for site, each in loaded.items() if each.fidelity is not None and each.atoms}
    if refined:
        if record["settings"].get("recipe") == 2:
            lines += ["", "Recipe 2: each atom is the centre of a group of activations, and its label"]
            lines += ["names the one nearest to it. Fidelity is the cosine between the two.", ""]
        else:
            lines += ["", "Refined: each atom was moved from the activation that its label names to where"]
            lines += ["it reconstructs better. Fidelity is the cosine between the two.", ""]
        rows = [[str(site), *(f"{np.quantile(f, q):.3f}" for q in (0.5, 0.1, 0.0))] for site, f in refined.items()]
        lines.append(table(["site", "fidelity: median", "a tenth below", "least"], rows))
    replication = {site: each.replication for site, each in loaded.items() if each.replication is not None}
    if replication:
        lines += ["", *replication_lines(replication)]
    effects = {site: each.effects for site, each in loaded.items() if each.effects is not None}
    if effects:
        lines += ["", *effects_lines(effects)]
    lines += notes_lines(run.notes)
    if not evaluated:
        lines += ["", f"Not evaluated yet: itda evaluate {_name(run.folder)}"]
    return "\n".join(lines)


def _settings(loaded: Mapping[Site, DictionaryRecord]) -> tuple[str, dict[str, dict[Site, str]]]:
    """Return a line with the settings that all dictionaries share, and a column by site for each of the others."""
    shown: dict[str, dict[Site, str]] = {name: {} for name in ("d_model", "k", "pursuit", "threshold")}
    for site, dictionary in loaded.items():
        for name, cells in shown.items():
            value = dictionary.config[name]
            cells[site] = "-" if value is None else f"{value:.3g}" if name == "threshold" else str(value)
    shared = [name for name, cells in shown.items() if len(set(cells.values())) == 1]
    values = {name: next(iter(shown[name].values())) for name in shared}
    said = ", ".join(f"{name} {value}" for name, value in values.items() if value != "-")
    where = ", at every site" if len(loaded) > 1 and said else ""
    return said + where, {name: cells for name, cells in shown.items() if name not in shared}


def notes_lines(notes: Notes) -> list[str]:
    """Return what is written of a run's atoms: how many have what, the lists, and the names."""
    found = notes.summary
    if not found["atoms"]:
        return []
    counts = f"{found['named']} with a name, {found['noted']} with a note, {found['starred']} starred"
    lists = "; lists: " + ", ".join(f"{visible(name)} ({number})" for name, number in found["lists"].items())
    said = f"Your notes: {found['atoms']} atoms, {counts}{lists if found['lists'] else ''}"
    names = [f"{site} {atom} «{visible(each.name)}»" for (site, atom), each in sorted(notes.atoms.items()) if each.name]
    more = [f"and {len(names) - NAMES} more"] if len(names) > NAMES else []
    shown = textwrap.wrap("names: " + ", ".join([*names[:NAMES], *more]), WIDTH) if names else []
    return ["", *textwrap.wrap(said, WIDTH), *shown]


def _arithmetic(made: Mapping[Site, Sequence[int]]) -> list[str]:
    """Return lines on the dictionaries whose sums were added in another order than this itda's."""
    older: dict[str, list[str]] = {}
    for site, versions in made.items():
        if (said := on_other_bits(versions)) is not None:
            older.setdefault(said, []).append(str(site))
    told = (f"{', '.join(sites)}: {said}" for said, sites in older.items())
    return [line for each in told for line in ("", *textwrap.wrap(each, WIDTH))]


def _massive(found: Mapping[Site, Mapping[str, Any]]) -> list[str]:
    """Return lines on the massive activations of the training tokens; none where the rule was off."""
    if not found:
        return []
    multiple, use = (next(iter(found.values()))[name] for name in ("multiple", "use"))
    there = {site: each for site, each in found.items() if each["tokens"]}
    if not there:
        return ["", f"No massive activations: no norm is over {multiple:g} times the median."]
    became = "they were left out of training" if use == "skip" else "they could become atoms, and no more"
    said = (
        f"Massive activations, whose norm is over {multiple:g} times the median: they say little of the text and would "
        f"drown the rest, so {became}, and measures are of the other tokens."
    )
    rows = [
        [
            str(site),
            f"{each['tokens']:,} of {each['seen']:,}",
            f"{each['energy']:.1%}",
            f"{each['first']:,} of {each['windows']:,}",
            f"{each['median']:,.4g}",
        ]
        for site, each in there.items()
    ]
    header = ["site", "massive tokens", "of all energy", "windows begun by one", "median norm"]
    return ["", *textwrap.wrap(said, WIDTH), "", table(header, rows)]


def features_summary(run: Path, made: Fitted) -> str:
    """Return a summary of fitted feature encoders: atoms and tokens at each site, and how to read by them."""
    rows = [[str(site), f"{s['atoms']:,}", f"{s['tokens']:,}"] for site, s in made.sites.items()]
    lines = [f"{made.tokens:,} tokens read", "", table(["site", "atoms", "tokens fitted on"], rows), ""]
    return "\n".join([*lines, f"See them: itda decompose {run} TEXT --readout features"])


def index_summary(run: Path, made: Indexing) -> str:
    """Return a summary of a code index: the tokens, the speed, and the use of atoms at each site."""
    record, tokens = made.record, made.record["tokens"]
    lines = [f"{made.folder}: {record['corpus']} ({record['corpus_part']} part), window {record['window']}"]
    if made.new:
        lines.append(f"{tokens:,} tokens in {record['seconds']:.1f} s, {tokens / record['seconds']:,.0f} per second")
    else:
        lines.append(f"{tokens:,} tokens. It was there already: nothing to do.")
    rows = [
        [
            str(site),
            f"{s.atoms:,}",
            f"{s.unused:,}",
            f"{s.codes / max(1, tokens - s.massive):.1f}",
            f"{s.explained:.1%}",
        ]
        for site, s in made.sites.items()
    ]
    header = ["site", "atoms", "never used", "atoms per token", "explained"]
    if any(s.massive for s in made.sites.values()):
        rows = [[*row, f"{s.massive:,}"] for row, s in zip(rows, made.sites.values(), strict=True)]
        header.append("massive, left out")
    lines += ["", table(header, rows)]
    if "nearest" not in record:
        said = (
            f"An older itda made it, without the nearest activations of each atom: to have them, remove {made.folder} "
            "and run this again."
        )
        lines += ["", *textwrap.wrap(said, WIDTH, break_long_words=False)]
    return "\n".join([*lines, "", f"See it: itda explore {run}"])


def harvest_summary(made: Harvest) -> str:
    """Return a summary of a folder of activations: the tokens, the speed, and the size on disk."""
    about = made.about
    lines = textwrap.wrap(
        f"{made.folder}: {about['model']} on {about['corpus']} ({about['corpus_part']} part), window "
        f"{about['window']}, {about['order']} order",
        WIDTH,
        break_long_words=False,
    )
    lines.append(f"{made.tokens:,} tokens, {made.dtype} of width {made.d_model}, {made.bytes / 1e6:,.1f} MB")
    if made.new:
        speed = f"{made.new:,} in {made.seconds:.1f} s, {made.new / made.seconds:,.0f} per second"
        rest = f"; {made.tokens - made.new:,} from before" if made.new < made.tokens else ""
        lines.append(speed + rest)
    else:
        lines.append("It was there already: nothing to do.")
    rows = [[str(site), f"{size / 1e6:,.1f}"] for site, size in made.sites.items()]
    lines += ["", table(["site", "MB"], rows)]
    return "\n".join([*lines, "", f"Train from it: itda train --activations {made.folder}"])
