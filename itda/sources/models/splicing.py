"""What evaluation asks of a language model: its activations, and its predictions with others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from itda.core.batch import Site
from itda.sources.tokenizing.windows import Group

SPLICED = "spliced"
REPLACEMENTS = (SPLICED, "zero", "mean")
"""What evaluation puts in the place of activations: their reconstructions, zeros, their mean."""


def branches(sites: int) -> int:
    """How many hidden states a token has in an evaluation: the clean one, and one for each site and replacement.

    >>> branches(2)
    7
    """
    return 1 + len(REPLACEMENTS) * sites


Key = tuple[Site, str] | None
"""The model as it is, or a site and the name of what stands in for its activations."""

Splice = Callable[[int, Site, Tensor], Mapping[str, Tensor]]
"""Given the number of a group, a site and the activations there where `is_activation` is true, [activations, d_model]:
what is to stand in for them, by name. Called once for each group and site."""


class Spliced(NamedTuple):
    """Some predictions of a group."""

    place: int
    """The number of the group."""
    key: Key
    rows: Int64[Tensor, " predictions"]
    """Which of the places where `predicts` is true, row by row."""
    logits: Float[Tensor, "places vocabulary"]
    at: Int64[Tensor, " predictions"] | None = None
    """Which of the logits each prediction has; by default one after the other."""


@runtime_checkable
class Splicer(Protocol):
    """Runs all groups of an evaluation in order: once for the activations, and once for the predictions."""

    def harvest(
        self, groups: Sequence[Group]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        """The activations of some groups: see `ActivationModel.harvest`."""
        ...

    def spliced(self, groups: Sequence[Group], splice: Splice) -> Iterator[Spliced]:
        """The predictions of some groups: see `LanguageModel.spliced`."""
        ...


@runtime_checkable
class _Model(Protocol):
    def harvest(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]: ...

    def spliced(self, groups: Sequence[Group], sites: Sequence[Site], splice: Splice) -> Iterator[Spliced]: ...


@dataclass(frozen=True)
class WholePasses:
    """The model's own `harvest` and `spliced`."""

    model: _Model
    sites: Sequence[Site]

    def harvest(
        self, groups: Sequence[Group]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        """The activations of some groups."""
        return self.model.harvest(groups, self.sites)

    def spliced(self, groups: Sequence[Group], splice: Splice) -> Iterator[Spliced]:
        """The predictions of some groups."""
        return self.model.spliced(groups, self.sites, splice)
