"""Batches of labelled activations from any model, in corpus order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from itda.core.batch import ActivationBatch, Site
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, within_budget


class ModelSource:
    """Batches of activations of one or many sites, in corpus order, one pass over the model.

    The model runs over fixed groups of `batch_size` windows of `window` tokens, the last group padded to that shape,
    so the bits of an activation depend on no other setting. `tokens` ends the stream after that many activations, of
    which the first `skip` are left out: groups that hold no others are not run. Where a model gives one site of many
    groups after the other, `most_in_flight` bounds the tokens that they have.

    Raises `ModelError` or `SettingError` for what the model does not have.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> source = ModelSource(LanguageModel.load("tiny"), Corpus.from_texts(["import os"]), [Site(2)], window=16)
    >>> [batch[Site(2)].labels.position.tolist() for batch in source]
    [[0, 1]]
    """

    def __init__(
        self,
        model: ActivationModel,
        corpus: Corpus,
        sites: Sequence[Site],
        *,
        window: int,
        batch_size: int = 8,
        tokens: int | None = None,
        skip: int = 0,
        every_position: bool = False,
        bos: Bos = "auto",
        most_in_flight: int | None = None,
    ) -> None:
        self.model, self.corpus, self.sites, self.tokens, self.skip = model, corpus, list(sites), tokens, skip
        self.batch_size, self.windower = batch_size, model.windower(window, bos)
        self.every_position = every_position
        """True to read padding and special tokens too, and one window per document, which mode `reference` does."""
        self.most_in_flight = most_in_flight
        model.check(self.sites)

    def __iter__(self) -> Iterator[Mapping[Site, ActivationBatch]]:
        tokens = self.batch_size * self.windower.window
        flight = self.model.flight(tokens)
        if self.most_in_flight is not None:
            flight = max(1, min(flight, self.most_in_flight // tokens))
        wanted = self._groups()
        while groups := list(itertools.islice(wanted, flight)):
            labels = [group.labels() for group in groups]
            for place, found in self.model.harvest(groups, self.sites):
                yield {site: ActivationBatch(x, labels[place]) for site, x in found.items()}

    def _groups(self) -> Iterator[Group]:
        """Yield the groups to run; `is_activation` is true where an activation is wanted."""
        groups = self.windower.groups(self.corpus, self.batch_size, first_only=self.every_position)
        if self.every_position:
            groups = map(_with_every_position, groups)
        return (group for group in within_budget(groups, self.tokens, self.skip) if group.is_activation.any())


def _with_every_position(group: Group) -> Group:
    """Return a group in which padding and special tokens count as activations too, in the rows that hold a window."""
    every = torch.zeros_like(group.is_activation)
    every[: len(group.windows)] = True
    return replace(group, is_activation=every)
