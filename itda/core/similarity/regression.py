"""How well one site predicts another, linearly, on tokens that the fit has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from itda.core.similarity.factors import few_threads
from itda.core.similarity.linear import Linear, variance
from itda.core.similarity.sites import PAIR, leading, pair_of
from itda.core.similarity.statistics import Statistics
from itda.core.similarity.table import KORNBLITH, similarity_index
from itda.errors import SettingError


def directed_r2(fit: Linear, held_out: Statistics) -> Float64[Tensor, "predictor target"]:
    """R^2 = 1 - sum |y - mean - B'(x - mean)|^2 / sum |y - held-out mean|^2 on the held-out tokens.

    B is of least squares, and the means in the numerator those, of the tokens of `fit`; the least-norm B where the
    predictor lacks rank. Below 0 where the mean of the held-out tokens would have predicted better.
    """
    known = fit.statistics
    if known.widths != held_out.widths:
        raise SettingError(f"widths {held_out.widths} do not go with {known.widths}: give the same sites, in one order")
    sites = range(len(known))
    moves = [held_out.mean(site) - known.mean(site) for site in sites]
    spread = [variance(held_out, site) for site in sites]
    with few_threads(max(known.widths)):
        rows = [_explained(fit, held_out, moves, i) for i in sites]
    return torch.stack(rows) / torch.tensor(spread, dtype=torch.float64)


def regression_r2(fit: Linear, held_out: Statistics) -> Float64[Tensor, "sites sites"]:
    """The mean R^2 of both directions: see `directed_r2`.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> known, new = Statistics([4, 2]), Statistics([4, 2])
    >>> known.add([x[:100], x[:100, :2]])
    >>> new.add([x[100:], x[100:, :2]])
    >>> regression_r2(Linear(known), new)[0, 1].item() < 0.9 < regression_r2(Linear(known), new)[1, 1].item()
    True
    """
    directed = directed_r2(fit, held_out)
    return (directed + directed.T) / 2


@similarity_index(
    "held-out statistics",
    f"{KORNBLITH}, on held-out tokens",
    ("rotation", "scale", "translation"),
    lowest=-float("inf"),
)
def regression(x: Any, y: Any, *, held_out: Sequence[int] | None = None) -> float:
    """R^2 of predicting Y [tokens, d2] from X [tokens, d1] by least squares, on held-out tokens; the mean of both ways.

    R^2 = 1 - |Y - Y_hat|^2 / |Y - mean|^2. `held_out` are row numbers; the first third if not given: a stretch of the
    stream, for neighbouring tokens are alike. At most 1, and below 0 where the mean would have predicted better, as for
    few tokens. Invariant to rotation, scale and translation. Raises as `itda.similarity.cka`, and `SettingError` for
    rows that are not there.

    >>> x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    >>> round(regression(x, 2 * x.flip(1) + 1), 6)
    1.0
    """
    sites = pair_of(x, y)
    apart = leading(len(sites[0]), held_out, len(sites[0]), "held_out")
    rest = np.setdiff1d(np.arange(len(sites[0])), apart)
    if len(apart) < 2 or len(rest) < 2:
        raise SettingError(f"there are {len(apart)} tokens held out of {len(sites[0])}: give at least 2 of each kind")
    known, new = (Statistics([s.shape[1] for s in sites], names=PAIR, device=sites[0].device) for _ in range(2))
    known.add([site[torch.from_numpy(rest).to(site.device)] for site in sites])
    new.add([site[torch.from_numpy(apart).to(site.device)] for site in sites])
    return regression_r2(Linear(known), new)[0, 1].item()


def _explained(fit: Linear, held_out: Statistics, moves: list[Tensor], predictor: int) -> Float64[Tensor, " sites"]:
    """Return the variance of each site on the held-out tokens, less what the prediction from one site leaves."""
    white = fit.factor(predictor).whitening
    own, move = white.T @ held_out.covariance(predictor, predictor) @ white, moves[predictor] @ white
    result = torch.empty(len(moves), dtype=torch.float64)
    for target in range(len(moves)):
        fitted = white.T @ fit.covariance(predictor, target)  # B of the whitened predictor
        product = 2 * white.T @ held_out.covariance(predictor, target) - own @ fitted
        offset = moves[target] - move @ fitted
        result[target] = (fitted * product).sum() - offset.square().sum()
    return result
