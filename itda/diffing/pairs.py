"""Two models, and controls, that read the same windows of a corpus side by side, each once."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from itda.core.labels import Labels
from itda.core.site import Site
from itda.diffing.batches import Paired, PairedBatch, PairedPredictions
from itda.diffing.divergence import divergence
from itda.diffing.lockstep import LogitsOfAll, on_one_device, read_together
from itda.diffing.massive_pairs import MassiveFilter, MassiveTokens
from itda.diffing.sameness import basis_apart
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.splicing import SpliceableModel
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, Windower, within_budget


class PairedSource:
    """The activations and predictions of two models at the same tokens, in one pass of each; iterate once or again.

    Yields a `PairedBatch` for every group of windows and site, and a `PairedPredictions` for every group. The tokens of
    a site come in corpus order, and so do those of the predictions; nothing else is promised: models in memory give all
    sites of a group and then its predictions, streamed ones a site of many groups first and their predictions last.
    `tokens` of a batch says which token of the stream each row is, so that the two can be brought together.

    Left out are padding, special tokens, the first token of each window (`first_tokens` asks for these), and at each
    site the tokens at which a model has a massive activation: `massive` counts them. `tokens` ends the stream after
    that many tokens.

    `special_tokens` counts special tokens that are part of a text, such as those of a chat template; `cut_by` is the
    model whose tokenizer cuts the windows, by default the base. `predictions` False leaves these out, and the models
    run no further than the last site. At most the activations of `most_in_flight` tokens are computed together where
    models are streamed. Raises `ModelError` or `SettingError` for what a model does not have.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> lm = LanguageModel.load("tiny")
    >>> texts = Corpus.from_texts(["import os", "for line in file:"])
    >>> source = PairedSource(lm, lm, texts, [Site(2)], window=16)
    >>> source.same, [type(each).__name__ for each in source]
    (True, ['PairedPredictions', 'PairedBatch'])
    """

    def __init__(
        self,
        base: ActivationModel,
        changed: ActivationModel,
        corpus: Corpus,
        sites: Sequence[Site],
        *,
        window: int,
        batch_size: int = 8,
        tokens: int | None = None,
        bos: Bos = "auto",
        controls: Sequence[ActivationModel] = (),
        predictions: bool = True,
        first_tokens: bool = False,
        special_tokens: bool = False,
        cut_by: ActivationModel | None = None,
        most_in_flight: int | None = None,
    ) -> None:
        self.base, self.changed, self.controls, self.corpus = base, changed, list(controls), corpus
        self.sites = sorted(sites, key=lambda site: site.layer)
        self.batch_size, self.tokens, self.first_tokens = batch_size, tokens, first_tokens
        self.most_in_flight = most_in_flight
        for model in self.models:
            model.check(self.sites)
        self.special_tokens = special_tokens
        self.bos: Bos = bos
        self.windower = common_windower(self.models, window, bos, cut_by)
        self.predictions = predictions and all(_predicts(model) for model in self.models)
        """True if predictions are compared: they were asked for, and every model predicts the next token."""
        self.massive: Mapping[Site, MassiveTokens] = {}
        """The tokens left out at each site, once a batch of it was read."""
        self.read = 0
        """Number of tokens of the stream that were read so far."""
        self.first_left_out = 0
        """Number of first tokens of windows that were left out so far."""
        self.labels: list[Labels] = []
        """The labels of the stream's tokens that were read so far, in their order: massive ones are among them."""

    @property
    def models(self) -> list[ActivationModel]:
        """The base, the changed model and the controls."""
        return [self.base, self.changed, *self.controls]

    @property
    def same(self) -> bool:
        """True if the changed model is the base itself: the same object."""
        return self.base is self.changed

    @property
    def why_no_shared_basis(self) -> str | None:
        """Say in words why the activations of both models are not in the same basis; None if they seem to be."""
        return basis_apart(self.base, self.changed)

    @property
    def shared_basis(self) -> bool:
        """True if activations of both models can be subtracted, as after a fine-tune."""
        return self.why_no_shared_basis is None

    def __iter__(self) -> Generator[Paired, None, None]:
        names = [model.name for model in self.models]
        filters = {site: MassiveFilter(site, names) for site in self.sites}
        self.massive = {site: each.counts for site, each in filters.items()}
        self.read, self.first_left_out, self.labels = 0, 0, []
        wanted = self._groups()
        while groups := list(itertools.islice(wanted, self._flight())):
            yield from self._flight_of(groups, filters)
        for each in filters.values():
            yield from each.finish()

    def _flight(self) -> int:
        """Return how many groups all models can run together."""
        tokens = self.batch_size * self.windower.window
        flight = min(model.flight(tokens) for model in self.models)
        return flight if self.most_in_flight is None else max(1, min(flight, self.most_in_flight // tokens))

    def _flight_of(self, groups: Sequence[Group], filters: Mapping[Site, MassiveFilter]) -> Iterator[Paired]:
        stretches = [_Stretch(group, first) for group, first in zip(groups, self._starts(groups), strict=True)]
        self.labels += [stretch.labels for stretch in stretches]
        for each in read_together(self.models, groups, self.sites, predictions=self.predictions):
            stretch = stretches[each.place]
            if isinstance(each, LogitsOfAll):
                stretch.compare(each)
                continue
            base, changed, *controls = on_one_device(each.activations)
            batch = PairedBatch(each.site, stretch.tokens, stretch.labels, base, changed, controls)
            yield from filters[each.site].add(batch)
        if self.predictions:
            yield from (stretch.predictions(len(self.models)) for stretch in stretches)

    def _starts(self, groups: Sequence[Group]) -> list[int]:
        """Count the tokens of some groups; return the number of each one's first in the stream."""
        starts = []
        for group in groups:
            starts.append(self.read)
            self.read += int(group.is_activation.sum())
        return starts

    def _groups(self) -> Iterator[Group]:
        """Yield the groups to run; `is_activation` is true where an activation is wanted."""
        groups = self.windower.groups(self.corpus, self.batch_size)
        if self.special_tokens:
            groups = map(_with_special, groups)
        if not self.first_tokens:
            groups = map(self._without_first, groups)
        return (group for group in within_budget(groups, self.tokens) if group.is_activation.any())

    def _without_first(self, group: Group) -> Group:
        mask = group.is_activation.clone()
        self.first_left_out += int(mask[:, group.prefix].sum())
        mask[:, group.prefix] = False
        return replace(group, is_activation=mask)


class _Stretch:
    """The tokens of one group in the stream, and what is known of the predictions there."""

    def __init__(self, group: Group, first: int) -> None:
        self.labels: Labels = group.labels()
        self.tokens: Int64[np.ndarray, " batch"] = np.arange(first, first + len(self.labels))
        mask = group.is_activation.flatten()
        self._rows = (mask.cumsum(0) - 1)[group.predicts.flatten()].numpy()
        """The row of each prediction."""
        self._done = 0
        self._kl: list[np.ndarray] = []

    def compare(self, found: LogitsOfAll) -> None:
        """Take the next logits of all models."""
        base, *others = found.logits
        rows = self._rows[self._done : self._done + len(base)]
        self._done += len(base)
        if not self._kl:
            self._kl = self._unknown(len(others))
        for kl, logits in zip(self._kl, others, strict=True):
            kl[rows] = divergence(logits, base).cpu().numpy()

    def predictions(self, models: int) -> PairedPredictions:
        """Return what is known, NaN elsewhere."""
        kl, *controls = self._kl or self._unknown(models - 1)
        return PairedPredictions(self.tokens, self.labels, kl, controls)

    def _unknown(self, number: int) -> list[np.ndarray]:
        return [np.full(len(self.tokens), np.nan, np.float32) for _ in range(number)]


def common_windower(
    models: Sequence[ActivationModel], window: int, bos: Bos = "auto", cut_by: ActivationModel | None = None
) -> Windower:
    """Return what cuts documents into windows that all models read, by the tokenizer of the first or of `cut_by`.

    Raises `SettingError` for more tokens than one of them reads.
    """
    windowers = [model.windower(window, bos) for model in models]
    windower = windowers[0] if cut_by is None else cut_by.windower(window, bos)
    windower.pad = min(each.pad for each in windowers)  # padding is masked, and every model has to have the id
    return windower


def _with_special(group: Group) -> Group:
    """Return a group in which the special tokens within a text count as activations too."""
    mask = group.is_activation.clone()
    for row, window in enumerate(group.windows):
        mask[row, group.prefix : group.prefix + len(window.token_ids)] = True
    return replace(group, is_activation=mask)


def _predicts(model: ActivationModel) -> bool:
    return isinstance(model, SpliceableModel) and model.is_causal
