"""The principal components of a site, and the canonical correlations of two."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

RTOL = 1e-9
"""Components with a variance below this share of the largest are rounding, and not part of the numerical rank."""
SMALL = 256
"""Width up to which a decomposition is not worth a second thread."""


@contextmanager
def few_threads(width: int) -> Iterator[None]:
    """Use one thread for small matrices: a second mostly waits for the first, on a busy machine ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if width <= SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class Factor:
    """C = V diag(variances) V': the components that have numerical rank, the largest first."""

    variances: Float64[Tensor, " rank"]
    directions: Float64[Tensor, "width rank"]

    @property
    def whitening(self) -> Float64[Tensor, "width rank"]:
        """W [width, rank], such that W'CW is the identity."""
        return self.directions / self.variances.sqrt()

    @property
    def loadings(self) -> Float64[Tensor, "rank width"]:
        """W'C [rank, width]: the covariances of whitened components with the features."""
        return (self.directions * self.variances.sqrt()).T

    def leading(self, share: float) -> int:
        """Return the fewest components that hold this share of the variance."""
        held = self.variances.cumsum(0) / self.variances.sum()
        return min(int((held < share).sum()) + 1, len(held))


def factor(covariance: Float64[Tensor, "width width"], rtol: float = RTOL) -> Factor:
    """Find the principal components of a covariance.

    >>> factor(torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64))).variances.tolist()
    [4.0, 1.0]
    """
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0), directions.flip(1)
    rank = int((variances > rtol * variances[0]).sum())
    return Factor(variances[:rank], directions[:, :rank])


@dataclass(frozen=True, eq=False)
class Canonical:
    """Canonical correlations, and how much of each site's features each variate accounts for (Morcos et al. 2018)."""

    correlations: Float64[Tensor, " pairs"]
    weights: tuple[Float64[Tensor, " pairs"], Float64[Tensor, " pairs"]]


def canonical(a: Factor, b: Factor, covariance: Float64[Tensor, "width_a width_b"]) -> Canonical:
    """Find the canonical correlations, from the factors of two sites and the covariance between them.

    The weights are sum_j |<h_i, x_j>| over features x_j, of variates h_i of unit variance.
    """
    left, correlations, right = torch.linalg.svd(a.whitening.T @ covariance @ b.whitening, full_matrices=False)
    weights = (left.T @ a.loadings).abs().sum(dim=1), (right @ b.loadings).abs().sum(dim=1)
    return Canonical(clipped(correlations), weights)


def clipped(correlations: Float64[Tensor, " pairs"]) -> Float64[Tensor, " pairs"]:
    """Return correlations, with one for those that rounding puts above it."""
    largest = correlations.max().item()
    assert largest <= 1 + 1e-6, f"a canonical correlation is {largest}: the sums are not of one set of rows"
    return correlations.clamp(max=1)
