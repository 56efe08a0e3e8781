"""Evaluation of dictionaries: how well a model predicts with a dictionary in the place of the activations at a site."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.metrics import Unexplained
from itda.core.training.growth_bytes import dictionary_bytes
from itda.errors import CorpusError, ModelError
from itda.evaluation.measures import Evaluation, Massive
from itda.evaluation.resumption import splicer_of
from itda.evaluation.sums import GroupScores, SiteSums
from itda.machine import free_device_memory
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.splicing import SPLICED, SpliceableModel, Splicer, branches
from itda.sources.passes import Passes, Steps, passes
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, within_budget

log = logging.getLogger(__name__)

Told = Callable[[int], object]
"""A function called with the number of tokens just done; these numbers add up to the tokens of the evaluation."""


def evaluate(
    model: ActivationModel,
    corpus: Corpus,
    dictionaries: Mapping[Site, ITDA],
    *,
    window: int,
    batch_size: int = 8,
    tokens: int | None = None,
    bos: Bos = "auto",
    massive: Massive = "clean",
    progress: Told = lambda _tokens: None,
) -> dict[Site, Evaluation]:
    """Measure dictionaries on the first `tokens` tokens of a corpus, or on all of it.

    The model reads `batch_size` windows of `window` tokens at once. `massive` says whether activations that a
    dictionary calls massive stay what they are in the splice ("clean") or are replaced too ("splice"). Raises
    `ModelError` for a model that cannot be spliced or lacks a site, `CorpusError` if there is no token.

    >>> import torch, itda
    >>> from itda.sources.models.transformers import LanguageModel
    >>> model, site = LanguageModel.load("tiny"), itda.Site(2)
    >>> labels = itda.Labels.of(*(itda.Label("x", i, i, i + 1, 0, "", "x", "") for i in range(192)))
    >>> basis = itda.ITDA(torch.eye(192), labels, k=192)  # it leaves nothing unexplained
    >>> found = evaluate(model, Corpus.from_texts(["import os, sys"]), {site: basis}, window=16)
    >>> found[site].tokens, round(found[site].fvu, 6)
    (4, 0.0)
    """
    model = spliceable(model)
    windower = model.windower(window, bos)
    dictionaries = placed(dictionaries, torch.device(model.device))

    def groups() -> Iterator[Group]:
        return within_budget(windower.groups(corpus, batch_size), tokens)

    return evaluate_groups(model, groups, dictionaries, massive=massive, progress=progress)


def placed(dictionaries: Mapping[Site, ITDA], device: torch.device) -> dict[Site, ITDA]:
    """Move dictionaries to the model's device: as many as half of its free memory holds; the others stay.

    Their figures are the same, but slower to come by.
    """
    left, moved = free_device_memory(device) // 2, {}
    for site, dictionary in dictionaries.items():
        left -= dictionary_bytes(len(dictionary), dictionary.d_model)
        moved[site] = dictionary.to(device) if left >= 0 else dictionary
    if left < 0:
        log.info("evaluate: some dictionaries stay on the CPU, since they do not fit on the GPU beside the model")
    return moved


def evaluate_groups(
    model: SpliceableModel,
    groups: Callable[[], Iterable[Group]],
    dictionaries: Mapping[Site, ITDA],
    *,
    massive: Massive = "clean",
    progress: Told = lambda _tokens: None,
) -> dict[Site, Evaluation]:
    """Measure each dictionary on the tokens of `groups`, which is called twice: for the mean activation, and for all.

    Every dictionary, and every ablation, sees the same tokens. CE and KL are over the tokens that follow an activation
    in its window. Activations that the dictionary calls massive have no part in fvu, l0 and the mean; in the splice,
    and in ablations, they stay what they are ("clean") or are replaced too ("splice"). Raises `CorpusError` if there
    is no token, `ModelError` if the model's loss is not a number.
    """
    if not dictionaries:
        return {}
    splicer = splicer_of(model, list(dictionaries), (SPLICED,))
    steps = Steps(progress)
    means = _means(model, splicer, groups(), dictionaries, steps)
    sums = {site: SiteSums(each, means[site], massive) for site, each in dictionaries.items()}
    ce_clean, predicted = _score(model, splicer, groups(), sums, steps)
    return {site: each.evaluation(ce_clean, predicted) for site, each in sums.items()}


def spliceable(model: ActivationModel) -> SpliceableModel:
    """Return the same model, typed as one that can be evaluated. Raises `ModelError` if it can only be read."""
    if isinstance(model, SpliceableModel):
        return model
    raise ModelError(
        f"{model.name} runs where its activations can be read and not replaced: evaluate it in this process, without "
        "--workers and --remote"
    )


def cost_of(model: SpliceableModel, sites: Sequence[Site]) -> Passes:
    """Return how many passes through a block the evaluation of a model at some sites takes for each token."""
    return passes(sites, model.layers, model.vocabulary if model.is_causal else 0, model.d_model)


def _means(
    model: SpliceableModel,
    splicer: Splicer,
    groups: Iterable[Group],
    dictionaries: Mapping[Site, ITDA],
    steps: Steps,
) -> dict[Site, Tensor]:
    """Return the mean of each site's activations, massive ones left out. Raises `CorpusError` if there is no token."""
    cost = cost_of(model, list(dictionaries))
    sums, seen = {site: Unexplained(each.d_model) for site, each in dictionaries.items()}, 0
    for flight in _flights(model, groups, 1):
        with steps.flight(model, _reading(cost) * _tokens(flight), len(flight) * int(cost.reading)):
            for _, found in splicer.harvest(flight):
                for site, x in found.items():
                    seen += len(x)
                    ordinary = x[~dictionaries[site].is_massive(x)].float()
                    sums[site].update(ordinary, ordinary)
    if seen == 0:
        raise CorpusError("there is no token to evaluate on: name another corpus with --corpus")
    return {site: each.mean for site, each in sums.items()}


