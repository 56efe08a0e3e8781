"""What a source yields: activations with their labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.labels import Labels
from itda.core.site import Site as Site
from itda.errors import ActivationError


def tensor_of(activations: Any) -> Tensor:
    """Activations as a tensor: of an array, a copy. Raises `ActivationError` for what is neither.

    >>> import numpy as np
    >>> tensor_of(np.ones(2, dtype=np.float32))
    tensor([1., 1.])
    """
    if isinstance(activations, Tensor):
        return activations
    if isinstance(activations, np.ndarray) and activations.dtype.kind == "f" and activations.dtype.itemsize <= 8:
        return torch.tensor(activations)
    kind = type(activations).__name__
    kind += f" of {activations.dtype}" if isinstance(activations, np.ndarray) else ""
    raise ActivationError(f"activations are a {kind}: give a tensor, or an array of floating-point numbers")


Rows = Float[Tensor, "batch d_model"] | Float[np.ndarray, "batch d_model"]


@dataclass(frozen=True, eq=False, init=False)
class ActivationBatch:
    """Activations [batch, d_model] in stream order, each with its label. Raises `ValueError` if the lengths differ.

    An array of activations becomes a tensor.

    >>> import torch
    >>> from itda.core.labels import Label, Labels
    >>> batch = ActivationBatch(torch.ones(1, 8), Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be")))
    >>> len(batch)
    1
    """

    activations: Float[Tensor, "batch d_model"]
    labels: Labels

    def __init__(self, activations: Rows, labels: Labels) -> None:
        object.__setattr__(self, "activations", tensor_of(activations))
        object.__setattr__(self, "labels", labels)
        if len(self.activations) != len(self.labels):
            raise ValueError(
                f"{len(self.activations)} activations with {len(self.labels)} labels: give one label per activation"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        kind = str(self.activations.dtype).removeprefix("torch.")
        return f"<ActivationBatch of {len(self):,} activations of width {self.activations.shape[-1]}, {kind}>"


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
