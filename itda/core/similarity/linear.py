"""Similarity of sites from `Statistics`: CKA, CCA and their variants, orthogonal Procrustes.

`Linear` has them for the pairs of many sites, and the functions below it for two, in one call. X and Y are the centred
activations of n tokens at two sites. All is computed from covariances: a pair costs a
product or two of width^3 and at most one singular value decomposition for each index, whatever n.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from itda.core.similarity.factors import RTOL, Canonical, Factor, canonical, clipped, factor, few_threads
from itda.core.similarity.sites import PAIR, ROUNDING, checked_variance, pair_of
from itda.core.similarity.statistics import Statistics
from itda.core.similarity.table import KORNBLITH, SONG, similarity_index
from itda.errors import ActivationError, SettingError

SVCCA_SHARE = 0.99
"""Share of the variance that SVCCA keeps."""
ROWS_PER_DIMENSION = 10
"""Rows per dimension below which CCA, regression and biased CKA say more about the number of rows than the sites."""


def undersampled(statistics: Statistics) -> tuple[str, ...]:
    """Return the names of sites with fewer than `ROWS_PER_DIMENSION` rows per dimension: worth a warning.

    >>> undersampled(Statistics([2, 3], names=["layer_0", "layer_1"]))
    ('layer_0', 'layer_1')
    """
    enough = [statistics.count >= ROWS_PER_DIMENSION * width for width in statistics.widths]
    return tuple(name for name, well in zip(statistics.names, enough, strict=True) if not well)


def variance(statistics: Statistics, site: int) -> float:
    """Return a site's variance, over all dimensions. Raises `ActivationError` naming the site if it does not vary."""
    total = statistics.covariance(site, site).trace().item()
    return checked_variance(total, statistics.mean(site), statistics.names[site])


