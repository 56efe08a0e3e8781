"""`itda evaluate`: dictionaries spliced into their model, on held-out documents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType

import numpy as np

from itda import config as settings
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.evaluation.evaluate import cost_of, evaluate, spliceable
from itda.evaluation.measures import Evaluation, Massive
from itda.evaluation.verdict import verdict
from itda.explorer.overview import grew, growth
from itda.files import FORMAT_VERSION, METRICS_FORMAT, write_json
from itda.recipes.activation_source import model_loader
from itda.recipes.run_model import find_model
from itda.recipes.runs import Bar, Run, Say, corpus_of, finite, limits_of, no_bar, now_and_then, open_run, unsaid
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.passes import tokens_as_long
from itda.sources.tokenizing.special import Bos

NOT_KNOWN: Mapping[Site, float] = MappingProxyType({})
"""The default of `growing`: nothing is known of any site."""


def evaluate_run(options: settings.Evaluate, bar: Bar = no_bar, say: Say = unsaid) -> dict[Site, Evaluation]:
    """`itda evaluate`: measure a run's dictionaries on held-out documents; the figures are kept in metrics.json.

    `say` is told what the user should know. Raises an `ItdaError` for bad input.
    """
    tokens = options.tokens
    run = open_run(options.run)
    corpus = corpus_of(run, options.corpus, options, "unread", say)
    where = find_model(run.folder, run.record, options, say)
    model = spliceable(model_loader(where.name, where.options, where.revision, head=True)())
    if tokens is None:
        tokens = tokens_as_long(run.record["tokens"], cost_of(model, list(run.sites)))
        say(f"evaluating on {tokens:,} tokens, about as much work as training was (--tokens sets another number)")
    results = evaluate_on(
        model,
        corpus,
        run.dictionaries(limits_of(options)),
        tokens=tokens,
        window=run.record["window"],
        batch_size=options.batch_size,
        bos=run.bos,
        massive=options.massive,
        growing=still_growing(run),
        bar=bar,
    )
    on = {"corpus": corpus.name, "part": corpus.part, "fingerprint": corpus.fingerprint}
    on |= {"dtype": model.dtype, "changed_model": where.changed}
    for site, result in results.items():
        kind = {"format": METRICS_FORMAT, "format_version": FORMAT_VERSION}
        write_json(run.sites[site] / "metrics.json", {**kind, **finite(asdict(result)), **on})
    return results


def evaluate_on(
    model: ActivationModel,
    corpus: Corpus,
    dictionaries: Mapping[Site, ITDA],
    *,
    tokens: int,
    window: int,
    batch_size: int = 8,
    bos: Bos = "auto",
    massive: Massive = "clean",
    growing: Mapping[Site, float] = NOT_KNOWN,
    bar: Bar = no_bar,
) -> dict[Site, Evaluation]:
    """Measure dictionaries on the first `tokens` tokens of a corpus, and say in words what the figures mean.

    `growing` gives, where it is known, the share of a dictionary's atoms that it found last: see `still_growing`.
    Needs no run folder. Raises `ModelError`, `CorpusError` as `itda.evaluation.evaluate.evaluate` does.
    """
    with bar("evaluate", tokens) as progress, model.watched(now_and_then(progress.set_postfix_str)):
        found = evaluate(
            model,
            corpus,
            dictionaries,
            window=window,
            batch_size=batch_size,
            tokens=tokens,
            bos=bos,
            massive=massive,
            progress=progress.update,
        )
    return {site: replace(each, verdict=verdict(site, each, growing.get(site))) for site, each in found.items()}


def still_growing(run: Run) -> dict[Site, float]:
    """Return the share of each dictionary's atoms that the last tenth of the tokens gave, if log.jsonl tells it."""
    if not grew(run.record["settings"]):
        return {}
    found = run.record.get("found") or {}
    curve = growth(
        run.folder / "log.jsonl", run.record["tokens"], {str(site): found.get(str(site), 0) for site in run.sites}
    )
    if curve is None:
        return {}
    tokens, end = curve["tokens"], 0.9 * run.record["tokens"]
    before = bisect_right(tokens, end) - 1
    # Lines of the log too far apart do not tell it.
    if before + 1 >= len(tokens) or tokens[before + 1] - tokens[before] > 0.2 * run.record["tokens"]:
        return {}
    shares = {}
    for site in run.sites:
        atoms = curve["atoms"][str(site)]
        if atoms[-1]:
            shares[site] = 1 - float(np.interp(end, tokens, atoms)) / atoms[-1]
    return shares
