"""The text of a comparison of runs."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence

from itda.core.batch import Site
from itda.recipes.compare import Overlap, Pair, noise_floors
from itda.report.text import WIDTH, end, number, strips, table


def comparison(pairs: Sequence[Pair]) -> str:
    """Return the overlap of runs as text: a table for each pair if they are few, else a line for each."""
    parts = [_pair(pair, noise_floors(pairs, (pair.a, pair.b))) for pair in pairs[:MOST_PAIRS]]
    if len(pairs) > MOST_PAIRS:
        parts = []
    if len(pairs) > 1:
        parts.append(_pairs(pairs))
    meaning = "weighted: the Jaccard index of the labels, weighted by how much each atom was needed; 1 if equal. "
    if any(pair.a != pair.b for pair in pairs):
        meaning += "adjusted: the Jaccard index with what random sets of these sizes would share taken out. "
        meaning += "[ ]: 95%, by resampling documents. "
    if any(pair.centres for pair in pairs):
        meaning += (
            "Atoms here are centres of groups, and nothing says how much each was needed: weighted is the plain "
            "Jaccard index, and a label may change where the group does not. For layers, `itda fingerprint` is better. "
        )
    return "\n\n".join([*parts, textwrap.fill(f"{meaning}docs/comparing.md says more.", WIDTH)])


MOST_PAIRS = 3
"""Pairs, at most, that get a table each, site by site."""


def _alone(pair: Pair) -> str:
    """Return the matrix of a run that is compared with itself: each site with each other one."""
    names = [site.short for site in pair.sites[0]]
    cells = [[f"{value:.3f}" for value in values] for values in pair.matrices["weighted"]]
    lines = [f"{pair.a}: its sites with each other, {pair.tokens:,} tokens", ""]
    lines += ["The weighted Jaccard index:", "", *strips(names, names, cells)]
    if len(names) == 1:
        lines += ["", "It has only one site: name two runs, or train one with several --layers."]
        return "\n".join(lines)
    others = [(site, *_nearest(pair, row)) for row, site in enumerate(pair.sites[0])]
    rows = [[site.short, other.short, f"{value:.3f}"] for site, other, value in others]
    lines += ["", "The other site most similar to each:", "", table(["site", "other", "weighted"], rows)]
    return "\n".join(lines)


def _nearest(pair: Pair, row: int) -> tuple[Site, float]:
    """Return the site most similar to that of a row by the weighted Jaccard index, itself apart, and the value."""
    values = {site: float(value) for site, value in zip(pair.sites[1], pair.matrices["weighted"][row], strict=True)}
    del values[pair.sites[0][row]]
    best = max(values, key=lambda site: values[site])
    return best, values[best]


def _pair(pair: Pair, floors: Mapping[Site, Overlap]) -> str:
    if pair.a == pair.b:
        return _alone(pair)
    lines = [f"a: {pair.a}", f"b: {pair.b}"]
    if pair.kind == "noise floor":
        lines.append("Both are of one model, so what differs is noise, as in every other comparison.")
    a, b = (f"{share:.1%}" for share in pair.shares)
    how = "the end of the token in its document, as tokenizers differ" if pair.by_end else "position"
    lines += textwrap.wrap(f"{pair.tokens:,} tokens in both, {a} of those of a and {b} of b, matched by {how}.", WIDTH)
    for note in pair.notes:
        lines += textwrap.wrap(f"They differ in {note}.", WIDTH)
    if pair.same:
        with_floor = bool(floors) and pair.kind == "models"
        header = ["site", "atoms a", "atoms b", "Jaccard", "adjusted", "weighted"]
        rows = []
        for site, found in pair.same.items():
            cells = [str(site), *(f"{n:,}" for n in found.atoms)]
            cells += [_with_interval(found, "jaccard"), f"{found.values['adjusted']:.3f}"]
            cells.append(_with_interval(found, "weighted"))
            if with_floor:
                cells.append(f"{floors[site].values['weighted']:.3f}" if site in floors else "-")
            rows.append(cells)
        lines += ["", table([*header, *(["floor"] if with_floor else [])], rows)]
        if with_floor:
            lines.append("floor: weighted, of a run with itself, made at another batch size.")
    names = {"weighted": "weighted", "adjusted": "adjusted", "jaccard": "Jaccard"}
    names |= {"matched": "equal sizes", "size_only": "sizes alone"}
    rows = [
        [site.short, *(",".join(best.short for best in pair.matches[name].best[site][:3]) for name in names)]
        for site in pair.sites[0]
    ]
    if pair.same:
        rows.append(["same site", *(f"{pair.matches[name].accuracy:.0%}" for name in names)])
    lines += ["", "The site of b most similar to each site of a, by each number and the controls:", ""]
    lines.append(table(["a", *names.values()], rows))
    if pair.same:
        lines.append(f"same site: by chance it would be {1 / len(pair.sites[1]):.0%}.")
    union = pair.union
    lines += ["", f"All sites together: {union.both:,} labels of {union.atoms[0]:,} and {union.atoms[1]:,} in both,"]
    lines.append(f"Jaccard {_with_interval(union, 'jaccard')}, adjusted {union.values['adjusted']:.3f}.")
    return "\n".join(lines)


def _pairs(pairs: Sequence[Pair]) -> str:
    rows = []
    for pair in pairs:
        found = list(pair.same.values())
        mean = {
            name: statistics.fmean(each.values[name] for each in found) if found else None
            for name in ("jaccard", "adjusted", "weighted")
        }
        match = f"{pair.matches['weighted'].accuracy:.0%}" if found else "-"
        names = f"{end(pair.a, 14)} {end(pair.b, 14)}" + (" *" if pair.kind == "noise floor" else "")
        cells = [names, *(number(value) for value in mean.values())]
        rows.append([*cells, number(pair.union.values["jaccard"]), match])
    text = table(["runs", "Jaccard", "adjusted", "weighted", "union", "match"], rows)
    text += "\nJaccard to weighted: means over the sites that both have. union: Jaccard of all"
    text += "\nsites together. match: sites that are most like the same site, by weighted."
    return text + ("\n* one model: what differs is noise." if any(pair.kind == "noise floor" for pair in pairs) else "")


def _with_interval(overlap: Overlap, name: str) -> str:
    low, high = overlap.intervals[name]
    return f"{overlap.values[name]:.3f}" + (f" [{low:.2f},{high:.2f}]" if low == low else "")