class Linear:
    """The linear indices of pairs of sites, by number; of the rows that `statistics` has at the start.

    What belongs to a site is computed once and kept. Raises `ActivationError` naming a site that does not vary.

    >>> statistics = Statistics([4, 4])
    >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> statistics.add([x, 3 * x.flip(1)])
    >>> index = Linear(statistics)
    >>> round(index.cka(0, 1), 6), round(index.procrustes(0, 1), 6)
    (1.0, 1.0)
    >>> index.matrix("svcca").shape
    torch.Size([2, 2])
    """

    def __init__(self, statistics: Statistics, *, rtol: float = RTOL) -> None:
        self.statistics = statistics
        self._rtol, self._count = rtol, statistics.count
        self._variances = [variance(statistics, i) for i in range(len(statistics))]
        self._factors: dict[int, Factor] = {}
        self._canonical: dict[tuple[int, int], Canonical] = {}
        self._norms: dict[tuple[str, int], float] = {}
        self._products: Float64[Tensor, "sites sites"] | None = None

    def matrix(self, name: str) -> Float64[Tensor, "sites sites"]:
        """Return an index, by its name in `LINEAR`, for all pairs of sites [sites, sites]."""
        if name not in LINEAR:
            raise SettingError(f"no linear index {name!r}: choose from {', '.join(LINEAR)}")
        sites = range(len(self.statistics))
        with few_threads(max(self.statistics.widths)):
            values = [[LINEAR[name](self, i, j) if i <= j else 0.0 for j in sites] for i in sites]
        upper = torch.tensor(values, dtype=torch.float64)
        return upper + upper.triu(1).T

    def factor(self, site: int) -> Factor:
        """Return the principal components of a site."""
        if site not in self._factors:
            self._factors[site] = factor(self.covariance(site, site), self._rtol)
        return self._factors[site]

    def cka(self, i: int, j: int) -> float:
        """|X'Y|^2 / (|X'X| |Y'Y|) in Frobenius norms (Kornblith et al. 2019); too high where tokens are few."""
        return self._normalised("cka", lambda a, b: self.covariance(a, b).square().sum().item(), i, j)

    def cka_zscored(self, i: int, j: int) -> float:
        """Linear CKA of features divided by their deviations; those that do not vary are left out."""
        return self._normalised("cka_zscored", self._hsic_zscored, i, j)

    def cka_unbiased(self, i: int, j: int) -> float:
        """Linear CKA of HSIC_1 (Song et al. 2012) in numerator and denominators: about 0 for independent sites."""
        return self._normalised("cka_unbiased", self._hsic_unbiased, i, j)

    def cca(self, i: int, j: int) -> float:
        """Return the mean canonical correlation."""
        return self._pair(i, j).correlations.mean().item()

    def pwcca(self, i: int, j: int) -> float:
        """Canonical correlations weighted by what they account for (Morcos et al. 2018), in the mean of both sites."""
        pair = self._pair(i, j)
        return sum((pair.correlations @ weights / weights.sum()).item() for weights in pair.weights) / 2

    def svcca(self, i: int, j: int) -> float:
        """Mean canonical correlation of the components with `SVCCA_SHARE` of the variance (Raghu et al. 2017)."""
        bases = [self.factor(site).whitening[:, : self.factor(site).leading(SVCCA_SHARE)] for site in (i, j)]
        correlations = torch.linalg.svdvals(bases[0].T @ self.covariance(i, j) @ bases[1])
        return clipped(correlations).mean().item()

    def procrustes(self, i: int, j: int) -> float:
        """|X'Y|_* / (|X| |Y|), the cosine of X and Y after the best rotation (Ding et al. 2021)."""
        nuclear = torch.linalg.svdvals(self.covariance(i, j)).sum().item()
        return nuclear / (self._variances[i] * self._variances[j]) ** 0.5

    def covariance(self, i: int, j: int) -> Float64[Tensor, "width_i width_j"]:
        """Return the covariance of two sites, from `statistics`, which must have no more rows than at the start."""
        if self.statistics.count != self._count:
            raise SettingError(f"{self.statistics.count - self._count} rows were added since: make a new Linear")
        return self.statistics.covariance(i, j)

    def _pair(self, i: int, j: int) -> Canonical:
        i, j = min(i, j), max(i, j)
        if (i, j) not in self._canonical:
            self._canonical[i, j] = canonical(self.factor(i), self.factor(j), self.covariance(i, j))
        return self._canonical[i, j]

    def _normalised(self, name: str, hsic: Callable[[int, int], float], i: int, j: int) -> float:
        """Return hsic(i, j) / sqrt(hsic(i, i) hsic(j, j))."""
        for site in {i, j}:
            if (name, site) not in self._norms:
                self._norms[name, site] = hsic(site, site) ** 0.5
        return hsic(i, j) / (self._norms[name, i] * self._norms[name, j])

    def _hsic_zscored(self, i: int, j: int) -> float:
        scales = []
        for site in (i, j):
            variances = self.covariance(site, site).diagonal()
            varies = variances > ROUNDING**2 * self.statistics.mean(site).square()
            scales.append(torch.where(varies, 1 / variances, torch.zeros_like(variances)))
        return (scales[0] @ self.covariance(i, j).square() @ scales[1]).item()

    def _hsic_unbiased(self, i: int, j: int) -> float:
        """HSIC_1 (n - 3) / n.

        Centring the features leaves HSIC_1 as it is, and then the row sums of a Gram matrix without its diagonal are
        -|x|^2, so that all its terms follow from covariances and sum |x|^2 |y|^2.
        """
        n = self.statistics.count
        if n < 4:
            raise ActivationError(f"there are {n} tokens: unbiased CKA needs at least 4")
        if self._products is None:
            self._products = self.statistics.square_products()
        product = self.covariance(i, j).square().sum().item()
        scale = self._variances[i] * self._variances[j]
        value = product + scale / ((n - 1) * (n - 2)) - self._products[i, j].item() / (n - 2)
        if i == j and value <= 1e-12 * scale:
            raise ActivationError(f"{self.statistics.names[i]} varies at one token only: give more tokens")
        return value


LINEAR: dict[str, Callable[[Linear, int, int], float]] = {
    "cka": Linear.cka,
    "cka_unbiased": Linear.cka_unbiased,
    "cka_zscored": Linear.cka_zscored,
    "svcca": Linear.svcca,
    "cca": Linear.cca,
    "pwcca": Linear.pwcca,
    "procrustes": Linear.procrustes,
}


def _one(name: str, x: Any, y: Any) -> float:
    """Compute one of `LINEAR` for two sites that are given whole."""
    sites = pair_of(x, y)
    widths = [site.shape[1] for site in sites]
    statistics = Statistics(widths, names=PAIR, device=sites[0].device)
    statistics.add(sites)
    with few_threads(max(widths)):
        return LINEAR[name](Linear(statistics), 0, 1)


