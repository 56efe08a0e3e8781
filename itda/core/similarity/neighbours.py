"""Similarities that need all pairs of tokens: RBF-CKA, and shared nearest neighbours. For a few thousand tokens."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.similarity.sites import PAIR, ROUNDING, checked_rows, names_of, pair_of, unit_rows
from itda.core.similarity.table import KORNBLITH, SONG, similarity_index
from itda.errors import ActivationError, SettingError

CELLS = 2**23
"""Most kernel entries in memory at once."""


def rbf_cka_matrix(
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
    >>> rbf_cka_matrix([x, 3 * x.flip(1)])[0, 1].item() > 0.999999
    True
    """
    sites, names = _in_float64(rows, names)
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


def shared_neighbours_matrix(
    rows: Sequence[Float[Tensor, "rows _"]],
    *,
    k: int = 10,
    share: Literal["jaccard", "overlap"] = "jaccard",
    names: Sequence[str] | None = None,
) -> Float64[Tensor, "sites sites"]:
    """The mean, over tokens, of |A & B| / |A | B| (or, as overlap, / k) of a token's `k` nearest others at two sites.

    Nearest by cosine after centring. Huh et al. 2024 take the overlap, Klabunde et al. 2024 the Jaccard index.

    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> shared_neighbours_matrix([x, 3 * x.flip(1)], k=3).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    sites, names = _in_float64(rows, names)
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


@similarity_index("rows", KORNBLITH, ("rotation", "scale", "translation"))
def rbf_cka(x: Any, y: Any, *, width: float = 0.4) -> float:
    """CKA of the kernels exp(-|a - b|^2 / 2 sigma^2) of X [tokens, d1] and Y [tokens, d2].

    sigma is `width` times the median distance of two tokens of the site (Kornblith et al. 2019). From 0 to 1; it sees
    more than linear relations. Invariant to rotation, scale and translation. Time goes with tokens squared: a few
    thousand. Needs 4 tokens. Raises as `itda.similarity.cka`.

    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> round(rbf_cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    return rbf_cka_matrix(pair_of(x, y), width=width, names=PAIR)[0, 1].item()


@similarity_index("rows", f"{SONG}; {KORNBLITH}", ("rotation", "scale", "translation"), lowest=-1.0)
def rbf_cka_unbiased(x: Any, y: Any, *, width: float = 0.4) -> float:
    """RBF-CKA of the unbiased HSIC_1 (Song et al. 2012): about 0 for independent sites, a little below by chance.

    As `rbf_cka` in everything else. At most 1.

    >>> x, y = torch.randn(2, 40, 20, generator=torch.Generator().manual_seed(0))
    >>> rbf_cka(x, y) > 0.3 > 0.1 > rbf_cka_unbiased(x, y)
    True
    """
    return rbf_cka_matrix(pair_of(x, y), unbiased=True, width=width, names=PAIR)[0, 1].item()


@similarity_index(
    "rows",
    "Klabunde et al. 2024, ReSi: Jaccard index of nearest neighbours by cosine",
    ("rotation", "scale", "translation"),
)
def shared_neighbours(x: Any, y: Any, *, k: int = 10) -> float:
    """The mean, over tokens, of |A & B| / |A | B| of a token's `k` nearest other tokens in X and in Y.

    Nearest by cosine after centring (Klabunde et al. 2024). From 0 to 1. Invariant to rotation, scale and translation.
    Time goes with tokens squared: a few thousand. Raises as `itda.similarity.cka`, and `SettingError` for a k that is
    not below the number of tokens.

    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> shared_neighbours(x, 3 * x.flip(1), k=3)
    1.0
    """
    return shared_neighbours_matrix(pair_of(x, y), k=k, names=PAIR)[0, 1].item()


@similarity_index(
    "rows", "Huh et al. 2024, The platonic representation hypothesis", ("rotation", "scale", "translation")
)
def shared_neighbours_overlap(x: Any, y: Any, *, k: int = 10) -> float:
    """The mean, over tokens, of |A & B| / k of a token's `k` nearest other tokens in X and in Y (Huh et al. 2024).

    As `shared_neighbours` in everything else; it is the larger of the two.

    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> shared_neighbours_overlap(x, x[:, :2], k=3) > shared_neighbours(x, x[:, :2], k=3)
    True
    """
    return shared_neighbours_matrix(pair_of(x, y), k=k, share="overlap", names=PAIR)[0, 1].item()


class _Kernel:
    """The matrix exp(-|x_i - x_j|^2 / 2 sigma^2), made block by block of its rows; its diagonal is 0 if `hollow`."""

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
    """Return the `k` other rows of the largest cosine to each row."""
    mean = x.mean(dim=0)
    units = unit_rows(x - mean, name, ROUNDING * mean.norm().item())
    return (units @ units.T).fill_diagonal_(-2).topk(k, dim=1).indices


def _in_float64(
    rows: Sequence[Float[Tensor, "rows _"]], names: Sequence[str] | None
) -> tuple[list[Float64[Tensor, "rows _"]], tuple[str, ...]]:
    """Return rows in float64, and the sites' names."""
    names = names_of(names, len(rows))
    checked_rows(rows, [x.shape[1] for x in rows], names)
    return [x.detach().double() for x in rows], names
