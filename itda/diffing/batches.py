"""What two models make of the same tokens: their activations at a site, and how far their predictions are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from itda.core.labels import Labels
from itda.core.site import Site


@dataclass(frozen=True, eq=False)
class PairedBatch:
    """The activations of two models, and of controls, at one site and at the same tokens. In float32.

    >>> import torch
    >>> labels = Labels.of_texts(["one", "two"])
    >>> batch = PairedBatch(Site(3), np.arange(2), labels, torch.zeros(2, 4), torch.ones(2, 4))
    >>> (batch.changed - batch.base).norm(dim=1)
    tensor([2., 2.])
    """

    site: Site
    tokens: Int64[np.ndarray, " batch"]
    """The number of each token in the stream, from 0: the same number is the same token at all sites."""
    labels: Labels
    base: Float32[Tensor, "batch d_base"]
    changed: Float32[Tensor, "batch d_changed"]
    controls: Sequence[Float[Tensor, "batch _"]] = ()
    """The activations of each control, a model in which only what is of no interest has changed."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def models(self) -> list[Tensor]:
        """The activations of the base, the changed model and each control."""
        return [self.base, self.changed, *self.controls]

    def __getitem__(self, rows: Bool[Tensor, " batch"]) -> PairedBatch:
        """Return the rows where a mask is True."""
        at, mask = rows.to(self.base.device), rows.cpu().numpy()
        base, changed, *controls = (x[at] for x in self.models)
        return PairedBatch(self.site, self.tokens[mask], self.labels[mask], base, changed, controls)


@dataclass(frozen=True, eq=False)
class PairedPredictions:
    """How far the changed model's next-token predictions are from the base's, at some tokens in reading order.

    >>> found = PairedPredictions(np.arange(2), Labels.of_texts(["one", "two"]), np.array([0.5, np.nan], np.float32))
    >>> len(found)
    2
    """

    tokens: Int64[np.ndarray, " batch"]
    """The number of each token in the stream, as in `PairedBatch`; massive ones are among them."""
    labels: Labels
    kl: Float32[np.ndarray, " batch"]
    """KL(changed || base) in nats of what comes after each token; NaN at the last token of a window, and before a
    special token."""
    control_kl: Sequence[Float32[np.ndarray, " batch"]] = ()
    """KL(control || base) of each control."""

    def __len__(self) -> int:
        return len(self.tokens)


Paired = PairedBatch | PairedPredictions
"""What a pair of models yields."""
