"""Fingerprints from Python: take them, keep them, read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.api.runs import AnyModel, in_memory
from itda.api.settings import layers_of, made, path_of, streams_of
from itda.core.similarity.fingerprint import RUNGS, SEGMENT, FingerprintSettings
from itda.progress import bars, remarks
from itda.recipes.fingerprint import fingerprint as read
from itda.sources.corpora.any_corpus import AnyCorpus, any_corpus
from itda.store.fingerprints import Fingerprint


def fingerprint(
    model: AnyModel,
    corpus: AnyCorpus,
    *,
    layers: int | Sequence[int] | None = None,
    tokens: int = 10_000,
    streams: str | Sequence[str] = "resid_post",
    out: str | Path | None = None,
    rungs: Sequence[float] = RUNGS,
    segment: int = SEGMENT,
    centred: bool = True,
    massive: bool = True,
    progress: bool = True,
    **given: Any,
) -> Fingerprint:
    """Find out which tokens are new to each layer of a model, in one pass over a corpus: `itda fingerprint`.

    `model` is what `load_model` returns, or a name that it takes. `corpus` is `python-docs`, a path, a Hub data set, a
    list of texts, or a `Corpus`. `layers` are some of the model's; None for all. With `out`, the result is written to
    that file too. `rungs`, `segment`, `centred` and `massive` are how it is taken
    (`itda.core.similarity.fingerprint`); only fingerprints that were taken alike can be compared. The other settings of
    `itda fingerprint` are taken under their own names: `window`, `order`, `seed`, ... Raises an `ItdaError`.

    >>> import itda
    >>> texts = ["for line in open(path):", "import os", "def read(file):", "return [x for x in y]"] * 8
    >>> found = itda.fingerprint("tiny", texts, layers=[1, 4], window=16, progress=False)
    >>> float(found["layer_4"].is_atom(0).mean()) < 1
    True
    """
    lm = in_memory(model, given)
    documents = None if isinstance(corpus, str | Path) else any_corpus(corpus)
    options = made(
        settings.Fingerprint,
        model=lm.name if lm is not None else str(model),
        corpus=documents.name if documents is not None else str(corpus),
        layers=layers_of(layers) if layers is not None else (),
        streams=streams_of(streams),
        tokens=tokens,
        out=path_of(out) if out is not None else None,
        **given,
    )
    how = FingerprintSettings(tuple(rungs), segment, centred, massive)
    return read(options, bars(not progress), remarks(not progress), model=lm, corpus=documents, how=how)
