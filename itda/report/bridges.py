"""The text of what went to other tools."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from itda.report.text import table

if TYPE_CHECKING:
    from itda.bridges.export import Exported
    from itda.bridges.hub import Pushed
    from itda.bridges.neuronpedia_push import PushedSource
    from itda.bridges.sae_probes import SetScores

NEXT = {
    "json": "pandas.read_json({folder!r} + '/{site}/tokens.jsonl', lines=True)",
    "parquet": "duckdb.sql(\"SELECT * FROM '{folder}/{site}/tokens.parquet'\")",
    "delphi": "delphi.latents.LatentDataset({folder!r} + '/latents', ...)",
    "neuronpedia": "Ask Neuronpedia to import it, or send the same with itda push --to neuronpedia",
    "saelens": "sae_lens.SAE.load_from_disk({folder!r} + '/{site}')",
}
"""How to go on with what was exported, by format."""


def export_summary(made: Exported) -> str:
    """Return what was exported where, and how to go on."""
    sites = ", ".join(map(str, made.sites))
    after = NEXT[made.to].format(folder=str(made.folder), site=made.sites[0])
    return f"Written: {made.folder}, {made.bytes / 1e6:.1f} MB, {sites} for {made.to}\n{after}"


def push_summary(pushed: Pushed) -> str:
    """Return what was sent, or of a dry run what would be."""
    total = f"{sum(each.size for each in pushed.files) / 1e6:.1f} MB"
    if pushed.address is not None:
        return f"Pushed {len(pushed.files)} files, {total}: {pushed.address}\nRead it: itda info {pushed.to}"
    rows = [[each.name, f"{each.size:,}"] for each in pushed.files]
    return f"{table(['file', 'bytes'], rows)}\n\nTo {pushed.to}: {total}. Nothing was sent (--dry-run)."


def atoms_summary(sources: Sequence[PushedSource], *, sent: bool) -> str:
    """Return what is on Neuronpedia now, or of a dry run what would be."""
    rows = [[f"{each.model}/{each.source}", f"{each.atoms:,}", f"{len(each.vectors):,}"] for each in sources]
    after = "\n".join(f"Steer by atom {atom}: {place}" for each in sources for atom, place in each.vectors.items())
    text = table(["on Neuronpedia", "atoms", "vectors"], rows)
    if not sent:
        return f"{text}\n\nNothing was sent (--dry-run)."
    see = "\n".join(f"See it: {each.address}" for each in sources if each.address)
    return "\n\n".join(part for part in (text, after, see) if part)


def set_scores(made: SetScores) -> str:
    """Return a table for each site: the mean test AUC over the data sets, and its standard error, for each readout."""
    blocks = []
    for site, readers in made.sites.items():
        rows = []
        for reader, sets in readers.items():
            entries = [each for found in sets.values() for each in found]
            aucs = [[each["test_auc"] for each in entries if each["k"] == count] for count in made.counts]
            rows.append([reader, *(f"{mean(each):.3f}" if each else "-" for each in aucs)])
            errors = (f"±{stdev(each) / len(each) ** 0.5:.3f}" if len(each) > 1 else "" for each in aucs)
            rows.append(["", *errors])
        header = [str(site), *("all" if count is None else str(count) for count in made.counts)]
        blocks.append(table(header, rows))
    number = max((len(sets) for readers in made.sites.values() for sets in readers.values()), default=0)
    front = f"Test AUC of regressions on the best 1, 2 ... latents, the mean over {number} sets of sae-probes."
    return "\n\n".join([front, *blocks, f"Kept: {made.folder}"])
