"""What a source yields: activations with their labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from itda.core.labels import Labels
from itda.core.site import Site as Site


@dataclass(frozen=True, eq=False)
class ActivationBatch:
    """Activations [batch, d_model] in stream order, each with its label. Raises `ValueError` if the lengths differ.

    >>> import torch
    >>> from itda.core.labels import Label, Labels
    >>> batch = ActivationBatch(torch.ones(1, 8), Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be")))
    >>> len(batch)
    1
    """

    activations: Float[Tensor, "batch d_model"]
    labels: Labels

    def __post_init__(self) -> None:
        if len(self.activations) != len(self.labels):
            raise ValueError(
                f"{len(self.activations)} activations with {len(self.labels)} labels: give one label per activation"
            )

    def __len__(self) -> int:
        return len(self.labels)


@runtime_checkable
class ActivationSource(Protocol):
    """Yields, in corpus order, one batch [batch, d_model] per site for the same tokens.

    >>> import torch
    >>> from itda.core.labels import Label, Labels
    >>> batch = ActivationBatch(torch.ones(1, 8), Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be")))
    >>> class OneToken:
    ...     sites = (Site(3),)
    ...     def __iter__(self):
    ...         yield {Site(3): batch}
    >>> source: ActivationSource = OneToken()
    >>> sum(len(batches[Site(3)]) for batches in source)
    1
    """

    @property
    def sites(self) -> Sequence[Site]:
        """The sites read in one pass."""
        ...

    def __iter__(self) -> Iterator[Mapping[Site, ActivationBatch]]: ...
