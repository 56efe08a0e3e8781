"""The text of what went to other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from itda.report.text import table

if TYPE_CHECKING:
    from itda.bridges.export import Exported
    from itda.bridges.hub import Pushed
    from itda.bridges.neuronpedia_push import PushedSource

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
