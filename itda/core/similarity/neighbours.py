"""Similarities that need all pairs of tokens: RBF-CKA, and shared nearest neighbours. For a few thousand tokens."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.similarity.sites import ROUNDING, checked_rows, names_of, unit_rows
from itda.errors import ActivationError, SettingError

CELLS = 2**23
"""Numbers of kernels that are in memory at once."""


def rbf_cka(
    rows: Sequence[Float[Tensor, "rows _"]],
    *,
    unbiased: bool = False,
    width: float = 0.4,
    names: Sequence[str] | None = None,
) -> Float64[Tensor, "sites sites"]:
    """CKA of exp(-|x - y|^2 / 2 sigma^2), sigma = `width` x the median distance of two tokens (Kornblith et al. 2019).

    `unbiased` takes HSIC_1 (Song et al. 2012) for each HSIC, as an inner product of U-centred matrices (Szekely & Rizzo
    2014). Raises `ActivationError` naming a site where most tokens are the same.

    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> rbf_cka([x, 3 * x.flip(1)])[0, 1].item() > 0.999999
    True
    """
    sites, names = _exact(rows, names)
    n = len(sites[0])
    if width <= 0:
        raise SettingError(f"width is {width}: it must be above 0, such as 0.4")
    if n < 4:
        raise ActivationError(f"there are {n} tokens: CKA needs at least 4")
    kernels = [_Kernel(x, width, unbiased, name) for x, name in zip(sites, names, strict=True)]
    step = max(1, CELLS // (len(sites) * n))
    blocks = [slice(start, min(n, start + step)) for start in range(0, n, step)]
    means, products = sites[0].new_empty(len(sites), n), sites[0].new_zeros(len(sites), len(sites))
    for block in blocks:
        for mean, kernel in zip(means, kernels, strict=True):
            mean[block] = kernel.rows(block).sum(dim=1) / (n - 2 if unbiased else n)
    totals = means.sum(dim=1) / (n - 1 if unbiased else n)
    for block in blocks:
        columns = zip(kernels, means - totals[:, None], strict=True)
        centred = torch.stack([kernel.rows(block) - column for kernel, column in columns]) - means[:, block, None]
        if unbiased:
            centred.diagonal(block.start, 1, 2).zero_()
        products += centred.flatten(1) @ centred.flatten(1).T
    norms = products.diagonal().sqrt()
    return products / norms[:, None] / norms


def shared_neighbours(
    rows: Sequence[Float[Tensor, "rows _"]],
    *,
    k: int = 10,
    share: Literal["jaccard", "overlap"] = "jaccard",
    names: Sequence[str] | None = None,
) -> Float64[Tensor, "sites sites"]:
    """The mean, over tokens, of |A & B| / |A | B| (or, as overlap, / k) of a token's `k` nearest others at two sites.

    Nearest by cosine after centring. Huh et al. 2024 take the overlap, Klabunde et al. 2024 the Jaccard index.

    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> shared_neighbours([x, 3 * x.flip(1)], k=3).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    sites, names = _exact(rows, names)
    n = len(sites[0])
    if not 1 <= k < n:
        raise SettingError(f"k is {k}: of {n} tokens each has at least 1 and at most {n - 1} others")
    sets = torch.stack([_nearest(x, k, name) for x, name in zip(sites, names, strict=True)])
    result = sets.new_empty(len(sites), len(sites), dtype=torch.float64)
    for i, own in enumerate(sets):
        for j in range(i, len(sites)):
            common = (own[:, :, None] == sets[j, :, None]).sum(dim=(1, 2)).double()
            result[i, j] = result[j, i] = (common / (2 * k - common if share == "jaccard" else k)).mean()
    return result


class _Kernel:
    """The matrix exp(-|x_i - x_j|^2 / 2 sigma^2), by its rows; without the diagonal where that is to be."""

    def __init__(self, x: Float64[Tensor, "rows width"], width: float, hollow: bool, name: str) -> None:
        self._x, self._hollow = x - x.mean(dim=0), hollow
        self._squares = self._x.square().sum(dim=1)
        median = torch.pdist(x).median().item()
        if median <= 0:
            raise ActivationError(f"{name} is the same at most tokens: leave that site out, or give other tokens")
        self._scale = -1 / (2 * (width * median) ** 2)

    def rows(self, block: slice) -> Float64[Tensor, "part rows"]:
        products = self._x[block] @ self._x.T
        distances = products.mul_(-2).add_(self._squares).add_(self._squares[block, None])
        kernel = distances.mul_(self._scale).clamp_(max=0).exp_()
        kernel.diagonal(block.start).fill_(0 if self._hollow else 1)
        return kernel


def _nearest(x: Float64[Tensor, "rows width"], k: int, name: str) -> Int64[Tensor, "rows k"]:
    """The `k` others of the largest cosine to each row."""
    mean = x.mean(dim=0)
    units = unit_rows(x - mean, name, ROUNDING * mean.norm().item())
    return (units @ units.T).fill_diagonal_(-2).topk(k, dim=1).indices


def _exact(
    rows: Sequence[Float[Tensor, "rows _"]], names: Sequence[str] | None
) -> tuple[list[Float64[Tensor, "rows _"]], tuple[str, ...]]:
    """Rows in float64, and the sites' names."""
    names = names_of(names, len(rows))
    checked_rows(rows, [x.shape[1] for x in rows], names)
    return [x.detach().double() for x in rows], names