def _score(
    model: SpliceableModel, splicer: Splicer, groups: Iterable[Group], sums: Mapping[Site, SiteSums], steps: Steps
) -> tuple[float, int]:
    """Run all groups with every replacement; return the clean model's cross-entropy, summed, and the predictions."""
    ce_clean, predicted = 0.0, 0
    scoring = 1 - _reading(cost_of(model, list(sums)))
    for flight in _flights(model, groups, branches(len(sums))):
        scores = [GroupScores(group) for group in flight]
        documents = [group.labels().document for group in flight]

        def splice(place: int, site: Site, x: Tensor, documents: list[np.ndarray] = documents) -> dict[str, Tensor]:
            # `x` is from the clean pass: up to its site a spliced pass has the same, so it is encoded only once.
            return sums[site].replacements(x, documents[place])

        with steps.flight(model, scoring * _tokens(flight), len(flight) * model.layers):
            for predictions in splicer.spliced(flight, splice):
                scores[predictions.place].add(predictions)
        for group, score in zip(flight, scores, strict=True):
            if None in score.ce:
                ce_clean += score.ce[None].sum().item()
                predicted += len(score.ce[None])
                for site, each in sums.items():
                    each.add_scores(site, score, group.labels(group.predicts).document)
    return ce_clean, predicted


def _reading(cost: Passes) -> float:
    """Return the share of an evaluation's time that the first reading of the activations takes."""
    return cost.reading / (cost.reading + cost.scoring)


def _tokens(flight: Iterable[Group]) -> int:
    return sum(int(group.is_activation.sum()) for group in flight)


def _flights(model: SpliceableModel, groups: Iterable[Group], passes_apart: int) -> Iterator[list[Group]]:
    """Yield lists of groups to run together; groups without an activation are left out.

    `passes_apart` is the number of passes of each group whose hidden states are kept apart.
    """
    wanted = (group for group in groups if group.is_activation.any())
    first = next(wanted, None)
    if first is None:
        return
    size = model.flight(first.input_ids.numel(), passes_apart)
    wanted = itertools.chain([first], wanted)
    while flight := list(itertools.islice(wanted, size)):
        yield flight
