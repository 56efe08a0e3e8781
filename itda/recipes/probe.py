"""`itda probe`: how well a few latents of each readout of a run's dictionaries tell classes of Python's syntax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda import config as settings
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.levels import two_levels
from itda.errors import CorpusError
from itda.evaluation.probing import ProbeResult, probe
from itda.evaluation.python_classes import classes_of
from itda.recipes.runs import Bar, Say, corpus_of, limits_of, no_bar, open_run, unsaid
from itda.sources.corpora.corpus import Corpus, Document
from itda.sources.source import ModelSource

LATENT_COUNTS = (1, 2, 5, 20, None)
"""Latents that probes read; None for all."""
READOUTS = 5
"""Number of readouts that `_features` yields for a dictionary without a feature encoder; else one more."""
CHARACTERS = 4000
"""Characters of each document that are read."""
LEAST = 50
"""Tokens in a class, and outside of it, that there must be for it to be probed."""


def probe_run(
    options: settings.Probe, bar: Bar = no_bar, say: Say = unsaid
) -> tuple[list[str], dict[Site, dict[str, list[ProbeResult]]]]:
    """`itda probe`: probe the readouts of a run's dictionaries for classes of Python's syntax.

    Returns the names of the classes and, by site and readout, a `ProbeResult` for each of `LATENT_COUNTS`.

    Tokens that are massive at any site are left out. Probes are fitted on three in four documents and judged on the
    rest. `say` is told what the user should know. Raises an `ItdaError` for bad input.
    """
    tokens = options.tokens
    run = open_run(options.run)
    # Shuffled, as neighbouring files of a library are alike.
    corpus = _python(corpus_of(run, options.corpus, options, "unread", say)).shuffled(0)
    model, sites = run.model(options, say), list(run.sites)
    source = ModelSource(
        model,
        _beginnings(corpus),
        sites,
        window=run.record["window"],
        batch_size=options.batch_size,
        tokens=tokens,
        bos=run.bos,
    )
    found, labels = _read(source, sites, tokens, bar)
    dictionaries = {site: run.dictionary(site, limits_of(options)) for site in sites}
    # All sites are probed on the same tokens.
    massive = torch.zeros(sum(map(len, labels)), dtype=torch.bool)
    for site in sites:
        found[site] = [torch.cat(found[site])] if found[site] else []
        massive |= dictionaries[site].is_massive(found[site][0]) if found[site] else massive
    if bool(massive.any()):
        say(f"{int(massive.sum()):,} of {len(massive):,} tokens are massive and left out")
        found = {site: [x[~massive] for x in parts] for site, parts in found.items()}
        labels = [Labels.concatenate(labels)[~massive]]
    names, classes, documents = _classes(corpus, labels)
    results: dict[Site, dict[str, list[ProbeResult]]] = {}
    readouts = sum(READOUTS + (each.feature_encoder is not None) for each in dictionaries.values())
    with bar("probes", readouts) as progress:
        for site in sites:
            # Activations are on the CPU, where the probes are fitted; their codes are found where the model is.
            dictionary, x = dictionaries[site].to(model.device), torch.cat(found[site])
            results[site] = {}
            for name, features in _features(dictionary, x):
                progress.set_postfix_str(f"{site} {name}")
                results[site][name] = probe(features, classes, documents, latent_counts=LATENT_COUNTS)
                progress.update(1)
    return names, results


def probe_values(
    names: Sequence[str], results: Mapping[Site, Mapping[str, Sequence[ProbeResult]]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return results by site and readout as JSON values; `names` are those of the classes."""
    return {
        str(site): {
            name: [
                {
                    "latents": probe.size,
                    "accuracy": float(probe.mean.value),
                    "interval": [float(probe.mean.low), float(probe.mean.high)],
                    "by_class": dict(zip(names, probe.accuracy.value.tolist(), strict=True)),
                }
                for probe in probes
            ]
            for name, probes in readouts.items()
        }
        for site, readouts in results.items()
    }


def _read(
    source: ModelSource, sites: Sequence[Site], tokens: int, bar: Bar
) -> tuple[dict[Site, list[Tensor]], list[Labels]]:
    """Return the activations [batch, d_model] of each site in float32, and their labels, batch by batch."""
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    labels: list[Labels] = []
    with bar("activations", tokens) as progress:
        for batch in source:
            for site in sites:
                found[site].append(batch[site].activations.float().cpu())
            labels.append(batch[sites[0]].labels)
            progress.update(len(labels[-1]))
    return found, labels


def _features(dictionary: ITDA, x: Tensor) -> Iterator[tuple[str, Any]]:
    """Yield each readout of activations by name: latents [tokens, latents], or a pair (code, number of atoms)."""
    code, levels, atoms = dictionary.encode(x), two_levels(dictionary), len(dictionary)
    yield "code", (code, atoms)
    yield "code, two levels", (levels.encode(x), atoms)
    yield "code, by group", (levels.grouped(code), atoms)
    yield "similarity", dictionary.similarity(x)
    if dictionary.feature_encoder is not None:
        yield "features", (dictionary.features(x), atoms)
    yield "neurons", x


def _python(corpus: Corpus) -> Corpus:
    """Return the corpus with only those documents that are Python source."""
    return replace(corpus, read=lambda: (d for d in corpus.read() if d.id.split(":")[0].endswith(".py")))


def _beginnings(corpus: Corpus) -> Corpus:
    """Cut each document to its first `CHARACTERS`: intervals are over documents, so there should be many."""
    return replace(corpus, read=lambda: (Document(d.id, d.beginning(CHARACTERS)) for d in corpus.read()))


def _classes(corpus: Corpus, labels: list[Any]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the names of the classes, which tokens are members [tokens, classes], and each token's document."""
    columns = [
        np.concatenate([getattr(each, name) for each in labels] or [[]])
        for name in ("document", "char_start", "char_end")
    ]
    document, start, end = columns
    wanted, members, names = set(document.tolist()), None, []
    for text in corpus:
        rows = np.flatnonzero(document == text.id) if text.id in wanted else np.zeros(0, np.int64)
        classes = classes_of(text.text, start[rows].astype(np.int64), end[rows].astype(np.int64)) if len(rows) else None
        if classes is not None:
            names = list(classes)
            members = np.zeros((len(document), len(names)), dtype=bool) if members is None else members
            members[rows] = np.stack(list(classes.values()), axis=1)
    if members is None or len(wanted) < 4:
        raise CorpusError(
            f"{len(wanted)} files of Python source are too few to probe: 4 at least, raise --tokens or name a --corpus"
        )
    number = members.sum(axis=0)
    usable = np.flatnonzero((number >= LEAST) & (number <= len(document) - LEAST))
    return [names[i] for i in usable], members[:, usable], document.astype(str)
