"""The noise of a diff: how far the base is from itself, at the same sites."""

from __future__ import annotations

from typing import Any

import numpy as np

from itda import config as settings
from itda.diffing.batches import PairedBatch, PairedPredictions
from itda.diffing.noise import Noise, in_other_dtype, joined, noise_of, norm_quantiles
from itda.diffing.pairs import PairedSource
from itda.recipes.runs import Say
from itda.sources.models.transformers import LanguageModel

TOKENS = 2048
"""Number of tokens that are read again by default."""


def noise_values(options: settings.Diff, source: PairedSource, say: Say) -> dict[str, Any] | None:
    """Return for each way to read the base again how large the differences are at each site, as JSON values.

    None if that was not asked for, and by default for a model that is not in memory, whose files would be read anew.
    """
    base = source.base
    asked = options.noise
    if asked is None:
        if not isinstance(base, LanguageModel):
            say("noise is not measured, as the base is read block by block: add --noise 2048 to read it again for that")
            return None
        asked = TOKENS
    if not asked:
        return None
    found: dict[str, Any] = {}
    batches: dict[str, dict[str, list[PairedBatch]]] = {}
    kl: dict[str, list[np.ndarray]] = {}
    for each in noise_of(
        base,
        source.corpus,
        source.sites,
        window=options.window,
        batch_size=options.batch_size,
        tokens=min(asked, options.tokens),
        bos=source.bos,
        first_tokens=options.first_tokens,
        in_other_dtype=in_other_dtype(base),
    ):
        _sort(each, batches, kl)
    for kind, sites in batches.items():
        found[kind] = {
            "tokens": max(sum(map(len, parts)) for parts in sites.values()),
            "sites": {site: _quantiles(parts) for site, parts in sites.items()},
            "kl": float(np.nanmean(np.concatenate(kl[kind]))) if kind in kl else None,
        }
    return found


def _sort(each: Noise, batches: dict[str, dict[str, list[PairedBatch]]], kl: dict[str, list[np.ndarray]]) -> None:
    if isinstance(each.found, PairedPredictions):
        kl.setdefault(each.kind, []).append(each.found.kl)
    else:
        batches.setdefault(each.kind, {}).setdefault(str(each.found.site), []).append(each.found)


def _quantiles(parts: list[PairedBatch]) -> dict[str, float]:
    """Return quantiles of the norm of the difference over that of the activation."""
    whole = next(iter(joined(iter(parts)).values()))
    return {f"{share:g}": value for share, value in norm_quantiles(whole).items()}
