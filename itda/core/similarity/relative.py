"""Relative representations: a token by its cosines to the activations of some anchor tokens (Moschella et al. 2022)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.similarity.sites import PAIR, ROUNDING, checked_rows, leading, names_of, pair_of, unit_rows
from itda.core.similarity.table import similarity_index
from itda.errors import ActivationError, SettingError

CELLS = 2**23
"""Most cosines to anchors in memory at once."""

MOSCHELLA = "Moschella et al. 2022, Relative representations enable zero-shot latent space communication"
MOST_ANCHORS = 1000
"""Most anchors that one call takes if none are named."""


class Relative:
    """The similarity of sites as the mean, over tokens, of the cosine of a token's codes at the one and the other.

    The code of x is the cosines of x - mean to each anchor - mean, for anchors that are the same tokens at every site;
    `means` are zero unless given (as by `Statistics.mean`). With `centred_codes` a code is taken from its own mean, so
    that the cosine of two codes is their correlation. Anchors are better not among the tokens added.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> relative = Relative([x[:10], -2 * x[:10].flip(1)])
    >>> relative.add([x[10:], -2 * x[10:].flip(1)])
    >>> round(relative.matrix()[0, 1].item(), 6)
    1.0
    """

    def __init__(
        self,
        anchors: Sequence[Float[Tensor, "anchors _"]],
        *,
        means: Sequence[Float[Tensor, " _"]] | None = None,
        centred_codes: bool = False,
        names: Sequence[str] | None = None,
    ) -> None:
        self.widths = tuple(anchor.shape[1] for anchor in anchors)
        self.names = names_of(names, len(anchors))
        self.anchors = checked_rows(anchors, self.widths, self.names)
        if self.anchors < 2:
            raise SettingError(f"there are {self.anchors} anchors: give at least 2")
        if means is not None and tuple(len(mean) for mean in means) != self.widths:
            raise SettingError(f"means are of widths {[len(m) for m in means]}: give one of each site, {self.widths}")
        means = [anchor.new_zeros(anchor.shape[1]) for anchor in anchors] if means is None else means
        self._means = [mean.detach().double() for mean in means]
        self._anchors = [
            unit_rows(anchor.detach().double() - mean, name, ROUNDING * mean.norm().item())
            for anchor, mean, name in zip(anchors, self._means, self.names, strict=True)
        ]
        self._centred_codes = centred_codes
        self.count = 0
        self._sums = self._anchors[0].new_zeros(len(anchors), len(anchors))

    def add(self, parts: Sequence[Float[Tensor, "batch _"]]) -> None:
        """Add the activations of some more tokens, one tensor per site.

        Raises `ActivationError` naming the site that does not fit, or has a row without a code (then some tokens may
        have been added).
        """
        rows = checked_rows(parts, self.widths, self.names)
        step = max(1, CELLS // (len(parts) * self.anchors))
        for start in range(0, rows, step):
            codes = torch.stack([self._codes(site, part[start : start + step]) for site, part in enumerate(parts)])
            self._sums += codes.flatten(1) @ codes.flatten(1).T
            self.count += codes.shape[1]

    def matrix(self) -> Float64[Tensor, "sites sites"]:
        """Return the similarities of all pairs of sites so far, [sites, sites]."""
        if self.count == 0:
            raise ActivationError("there are no activations yet: add some first")
        return self._sums / self.count

    def _codes(self, site: int, part: Float[Tensor, "batch width"]) -> Float64[Tensor, "batch anchors"]:
        mean, name = self._means[site], self.names[site]
        codes = unit_rows(part.detach().double() - mean, name, ROUNDING * mean.norm().item()) @ self._anchors[site].T
        if self._centred_codes:
            codes -= codes.mean(dim=1, keepdim=True)
        return unit_rows(codes, name, ROUNDING)


def _one(x: Any, y: Any, anchors: Sequence[int] | None, centred: bool) -> float:
    """Compute the similarity of two sites that are given whole, on the tokens that are no anchors."""
    sites = pair_of(x, y)
    chosen = leading(len(sites[0]), anchors, MOST_ANCHORS, "anchors")
    rest = np.setdiff1d(np.arange(len(sites[0])), chosen)
    means = [site.double().mean(dim=0) for site in sites] if centred else None
    found = Relative([site[torch.from_numpy(chosen).to(site.device)] for site in sites], means=means, names=PAIR)
    found.add([site[torch.from_numpy(rest).to(site.device)] for site in sites])
    return found.matrix()[0, 1].item()


@similarity_index("anchors", MOSCHELLA, ("rotation", "scale"), lowest=-1.0)
def relative(x: Any, y: Any, *, anchors: Sequence[int] | None = None) -> float:
    """The mean, over tokens, of the cosine of a token's relative representations in X [tokens, d1] and Y [tokens, d2].

    A relative representation is the cosines of a token's activation to those of anchor tokens (Moschella et al. 2022).
    `anchors` are row numbers; the first third of the tokens, at most 1,000, if not given. The mean is over the others.
    From -1 to 1. Invariant to rotation and scale. Raises as `itda.similarity.cka` (but sites need not vary), for a
    token whose activation is zero, and `SettingError` for fewer than 2 anchors or rows that are not there.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> round(relative(x, -2 * x.flip(1)), 6)
    1.0
    """
    return _one(x, y, anchors, centred=False)


@similarity_index(
    "anchors", f"{MOSCHELLA}, of activations from their mean", ("rotation", "scale", "translation"), lowest=-1.0
)
def relative_centred(x: Any, y: Any, *, anchors: Sequence[int] | None = None) -> float:
    """The same as `relative` of activations from their mean over all tokens, so it is invariant to translation too.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> round(relative_centred(x, 7 - 2 * x.flip(1)), 6)
    1.0
    """
    return _one(x, y, anchors, centred=True)
