"""How far a model is from itself: the same weights read in other groups, and computed in another dtype.

What two models differ by means nothing below that. Only some thousand tokens are read, and kept while they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda.core.labels import Labels
from itda.core.massive import norms
from itda.core.site import Site
from itda.diffing.batches import Paired, PairedBatch
from itda.diffing.pairs import PairedSource
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import Bos

TOKENS = 4096
"""Number of tokens that are read."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""The shares of tokens whose differences `norm_quantiles` tells."""


@dataclass(frozen=True, eq=False)
class Noise:
    """A model beside itself, read in another way: a pair of which all differences are noise."""

    kind: str
    """What is different in words: `batch_size 4`, `dtype bfloat16`."""
    found: Paired
    """The model as it is, and as it is read otherwise, in the place of the changed model."""


def noise_of(
    model: ActivationModel,
    corpus: Corpus,
    sites: Sequence[Site],
    *,
    window: int,
    batch_size: int = 8,
    tokens: int = TOKENS,
    bos: Bos = "auto",
    first_tokens: bool = False,
    in_other_dtype: ActivationModel | None = None,
) -> Iterator[Noise]:
    """Yield the first tokens of a corpus in the model and in the model read otherwise, site by site.

    First read in groups of another size, then by the same model in another dtype, if it is given: `in_other_dtype`
    makes one. Massive activations are left out as in any pair. The activations of `tokens` tokens at all sites are in
    memory twice.

    >>> lm = LanguageModel.load("tiny")
    >>> texts = Corpus.from_texts(["import os", "for line in file:"])
    >>> [each.kind for each in noise_of(lm, texts, [Site(2)], window=16, in_other_dtype=in_other_dtype(lm))]
    ['batch_size 4', 'dtype bfloat16', 'dtype bfloat16']
    """
    options: dict[str, Any] = {"window": window, "bos": bos, "first_tokens": first_tokens, "tokens": tokens}
    other_size = max(1, batch_size // 2) if batch_size > 1 else 2

    def read(size: int) -> Mapping[Site, PairedBatch]:
        source = PairedSource(model, model, corpus, sites, batch_size=size, predictions=False, **options)
        return joined(each for each in source if isinstance(each, PairedBatch))

    once, again = read(batch_size), read(other_size)
    for site, batch in once.items():
        yield Noise(f"batch_size {other_size}", _paired(batch, again[site]))
    if in_other_dtype is not None:
        source = PairedSource(model, in_other_dtype, corpus, sites, batch_size=batch_size, **options)
        for each in source:
            yield Noise(f"dtype {in_other_dtype.dtype}", each)


def in_other_dtype(model: ActivationModel) -> LanguageModel | None:
    """Return a copy of a model in memory in bfloat16, or in float32 if it is in another dtype; None for others."""
    if not isinstance(model, LanguageModel):
        return None
    dtype = torch.bfloat16 if model.dtype == "float32" else torch.float32
    module = copy.deepcopy(model.model)
    torch.nn.Module.to(module, dtype)
    return LanguageModel(module, model.tokenizer, model.name, model.commit)


def joined(batches: Iterator[PairedBatch]) -> Mapping[Site, PairedBatch]:
    """Return all batches of each site as one."""
    parts: dict[Site, list[PairedBatch]] = {}
    for each in batches:
        parts.setdefault(each.site, []).append(each)
    return {site: _joined(site, found) for site, found in parts.items()}


def _joined(site: Site, parts: Sequence[PairedBatch]) -> PairedBatch:
    base, changed, *controls = (torch.cat(list(each)) for each in zip(*(part.models for part in parts), strict=True))
    tokens = np.concatenate([part.tokens for part in parts])
    return PairedBatch(site, tokens, Labels.concatenate([part.labels for part in parts]), base, changed, controls)


def _paired(once: PairedBatch, again: PairedBatch) -> PairedBatch:
    """Return the base of two readings, at the tokens that neither left out."""
    both, mine, theirs = np.intersect1d(once.tokens, again.tokens, return_indices=True)
    rows = torch.from_numpy(mine), torch.from_numpy(theirs)
    base, changed = (each.base[at.to(each.base.device)] for each, at in zip((once, again), rows, strict=True))
    return PairedBatch(once.site, both, once.labels[mine], base, changed)


def norm_quantiles(batch: PairedBatch, shares: Sequence[float] = QUANTILES) -> dict[float, float]:
    """Return quantiles of the norm of the difference over that of the base's activation.

    >>> batch = PairedBatch(Site(0), np.arange(3), Labels.of_rows(3), torch.eye(3), 1.5 * torch.eye(3))
    >>> norm_quantiles(batch, [0.5])
    {0.5: 0.5}
    """
    ratio: Tensor = norms(batch.changed - batch.base) / norms(batch.base).clamp(min=1e-30)
    values = torch.quantile(ratio.cpu(), torch.tensor(list(shares), dtype=ratio.dtype))
    return dict(zip(shares, values.tolist(), strict=True))
