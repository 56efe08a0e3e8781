"""What the model predicts with reconstructions in the place of activations: CE loss score and KL, document by document.

The first window of each held-out document is read, in float32. At one layer, every method's reconstructions are spliced
in, one method after the other; massive activations stay what they are, for methods and for zeros alike. The clean pass
and the one with zeros are run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from meaning_text import WINDOW, groups_of
from torch import Tensor

from itda import Site
from itda.core.metrics import cross_entropy, kl_divergence, log_normalizer

if TYPE_CHECKING:
    from itda.sources.models.splicing import Splicer
    from itda.sources.models.transformers import LanguageModel
    from itda.sources.tokenizing.windows import Group

WINDOWS = 2  # at once
ZERO = "zero"
Rebuild = Callable[[Tensor], Tensor]


def spliced(
    model: LanguageModel, text: Path, layer: int, methods: Mapping[str, Rebuild], limit: float
) -> dict[str, dict[str, list[float]]]:
    """By method: for each held-out document the sums over its predictions of `gained`, `lost`, `kl`, and `predicted`.

    `gained` is CE with zeros less CE with the method, `lost` CE with zeros less CE of the model itself, in nats.
    Activations of a norm above `limit` are massive.
    """
    from itda.evaluation.resumption import splicer_of

    found: dict[str, dict[str, list[float]]] = {
        name: {column: [] for column in ("gained", "lost", "kl", "predicted")} for name in methods
    }
    splicer = splicer_of(model, [Site(layer)])
    for number, group in enumerate(first_windows(model, text), 1):
        scores = _scores(splicer, group, {ZERO: torch.zeros_like, **methods}, limit)
        document = group.labels(group.predicts).document
        for name, columns in found.items():
            each = {"gained": scores[ZERO][0] - scores[name][0], "lost": scores[ZERO][0] - scores[None][0]}
            each |= {"kl": scores[name][1], "predicted": torch.ones(len(document))}
            for column, values in each.items():
                columns[column] += by_document(values.numpy(), document)
        print(f"layer {layer}: {WINDOWS * number} windows", flush=True)
    return found


def by_document(values: np.ndarray, document: np.ndarray) -> list[float]:
    """The sum of the values of each document, in the order in which documents come.

    >>> by_document(np.array([1.0, 2.0, 4.0]), np.array(["b", "b", "a"]))
    [3.0, 4.0]
    """
    _, first, of = np.unique(document, return_index=True, return_inverse=True)
    sums = np.bincount(of, weights=values)
    return [float(sums[each]) for each in np.argsort(first)]


def first_windows(model: LanguageModel, text: Path) -> Iterator[Group]:
    """The first window of each held-out document, some at once."""
    from itda.sources.corpora.corpus import Corpus

    heldout = next(iter(groups_of(text, model)))[1]
    return model.windower(WINDOW).groups(Corpus.from_texts(heldout), WINDOWS, first_only=True)


def _scores(splicer: Splicer, group: Group, methods: Mapping[str, Rebuild], limit: float) -> dict[str | None, Tensor]:
    """Cross-entropy and KL of each prediction of a group [predictions], by method, [2, predictions].

    None stands for the model itself.
    """

    def replace(_place: int, _site: Site, x: Tensor) -> dict[str, Tensor]:
        massive = x.norm(dim=1, keepdim=True) > limit
        return {name: torch.where(massive, x, rebuild(x)) for name, rebuild in methods.items()}

    count = int(group.predicts.sum())
    scores = {name: torch.zeros(2, count, dtype=torch.float64) for name in (None, *methods)}
    clean: Tensor | None = None
    for _, key, rows, logits, at in splicer.spliced([group], replace):
        logits = logits if at is None else logits[at]
        normalizer = log_normalizer(logits)
        name = None if key is None else key[1]
        scores[name][0, rows] = cross_entropy(logits, group.targets[rows], normalizer=normalizer)
        if name is None:
            clean = logits.new_empty(count, logits.shape[1]) if clean is None else clean
            clean[rows] = logits
        else:
            assert clean is not None
            scores[name][1, rows] = kl_divergence(clean[rows], logits, None, normalizer)
    return scores
