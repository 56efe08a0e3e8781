"""`itda harvest`: activations of a corpus, kept on disk to train any number of dictionaries from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.core.batch import Site
from itda.errors import CorpusError, StoreError
from itda.recipes.activation_source import (
    about_of,
    asked_of,
    closing_of,
    cluster_of,
    open_corpus_of,
    open_model,
    prefix_of,
)
from itda.recipes.run_in_progress import versions
from itda.recipes.run_model import located
from itda.recipes.runs import Bar, Progress, Say, no_bar, unsaid
from itda.resolving import check_elsewhere, check_seed, check_shape, sites_of
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.shards.files import check_made_alike
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter
from itda.sources.source import ModelSource

KEPT_SETTINGS = ("revision", "device", "dtype", "trust_remote_code", "window", "batch_size", "part", "order", "seed")
KEPT_SETTINGS += ("bos", "text_field", "dataset_config", "dataset_split", "dataset_revision")
"""Settings kept in the manifest, with which the model and the corpus can be opened again."""
BITS_OF_ACTIVATIONS = ("torch", "transformers", "tokenizers")
"""Libraries whose versions the bits of activations may depend on."""


@dataclass(frozen=True)
class Harvest:
    """A summary of a folder of activations, once it is whole."""

    folder: Path
    about: Mapping[str, Any]
    """The settings and versions that made the activations, from the manifest."""
    tokens: int
    """Number of activations at each site."""
    d_model: int
    dtype: str
    bytes: int
    """Size of all files together."""
    sites: Mapping[Site, int]
    """Size of the shards of each site in bytes."""
    new: int
    """Number of tokens read this time."""
    seconds: float
    """Seconds that reading them took."""


def harvest(options: settings.Harvest, bar: Bar = no_bar, say: Say = unsaid) -> Harvest:
    """`itda harvest`: keep the activations of a corpus in a folder, with their labels.

    Goes on where a killed process with the same settings was, makes anew what has vanished since, and does nothing if
    all is there. Raises an `ItdaError` for bad input; a folder that was made otherwise is left as it is.
    """
    tokens, sites, options = options.tokens, sites_of(options), located(options)
    check_shape(options)
    check_seed(options)
    check_elsewhere(options)
    corpus = open_corpus_of(options, say)
    asked = {
        **asked_of(options, corpus),
        "tokens_asked": tokens,
        "settings": {name: getattr(options, name) for name in KEPT_SETTINGS},
    }
    # A whole folder needs no model, which may be large: look before loading it.
    if check_made_alike(options.out, {**asked, "sites": ", ".join(map(str, sites))}) is not None:
        with suppress(StoreError):
            return _harvest(ShardSource(options.out, verify=False), 0, 0.0)
    with (
        cluster_of(options) as cluster,
        closing_of(open_model(options.model, options, options.revision, cluster)) as model,
    ):
        about = {**asked, **about_of(options, model, corpus), "device": model.device}
        about |= {"prefix": prefix_of(options, model), "corpus_rules": corpus.rules}
        about["versions"] = {name: found for name, found in versions().items() if name in BITS_OF_ACTIVATIONS}
        return _filled(options, about, model, corpus, sites, tokens, bar)


def _filled(
    options: settings.Harvest,
    about: Mapping[str, Any],
    model: ActivationModel,
    corpus: Corpus,
    sites: list[Site],
    tokens: int,
    bar: Bar,
) -> Harvest:
    """Run the model on the corpus and write the activations that the folder lacks."""
    started = time.monotonic()
    with (
        ShardWriter(options.out, about, sites, model.d_model, model.dtype) as writer,
        bar("harvest", tokens) as progress,
    ):
        before = writer.tokens
        if before:
            progress.update(before)
            progress.set_postfix_str(f"{before:,} from before")
        source = partial(
            ModelSource,
            model,
            corpus,
            sites,
            window=options.window,
            batch_size=options.batch_size,
            bos=options.bos,
        )
        new = fill_gaps(writer, source, tokens, progress)
        if before + new == 0:
            raise CorpusError(f"{options.corpus} has no token to read: name another corpus with --corpus")
        writer.finish()
    return _harvest(ShardSource(options.out, verify=False), new, time.monotonic() - started)


def fill_gaps(writer: ShardWriter, source: Callable[..., ModelSource], tokens: int, progress: Progress) -> int:
    """Write the activations of each gap of a folder; return the number of tokens read.

    `source` is called with the number of activations after which the stream ends (`tokens`), and of those to `skip`.
    """
    received = shown = 0
    for first, end in writer.gaps:
        reading = source(tokens=tokens if end is None else end, skip=first)
        for batches in reading:
            writer.add(batches)
            received += sum(len(batch) for batch in batches.values())
            # Sites may come one after the other: a token counts in parts, one for each site.
            progress.update(received // len(reading.sites) - shown)
            shown = received // len(reading.sites)
    return shown


def _harvest(source: ShardSource, new: int, seconds: float) -> Harvest:
    return Harvest(
        folder=source.folder,
        about=source.about,
        tokens=source.tokens,
        d_model=source.d_model,
        dtype=source.dtype,
        bytes=source.bytes,
        sites=source.site_bytes,
        new=new,
        seconds=round(seconds, 3),
    )
