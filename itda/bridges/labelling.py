"""Labels for atoms that have none, such as an SAE's latents: the token of a corpus that each atom fits best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.core.massive import massive
from itda.core.nearest_search import NearestActivations
from itda.core.site import Site
from itda.errors import CorpusError, SettingError
from itda.sources.corpora.any_corpus import AnyCorpus, any_corpus
from itda.sources.models.base import ActivationModel
from itda.sources.source import ModelSource

WINDOW = 128
"""Tokens that the model reads at once, for a dictionary that does not say how many it was made with."""


def label(
    model: ITDA,
    lm: ActivationModel,
    corpus: AnyCorpus,
    *,
    tokens: int = 100_000,
    window: int | None = None,
    batch_size: int = 8,
) -> ITDA:
    """Return the dictionary with a label for each atom: the token whose activation has the largest cosine to it.

    Reads the first `tokens` activations of a corpus at the dictionary's site; those that are massive are left out.
    `fidelity` is then the cosine of each atom to its label's activation. Of equal cosines the first token counts.
    `lm` is what `itda.load_model` returns, `corpus` what `itda.train` takes. Raises `SettingError` for a dictionary of
    no site, `ModelError` and `CorpusError` for what cannot be read.

    >>> import itda, torch
    >>> unlabelled = itda.ITDA(torch.eye(192)[:4], itda.Labels.of_rows(4), k=2, site=itda.Site(3))
    >>> texts = ["for line in open(path):", "import os"]
    >>> label(unlabelled, itda.load_model("tiny"), texts).labels
    <Labels of 4 tokens: ...>
    """
    site = site_of(model)
    window = window or int(model.provenance.get("window") or WINDOW)
    documents = any_corpus(corpus)
    source = ModelSource(lm, documents, [site], window=window, batch_size=batch_size, tokens=tokens)
    labels, cosines, read = nearest_labels(model, (batches[site] for batches in source))
    about = {"corpus": documents.name, "fingerprint": documents.fingerprint, "tokens": read, "window": window}
    made: dict[str, Any] = {**model.provenance, "labels": {"model": lm.name, **about}}
    return replace(model, labels=labels, fidelity=model.atoms.new_tensor(cosines), nearest=None, provenance=made)


def site_of(model: ITDA) -> Site:
    """Return the site of a dictionary. Raises `SettingError` if it has none."""
    if model.site is None:
        raise SettingError(
            "the dictionary does not say of which site it is: say so with dataclasses.replace(model, site=itda.Site(3))"
        )
    return model.site


def nearest_labels(model: ITDA, batches: Iterator[ActivationBatch]) -> tuple[Labels, np.ndarray, int]:
    """Return the label of the activation nearest to each atom, their cosines [atoms], and how many were read.

    Raises `CorpusError` if there were none.
    """
    found = NearestActivations(model.atoms, own=np.full(len(model), -1), most=1)
    labels: dict[int, Label] = {}
    documents: dict[str, int] = {}
    for batch in batches:
        if model.massive_norm is not None:
            batch = batch[~massive(batch.activations, model.massive_norm)]
        first = found.seen
        numbers = [documents.setdefault(name, len(documents)) for name in batch.labels.document.tolist()]
        offset = model.offset.to(batch.activations.device).double() if model.offset is not None else 0
        z = batch.activations.double() - offset
        found.add(z.to(model.atoms.device), np.array(numbers, dtype=np.int64))
        for atom in np.flatnonzero(found.index[:, 0] >= first).tolist():
            labels[atom] = batch.labels.at(found.index[atom, 0] - first)
    if not found.seen:
        raise CorpusError("the corpus has no tokens to label atoms with: give one with text")
    return Labels.of(*(labels[atom] for atom in range(len(model)))), found.cosines[:, 0], found.seen
