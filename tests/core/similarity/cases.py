"""Every index by one call, and sites whose similarity is known."""

import torch
from torch import Tensor

from itda.core.similarity import (
    LINEAR,
    Linear,
    Relative,
    Statistics,
    rbf_cka_matrix,
    regression_r2,
    shared_neighbours_matrix,
)
from itda.core.similarity.table import table

INDICES = table()
NAMES = tuple(name for name, index in INDICES.items() if index.compares == "activations")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def rotation(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=900 + seed))[0]


def gathered(sites: list[Tensor]) -> Statistics:
    statistics = Statistics([site.shape[1] for site in sites])
    statistics.add(sites)
    return statistics


def matrix(name: str, sites: list[Tensor]) -> Tensor:
    """An index between all of some sites; a third of the tokens are the held-out ones, or the anchors."""
    third = len(sites[0]) // 3
    first, rest = [site[:third] for site in sites], [site[third:] for site in sites]
    if name in LINEAR:
        return Linear(gathered(sites)).matrix(name)
    if name == "regression":
        return regression_r2(Linear(gathered(rest)), gathered(first))
    if name in ("relative", "relative_centred"):
        means = [site.mean(dim=0) for site in sites] if name == "relative_centred" else None
        relative = Relative(first, means=means)
        relative.add(rest)
        return relative.matrix()
    if name in ("rbf_cka", "rbf_cka_unbiased"):
        return rbf_cka_matrix(sites, unbiased=name == "rbf_cka_unbiased")
    return shared_neighbours_matrix(sites, share="overlap" if name == "shared_neighbours_overlap" else "jaccard")


def similarity(name: str, x: Tensor, y: Tensor) -> float:
    return matrix(name, [x, y])[0, 1].item()


def related(
    rows: int = 150, seed: int = 0, widths: tuple[int, int] = (6, 5), mean: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Two sites that share a part of what they hold; deviations differ between dimensions."""
    common = normal(rows, 4, seed=seed)
    sites = []
    for i, width in enumerate(widths):
        own = common @ normal(4, width, seed=seed + 10 + i) + 0.8 * normal(rows, width, seed=seed + 20 + i)
        sites.append(own * torch.linspace(0.5, 2, width) + mean * normal(width, seed=seed + 30 + i))
    return sites[0], sites[1]
