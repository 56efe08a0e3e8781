"""A run around a dictionary from elsewhere, such as an SAE's decoder, so that every command works on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from itda import config as settings
from itda.bridges.labelling import WINDOW, nearest_labels, site_of
from itda.core.batch import ActivationBatch, ActivationSource
from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.core.tokens import TokenLog
from itda.files import FORMAT_VERSION, RUN_FORMAT
from itda.recipes.activation_source import open_source
from itda.recipes.run_in_memory import NOWHERE, RunInMemory
from itda.recipes.run_in_progress import versions
from itda.resolving import resolved, to_record
from itda.sources.corpora.any_corpus import AnyCorpus, any_corpus
from itda.sources.models.base import ActivationModel


def labelled_run(
    model: ITDA,
    lm: ActivationModel,
    corpus: AnyCorpus,
    *,
    tokens: int = 100_000,
    window: int | None = None,
    batch_size: int = 8,
) -> RunInMemory:
    """Label a dictionary, as `label` does, and return it in a run in memory; `run.save(folder)` writes that.

    So `itda.evaluate`, `index`, `explore`, `probe` and `push` work on an SAE. Labels come from the documents that
    `itda train` would read: one in ten is held out for `evaluate`. Commands find the language model again by `lm.name`,
    and the corpus if it was named. Raises as `label`.

    >>> import itda, torch
    >>> unlabelled = itda.ITDA(torch.eye(192)[:4], itda.Labels.of_rows(4), k=2, site=itda.Site(3))
    >>> run = labelled_run(unlabelled, itda.load_model("tiny"), ["for line in open(path):", "import os"] * 8)
    >>> run["layer_3"].labels
    <Labels of 4 tokens: ...>
    """
    site, documents = site_of(model), any_corpus(corpus)
    window = window or int(model.provenance.get("window") or WINDOW)
    options = resolved(
        settings.Train(
            model=lm.name,
            corpus=str(corpus) if isinstance(corpus, str) else documents.name,
            layers=(site.layer,),
            streams=(site.stream,),
            k=model.k,
            pursuit=model.pursuit,  # pyright: ignore[reportArgumentType] - the same three
            atoms=len(model),
            refine=0,
            tokens=tokens,
            window=window,
            batch_size=batch_size,
        )
    )
    recorded, read = open_source(options, model=lm, corpus=documents), TokenLog()
    labels, cosines, seen = nearest_labels(model, _noted(recorded.source(0), site, read))
    provenance = {**model.provenance, **recorded.provenance, "tokens": seen}
    made = replace(model, labels=labels, fidelity=model.atoms.new_tensor(cosines), nearest=None, provenance=provenance)
    record = {
        "format": RUN_FORMAT,
        "format_version": FORMAT_VERSION,
        "sites": [str(site)],
        **provenance,
        "settings": {**to_record(options), "mode": model.mode},
        "device": recorded.device,
        "seconds": 0.0,  # it was made elsewhere
        "versions": versions(),
        "arithmetic": list(model.arithmetic),
    }
    return RunInMemory(NOWHERE, record, {site: NOWHERE / str(site)}, {site: made}, read.table(), (), lm, documents)


def _noted(source: ActivationSource, site: Site, read: TokenLog) -> Iterator[ActivationBatch]:
    """Yield the batches of a site, and note which tokens they are of."""
    batches: Mapping[Site, ActivationBatch]
    for batches in source:
        read.add(batches[site].labels)
        yield batches[site]
