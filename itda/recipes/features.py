"""`itda features`: fit the detectors of a run's atoms in one pass over its corpus, and keep them in the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.checks import check_index_batch
from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import ITDA
from itda.core.readout_features import FeatureEncoder
from itda.core.readout_features_fit import Moments, encoder_of
from itda.errors import CorpusError, StoreError
from itda.files import first_line, locked
from itda.recipes.runs import Bar, Progress, Say, corpus_of, no_bar, now_and_then, open_run, unsaid
from itda.sources.source import ModelSource
from itda.store.features import write_features
from itda.store.records import chosen_site


@dataclass(frozen=True)
class Fitted:
    """The feature encoders of a run, on disk with its dictionaries."""

    folder: Path
    tokens: int
    """Activations read at each site, massive ones included."""
    sites: Mapping[Site, Mapping[str, Any]]
    """For each site the number of atoms, and of the activations that it was fitted on (`tokens`)."""


def fit_run(options: settings.Features, bar: Bar = no_bar, say: Say = unsaid) -> Fitted:
    """`itda features`: fit a feature encoder for each dictionary of a run, and write it beside the dictionary.

    Encoders that are there are replaced, once all new ones are fitted. `say` is told what the user should know. Raises
    an `ItdaError` for bad input.
    """
    run = open_run(options.run)
    check_index_batch(options.batch_size)
    wanted = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    sites = [site for site in run.sites if site in wanted]
    corpus = corpus_of(run, options.corpus, options, "read", say)
    dictionaries = {site: run.dictionary(site) for site in sites}
    tokens = options.tokens if options.tokens is not None else int(run.record["tokens"])
    model = run.model(options, say)
    source = ModelSource(
        model,
        corpus,
        sites,
        window=run.record["window"],
        batch_size=options.batch_size or run.record["batch_size"],
        tokens=tokens,
        bos=run.bos,
    )
    with locked(run.folder, "changed"), bar("features", tokens) as progress:
        with model.watched(now_and_then(progress.set_postfix_str)):
            read, encoders = _fitted(source, dictionaries, progress)
        if not read:
            raise CorpusError(f"{corpus.name} has no token to fit features on: name another corpus with --corpus")
        for site, encoder in encoders.items():
            try:
                write_features(encoder, run.sites[site])
            except OSError as error:
                raise StoreError(
                    f"cannot write to {run.sites[site]} ({first_line(error)}): copy the run where you may write"
                ) from error
    sizes = {site: {"atoms": len(each.detectors), "tokens": each.tokens} for site, each in encoders.items()}
    return Fitted(run.folder, read, sizes)


def _fitted(
    source: Iterable[Mapping[Site, ActivationBatch]], dictionaries: Mapping[Site, ITDA], progress: Progress
) -> tuple[int, dict[Site, FeatureEncoder]]:
    """Return the number of activations read, and the encoder of each site; none if no activation was read."""
    moments = {site: Moments(each.d_model) for site, each in dictionaries.items()}
    read = 0
    for batches in source:
        for site, sums in moments.items():
            x = batches[site].activations
            sums.add(x[~dictionaries[site].is_massive(x)])
        number = len(next(iter(batches.values())).labels)
        read += number
        progress.update(number)
    return read, {site: encoder_of(each.atoms, moments[site]) for site, each in dictionaries.items()} if read else {}
