"""The text of a fingerprint."""

from __future__ import annotations

import textwrap
from pathlib import Path

from itda.recipes.fingerprint import median_novelty
from itda.report.text import WIDTH, table
from itda.store.fingerprints import Fingerprint


def fingerprint_summary(made: Fingerprint, path: Path | None) -> str:
    """Return what a fingerprint found: at each site, the share of tokens that are atoms at each rung."""
    about, rungs = made.about, made.settings.rungs
    where = f"{path}: " if path is not None else ""
    lines = textwrap.wrap(
        f"{where}{about.get('model')} on {about.get('corpus')} ({about.get('corpus_part')} part), window "
        f"{about.get('window')}, {about.get('order')} order",
        WIDTH,
        break_long_words=False,
    )
    size = ""
    if path is not None:
        size = f", {path.stat().st_size / 1e6:.2f} MB, {path.stat().st_size / len(made) / len(made.sites):.1f} bytes"
        size += " for each token and site"
    lines += [f"{len(made):,} tokens, {len(made.sites)} sites{size}", ""]
    rows = []
    for site, found in made.sites.items():
        shares = [f"{found.is_atom(rung).mean():.1%}" for rung in range(len(rungs))]
        rows.append([str(site), f"{median_novelty(found):.3f}", *shares, f"{found.massive.mean():.2%}"])
    lines.append(table(["site", "novelty", *(f"> {rung:g}" for rung in rungs), "massive"], rows))
    lines.append("novelty: the median of 1 - cos^2 to the nearest token before, in its segment.")
    lines.append("> t: tokens with no earlier atom nearer than that. massive: left out.")
    name = path if path is not None else "a.itda"
    return "\n".join([*lines, "", f"Compare it with another: itda compare {name} OTHER.itda"])
