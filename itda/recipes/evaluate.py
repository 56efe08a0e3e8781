"""`itda evaluate`: dictionaries spliced into their model, on held-out documents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np

from itda import config as settings
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.evaluation.evaluate import Evaluation, Massive, cost_of, evaluate
from itda.evaluation.verdict import verdict
from itda.explorer.overview import growth
from itda.files import FORMAT_VERSION, METRICS_FORMAT, write_json
from itda.recipes.activation_source import model_recipe
from itda.recipes.run_model import reopened
from itda.recipes.runs import Bar, Run, Say, corpus_of, finite, no_bar, now_and_then, open_run, unsaid
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.passes import tokens_as_long
from itda.sources.streamed.model import StreamedModel
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, within_budget


def evaluate_run(options: settings.Evaluate, bar: Bar = no_bar, say: Say = unsaid) -> dict[Site, Evaluation]:
    """`itda evaluate`: measure a run's dictionaries on held-out documents; the figures are kept in metrics.json.

    `say` is told what the user should know. Raises an `ItdaError` for bad input.
    """
    tokens = settings.parse_count(options.tokens) if options.tokens is not None else None
    run = open_run(options.run)
    corpus = corpus_of(run, options.corpus, options, "unread", say)
    where = reopened(run.folder, run.record, options, say)
    model = model_recipe(where.name, where.options, where.revision, head=True)()
    loaded = {site: run.dictionary(site).to(model.device) for site in run.sites}
    if tokens is None:
        tokens = tokens_as_long(run.record["tokens"], cost_of(model, list(loaded)))
        say(f"evaluating on {tokens:,} tokens, about as many block passes as training took (--tokens sets another)")
    results = evaluate_on(
        model,
        corpus,
        loaded,
        tokens,
        run.record["window"],
        options.batch_size,
        bar,
        bos=run.bos,
        massive=options.massive,
    )
    growing = still_growing(run)
    results = {site: replace(found, verdict=verdict(site, found, growing.get(site))) for site, found in results.items()}
    for site, result in results.items():
        on = {"corpus": corpus.name, "part": corpus.part, "fingerprint": corpus.fingerprint}
        on |= {"dtype": model.dtype, "changed_model": where.changed}
        kind = {"format": METRICS_FORMAT, "format_version": FORMAT_VERSION}
        write_json(run.sites[site] / "metrics.json", {**kind, **finite(asdict(result)), **on})
    return results


def still_growing(run: Run) -> dict[Site, float]:
    """The share of its atoms that each dictionary found in the last tenth of the tokens, as far as log.jsonl says."""
    found = run.record.get("found") or {}
    curve = growth(
        run.folder / "log.jsonl", run.record["tokens"], {str(site): found.get(str(site), 0) for site in run.sites}
    )
    if curve is None:
        return {}
    tokens, end = curve["tokens"], 0.9 * run.record["tokens"]
    before = bisect_right(tokens, end) - 1
    # Between lines that are far apart nobody knows.
    if before + 1 >= len(tokens) or tokens[before + 1] - tokens[before] > 0.2 * run.record["tokens"]:
        return {}
    shares = {}
    for site in run.sites:
        atoms = curve["atoms"][str(site)]
        if atoms[-1]:
            shares[site] = 1 - float(np.interp(end, tokens, atoms)) / atoms[-1]
    return shares


def evaluate_on(
    model: LanguageModel | StreamedModel,
    corpus: Corpus,
    loaded: Mapping[Site, ITDA],
    tokens: int,
    window: int,
    batch_size: int,
    bar: Bar = no_bar,
    *,
    bos: Bos = "auto",
    massive: Massive = "clean",
) -> dict[Site, Evaluation]:
    """Measure dictionaries on the first `tokens` tokens of a corpus."""
    windower = model.windower(window, bos)

    def groups() -> Iterator[Group]:
        return within_budget(windower.groups(corpus, batch_size), tokens)

    with bar("evaluate", tokens) as progress, model.watched(now_and_then(progress.set_postfix_str)):
        return evaluate(model, groups, loaded, massive=massive, progress=progress.update)
