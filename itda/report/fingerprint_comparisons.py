"""The text of a comparison of fingerprints: a verdict in words, the whole matrix, and what it is made of."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from itda.core.similarity.fingerprint_index import FEWEST, NAMES, THE_INDEX, Sureness
from itda.core.site import Site
from itda.recipes.compare_fingerprints import FingerprintPair, noise_floor
from itda.report.text import WIDTH, end, strips, table

MOST_PAIRS = 3
"""Pairs, at most, that are shown site by site."""

PARTS = ("equal sums", "sizes alone")
"""What shared novelty is made of: shown beside it."""

ON_ORDER = " What is new depends on what came before, so make both in one order where you can."
"""A remark on fingerprints that were made in different orders."""

MOST_TIMES = 100
"""Times as many tokens, at most, that are told as a way to be surer."""


def fingerprint_comparison(pairs: Sequence[FingerprintPair], every: bool) -> str:
    """Return a comparison as text: a page for each pair if they are few, else a line for each."""
    parts = []
    if len(pairs) <= MOST_PAIRS:
        parts = [_pair(pair, noise_floor(pairs, pair), every) for pair in pairs]
    if len(pairs) > 1:
        parts.append(_pairs(pairs))
    few = any(pair.documents < FEWEST for pair in pairs)
    how = f"stretches of text: there are fewer than {FEWEST} documents." if few else "documents."
    parts.append(
        f"{THE_INDEX}: a token is more new to one of the two, less to the other. The\n"
        "sum of the smaller numbers over the sum of the larger. equal sums: the same\n"
        "after each is divided by its mean, so that only which tokens are new counts.\n"
        "sizes alone: a control, how new all tokens are together, whichever they are.\n"
        f"[ ]: 95%, by resampling {how}"
    )
    return "\n\n".join(parts)


def _pair(pair: FingerprintPair, floors: Mapping[Site, float], every: bool) -> str:
    lines = [f"a: {pair.a}"] if pair.alone else [f"a: {pair.a}", f"b: {pair.b}"]
    if not pair.alone:
        a, b = (f"{share:.1%}" for share in pair.shares)
        how = "the end of the token in its document, as tokenizers differ" if pair.by_end else "position"
        said = f"{pair.tokens:,} tokens in both, {a} of those of a and {b} of b, matched by {how}."
        lines += textwrap.wrap(said, WIDTH)
    for note in pair.notes:
        lines += textwrap.wrap(f"They differ in {note}.{ON_ORDER if note.startswith('order:') else ''}", WIDTH)
    if max(pair.massive) > 0:
        a, b = (f"{share:.2%}" for share in pair.massive)
        lines.append(f"Massive activations, left out: {a} of the tokens of a at most, {b} of b.")
    lines += ["", *textwrap.wrap(verdict(pair, floors), WIDTH), ""]
    lines += [f"{THE_INDEX}, a down and {'a' if pair.alone else 'b'} across:", *_matrix(pair, THE_INDEX)]
    if not pair.alone and pair.kind == "models":
        lines += ["", _by_parts(pair, floors), f"All sites together: {pair.union:.3f}."]
    for name in NAMES if every else ():
        if name != THE_INDEX:
            lines += ["", f"{name}, a down and {'a' if pair.alone else 'b'} across:", *_matrix(pair, name)]
    return "\n".join(lines)


def verdict(pair: FingerprintPair, floors: Mapping[Site, float]) -> str:
    """Say in words which sites correspond, how sure that is, and how many tokens would make it surer."""
    if pair.alone:
        return _on_one(pair)
    if pair.kind != "models":
        return _on_noise(pair)
    rows, columns = pair.sites
    best, sure = pair.index.argmax(axis=1), pair.sureness.sure
    shared = [i for i, site in enumerate(rows) if site in columns]
    same = [i for i in shared if columns[best[i]] == rows[i]]
    if len(columns) < 2:
        return f"b has only one site, so there is no choice: {THE_INDEX} is {pair.index.max():.3f} at most."
    said = "They have no site in common"
    if shared:
        which = "All" if len(same) == len(shared) else f"{len(same)} of the"
        said = f"{which} {len(shared)} sites that both have are most like the same site of the other"
        said += f" (by chance it would be {len(shared) / len(columns):.1f})"
    others = [f"{rows[i].short} is most like {columns[best[i]].short}" for i in range(len(rows)) if i not in same]
    said += ("; " + ", ".join(others[:6]) + (", ..." if len(others) > 6 else "") if others else "") + ". "
    said += f"{int(sure.sum())} of {len(rows)} are sure (95%). "
    return said + _more_tokens(pair) + _on_floor(floors)


def _more_tokens(pair: FingerprintPair) -> str:
    """Say how many tokens would make more of the sites sure."""
    times = pair.sureness.times_as_many()
    unsure = np.sort(times[~pair.sureness.sure])
    if not len(unsure):
        return ""
    if np.isnan(unsure).any():
        return "These are too few tokens to say how sure that is. "
    within = unsure[unsure <= MOST_TIMES]
    if not len(within):
        return "For the others the best two are too alike for any number of tokens to tell. "
    middle = within[(len(within) - 1) // 2]
    number = float(f"{middle * pair.tokens:.1e}")
    return f"About {number:,.0f} tokens should make {(len(within) + 1) // 2} more of them sure. "


def _on_floor(floors: Mapping[Site, float]) -> str:
    return f"A model compared with itself, read again, has at least {min(floors.values()):.4f}." if floors else ""


def _on_one(pair: FingerprintPair) -> str:
    sites, index = pair.sites[0], pair.index.copy()
    if len(sites) < 2:
        return "There is only one site: compare it with another fingerprint."
    np.fill_diagonal(index, -1)
    best = index.argmax(axis=1)
    near = int((np.abs(best - np.arange(len(sites))) == 1).sum())
    least = np.unravel_index(np.where(index < 0, 2, index).argmin(), index.shape)
    return (
        f"A model with itself: {near} of its {len(sites)} sites are most like a neighbour ({index.max():.2f} at most). "
        f"{sites[least[0]].short} and {sites[least[1]].short} are least alike ({index[least]:.2f})."
    )


def _on_noise(pair: FingerprintPair) -> str:
    found = [
        float(values[pair.sites[1].index(site)])
        for site, values in zip(pair.sites[0], pair.index, strict=True)
        if site in pair.sites[1]
    ]
    least = min(found, default=float("nan"))
    if least == 1:
        return f"The same model, read again: {THE_INDEX} is exactly 1 at every site."
    return f"The same model, read again: {THE_INDEX} is {least:.4f} at least. What differs is noise."


def _matrix(pair: FingerprintPair, name: str) -> list[str]:
    """Return the lines of a similarity index for all pairs of sites."""
    rows, columns = ([site.short for site in sites] for sites in pair.sites)
    return ["", *strips(rows, columns, [[_short(value) for value in line] for line in pair.matrices[name]])]


def _short(value: float) -> str:
    return "1" if value == 1 else f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _by_parts(pair: FingerprintPair, floors: Mapping[Site, float]) -> str:
    header = ["a", "most like", THE_INDEX, "sure", *PARTS, *(["floor"] if floors else [])]
    sure, cells = pair.sureness, []
    for i, site in enumerate(pair.sites[0]):
        j = int(pair.index[i].argmax())
        value = f"{pair.index[i, j]:.3f}"
        if sure.low[i, j] == sure.low[i, j]:
            value += f" [{sure.low[i, j]:.2f},{sure.high[i, j]:.2f}]"
        by_part = [",".join(best.short for best in pair.matches[name].best[site][:2]) for name in PARTS]
        row = [site.short, pair.sites[1][j].short, value, _said(sure, i), *by_part]
        cells.append([*row, *([f"{floors[site]:.4f}" if site in floors else "-"] if floors else [])])
    if any(site in pair.sites[1] for site in pair.sites[0]):
        by_part = [f"{pair.matches[name].accuracy:.0%}" for name in PARTS]
        cells.append(
            ["same site", f"{pair.matches[THE_INDEX].accuracy:.0%}", "", "", *by_part, *([""] if floors else [])]
        )
    return table(header, cells)


def _said(sure: Sureness, row: int) -> str:
    return "-" if np.isnan(sure.least_lead[row]) else "yes" if sure.sure[row] else "no"


def _pairs(pairs: Sequence[FingerprintPair]) -> str:
    rows = []
    for pair in pairs:
        names = f"{end(pair.a, 20)} {end(pair.b, 20)}" + (" *" if pair.kind == "noise floor" else "")
        shared = [(i, pair.sites[1].index(site)) for i, site in enumerate(pair.sites[0]) if site in pair.sites[1]]
        mean = f"{np.mean([pair.index[i, j] for i, j in shared]):.3f}" if shared else "-"
        matches = [f"{pair.matches[name].accuracy:.0%}" if shared else "-" for name in (THE_INDEX, *PARTS)]
        rows.append([names, mean, f"{pair.union:.3f}", *matches])
    text = table(["fingerprints", THE_INDEX, "union", "match", *PARTS], rows)
    text += f"\n{THE_INDEX}: mean over the sites that both have. union: of all sites together. match:"
    text += "\nsites that are most like the same site, by it and by its parts."
    return text + ("\n* one model: what differs is noise." if any(pair.kind == "noise floor" for pair in pairs) else "")
