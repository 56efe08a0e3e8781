"""Models whose activations can be replaced: what evaluation asks of a language model, besides its activations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itda.core.batch import Site
from itda.sources.models.base import ActivationModel, PlacedModel
from itda.sources.tokenizing.windows import Group

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPLICED = "spliced"
REPLACEMENTS = (SPLICED, "zero", "mean")
"""The names of what evaluation puts in the place of activations: their reconstructions, zeros, their mean."""


def branches(sites: int) -> int:
    """Return how many hidden states a token has in an evaluation: the clean one, and one per site and replacement.

    >>> branches(2)
    7
    """
    return 1 + len(REPLACEMENTS) * sites


Key = tuple[Site, str] | None
"""The pass that a prediction is from: None for the model as it is, or a site and the name of its replacement."""

Splice = Callable[[int, Site, Tensor], Mapping[str, Tensor]]
"""Returns the replacements of activations, by name: at most `REPLACEMENTS`, each [activations, d_model].

It is called once for each group and site, with the number of the group, the site, and the activations there where
`is_activation` is true, [activations, d_model].
"""

Replace = Callable[[Tensor], Tensor]
"""Returns the replacements of activations, both [n, d_model]."""


class Spliced(NamedTuple):
    """Some predictions of a group."""

    place: int
    """The number of the group."""
    key: Key
    rows: Int64[Tensor, " predictions"]
    """Row numbers among the places where `predicts` is true."""
    logits: Float[Tensor, "places vocabulary"]
    at: Int64[Tensor, " predictions"] | None = None
    """The row of `logits` that each prediction has; by default its own number."""


class Read(NamedTuple):
    """The activations of a group at one site."""

    place: int
    """The number of the group."""
    site: Site
    activations: Float[Tensor, "activations d_model"]


class SpliceableModel(ActivationModel):
    """A model that can be evaluated: it predicts the next token, also with other activations at its sites.

    To evaluate a new kind of model, implement this: `itda.evaluation` knows no other. Nothing else has to be changed.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> model: SpliceableModel = LanguageModel.load("tiny")
    >>> model.is_causal, model.vocabulary
    (True, 4096)
    """

    @property
    @abstractmethod
    def is_causal(self) -> bool:
        """True if it predicts the next token; a model that does not has no cross-entropy to measure."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of tokens that it chooses the next one from: the width of its logits."""

    @abstractmethod
    def flight(self, tokens: int, branches: int = 1) -> int:
        """Return how many groups of `tokens` tokens each are best given to `harvest` or `spliced` together.

        `branches` counts the passes that `spliced` keeps apart: the clean one, and one for each replacement.
        """

    @abstractmethod
    def spliced(self, groups: Sequence[Group], sites: Sequence[Site], splice: Splice) -> Iterator[Spliced]:
        """Yield the predictions of some groups: as the model makes them, and with each site's replacements in turn.

        `splice` is called for every group and site, also where nothing is predicted. For each prediction the clean
        logits come before the others. A model that predicts nothing yields nothing.
        """

    def read(self, groups: Sequence[Group], sites: Sequence[Site]) -> Iterator[Read | Spliced]:
        """Yield the activations of some groups and the model's own predictions.

        Each group's activations come before its predictions, and those of a site in the order of the groups. A kind of
        model that can do so computes both by one pass; this one makes two.
        """
        for place, found in self.harvest(groups, sites):
            for site in sites:
                if site in found:
                    yield Read(place, site, found[site])
        yield from self.spliced(groups, (), lambda *_: {})


class ResumableModel(SpliceableModel, PlacedModel):
    """A model in memory, whose modules can be run from any block on: `itda.evaluation.resumption` makes use of that.

    It is evaluated in less time than by whole passes. A model that cannot offer this is a `SpliceableModel`.
    """

    model: PreTrainedModel
    """The model's modules, with their weights."""

    @abstractmethod
    def forward(self, model: torch.nn.Module, group: Group, **options: Any) -> Any:
        """Return the output of the model, or of its base model, for a group."""

    @abstractmethod
    def logits(
        self, group: Group, site: Site | None = None, replace: Replace | None = None
    ) -> Float[Tensor, "windows tokens vocabulary"]:
        """Return next-token logits by a whole pass, with the activations at a site replaced if `replace` is given."""


@runtime_checkable
class Splicer(Protocol):
    """One way to run an evaluation: all groups in order, once for the activations and once for the predictions."""

    def harvest(
        self, groups: Sequence[Group]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the activations of some groups: see `ActivationModel.harvest`."""
        ...

    def spliced(self, groups: Sequence[Group], splice: Splice) -> Iterator[Spliced]:
        """Yield the predictions of some groups: see `SpliceableModel.spliced`."""
        ...


@dataclass(frozen=True)
class WholePasses:
    """Runs an evaluation by the model's own `harvest` and `spliced`, which every `SpliceableModel` has."""

    model: SpliceableModel
    sites: Sequence[Site]

    def harvest(
        self, groups: Sequence[Group]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the activations of some groups."""
        return self.model.harvest(groups, self.sites)

    def spliced(self, groups: Sequence[Group], splice: Splice) -> Iterator[Spliced]:
        """Yield the predictions of some groups."""
        return self.model.spliced(groups, self.sites, splice)