@similarity_index("statistics", KORNBLITH, ("rotation", "scale", "translation"))
def cka(x: Any, y: Any) -> float:
    """Linear CKA, |X'Y|^2 / (|X'X| |Y'Y|) in Frobenius norms, of centred X [tokens, d1] and Y [tokens, d2].

    Kornblith et al. 2019. From 0 to 1; too high where there are not many more tokens than dimensions (`cka_unbiased`).
    Invariant to rotation, scale and translation. Raises `ActivationError` for what `itda.core.intake` refuses, for
    different numbers of tokens, and for a site that is the same at every token.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> round(cka(x, x[:, :1]), 4)
    0.7906
    """
    return _one("cka", x, y)


@similarity_index("statistics", f"{SONG}; {KORNBLITH}", ("rotation", "scale", "translation"), lowest=-1.0)
def cka_unbiased(x: Any, y: Any) -> float:
    """Linear CKA of the unbiased HSIC_1 in numerator and denominators, of X [tokens, d1] and Y [tokens, d2].

    HSIC_1 is that of Song et al. 2012. About 0 for independent sites however few the tokens, 1 at most, and a little
    below 0 by chance. Needs 4 tokens. Invariant to rotation, scale and translation. Raises as `cka`.

    >>> x, y = torch.randn(2, 50, 30, generator=torch.Generator().manual_seed(0))
    >>> cka(x, y) > 0.3 > 0.1 > cka_unbiased(x, y)
    True
    """
    return _one("cka_unbiased", x, y)


@similarity_index("statistics", f"{KORNBLITH}, of features divided by their deviations", ("scale", "translation"))
def cka_zscored(x: Any, y: Any) -> float:
    """Linear CKA of X [tokens, d1] and Y [tokens, d2] with each feature divided by its standard deviation.

    Features that do not vary are left out, and one of large variance counts no more than others. From 0 to 1.
    Invariant to scale (also of each feature) and translation, not to rotation. Raises as `cka`.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> round(cka_zscored(x, x * torch.tensor([1, 10, 100, 1000])), 6)
    1.0
    """
    return _one("cka_zscored", x, y)


@similarity_index(
    "statistics",
    "Hotelling 1936, Relations between two sets of variates",
    ("rotation", "scale", "translation", "linear"),
)
def cca(x: Any, y: Any) -> float:
    """Mean canonical correlation of X [tokens, d1] and Y [tokens, d2], over the smaller of their ranks.

    The canonical correlations are the singular values of Wx' X'Y Wy / n, Wx and Wy the whitenings (Hotelling 1936).
    From 0 to 1; 1 where there are not more tokens than dimensions. Invariant to any invertible linear map and to
    translation. Raises as `cka`.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(cca(x, x @ torch.tensor([[1.0, 2, 3], [0, 1, 4], [0, 0, 1]])), 6)
    1.0
    """
    return _one("cca", x, y)


@similarity_index("statistics", "Raghu et al. 2017, SVCCA", ("rotation", "scale", "translation"))
def svcca(x: Any, y: Any) -> float:
    """Mean canonical correlation of the principal components that hold 99% of the variance of X, and of Y.

    Raghu et al. 2017. From 0 to 1. Invariant to rotation, scale and translation. Raises as `cka`.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(svcca(x, x[:, [2, 0, 1]]), 6)
    1.0
    """
    return _one("svcca", x, y)


# The weights are sums of absolute values over features, so they depend on the basis.
@similarity_index("statistics", "Morcos et al. 2018, Insights on representational similarity", ("scale", "translation"))
def pwcca(x: Any, y: Any) -> float:
    """Canonical correlations in the mean weighted by how much of the features each accounts for: PWCCA.

    The weight of variate h_i is sum_j |<h_i, x_j>| over features x_j (Morcos et al. 2018); the result is the mean of
    the index weighted by X and by Y, so that it is symmetric. From 0 to 1. Invariant to scale and translation, not to
    rotation. Raises as `cka`.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(pwcca(x, 2 * x + 1), 6)
    1.0
    """
    return _one("pwcca", x, y)


@similarity_index(
    "statistics", "Ding et al. 2021, Grounding representation similarity", ("rotation", "scale", "translation")
)
def procrustes(x: Any, y: Any) -> float:
    """The cosine of X and Y after the best rotation, |X'Y|_* / (|X| |Y|) with the nuclear norm above.

    1 - d^2 / 2 for the orthogonal Procrustes distance d of X / |X| and Y / |Y| (Ding et al. 2021). From 0 to 1.
    Invariant to rotation, scale and translation. Raises as `cka`.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(procrustes(x, -2 * x.flip(1)), 6)
    1.0
    """
    return _one("procrustes", x, y)
