"""Fit the detectors of `FeatureEncoder` in one pass: all they need are the mean and the covariance of activations.

The sums are in float64, over blocks of `BLOCK` activations of the stream, in the order of the stream. So they do not
depend on how it was cut into batches: the same activations give the same bits on one machine with one number of
threads. On another machine a library of linear algebra may sum in another order, and then the last bits differ. What
is stored is the result; what it makes of an activation is the same everywhere.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.dictionary import ITDA, check_width
from itda.core.intake import Rows, check_finite, rows_of
from itda.core.massive import massive
from itda.core.readout_features import FeatureEncoder
from itda.errors import ActivationError, SettingError

BLOCK = 1024
"""Activations whose products are summed at once."""

RIDGE = 0.3
"""The default share of the mean variance that is added to each variance: see docs/method.md for what was tried."""

PARTS = 4096
"""Atoms whose detectors are solved for at once."""


class Moments:
    """The mean and the covariance of a stream of activations, whatever its batches.

    >>> moments = Moments(2)
    >>> moments.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> moments.tokens, moments.mean().tolist(), moments.covariance().tolist()
    (2, [2.0, 0.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self, d_model: int) -> None:
        self.d_model, self.tokens = d_model, 0
        self._sum = torch.zeros(d_model, dtype=torch.float64)
        self._products = torch.zeros(d_model, d_model, dtype=torch.float64)
        self._first = torch.zeros(d_model, dtype=torch.float64)
        self._waiting = torch.zeros(0, d_model, dtype=torch.float64)

    @torch.no_grad()
    def add(self, activations: Float[Tensor, "batch d_model"]) -> None:
        """Count some activations. Raises `ActivationError` for a wrong width, or a row that is not finite."""
        check_width(activations, self.d_model)
        check_finite(activations)
        rows = activations.detach().cpu().double()
        if len(rows) and not self.tokens:
            self._first = rows[0].clone()
        self.tokens += len(rows)
        # Less the first row: a mean that dwarfs the variance would cancel it.
        waiting = torch.cat([self._waiting, rows - self._first])
        whole = len(waiting) // BLOCK * BLOCK
        for block in waiting[:whole].split(BLOCK):
            self._sum, self._products = self._sums_with(block)
        self._waiting = waiting[whole:].clone()

    def mean(self) -> Float64[Tensor, " d_model"]:
        """Return the mean of all activations so far. Raises `ActivationError` if there is none."""
        return self._all()[0] / self.tokens + self._first

    def covariance(self) -> Float64[Tensor, "d_model d_model"]:
        """Return the mean of (x - mean)(x - mean)^T. Raises `ActivationError` if there is no activation."""
        total, products = self._all()
        mean = total / self.tokens
        return products / self.tokens - torch.outer(mean, mean)

    def _all(self) -> tuple[Tensor, Tensor]:
        """Return the sums with those rows that do not fill a block yet."""
        if not self.tokens:
            raise ActivationError("no activations to fit features on: give some that are not massive")
        return self._sums_with(self._waiting) if len(self._waiting) else (self._sum, self._products)

    def _sums_with(self, block: Tensor) -> tuple[Tensor, Tensor]:
        return self._sum + block.sum(dim=0), self._products + block.T @ block


@torch.no_grad()
def encoder_of(atoms: Float32[Tensor, "atoms d_model"], moments: Moments, *, ridge: float = RIDGE) -> FeatureEncoder:
    """Return the detectors of atoms: w = (S + ridge t I)^-1 d, divided by the deviation of its score, (w^T S w)^(1/2).

    A detector whose score would be the same for all activations is zero. Raises `SettingError` for a ridge that is not
    positive, `ActivationError` where all activations are equal.

    >>> moments = Moments(2)
    >>> moments.add(torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]]))
    >>> encoder = encoder_of(torch.eye(2), moments)
    >>> (encoder.scale * encoder.detectors).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    if not 0 < ridge < float("inf"):
        raise SettingError(f"ridge is {ridge}: it must be a positive number")
    covariance = moments.covariance()
    variance = covariance.diagonal().mean().item()
    if not variance > 0:
        raise ActivationError("all activations are equal: fit features on those of different tokens")
    added = ridge * variance * torch.eye(moments.d_model, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance + added)
    parts = []
    for part in atoms.detach().cpu().split(PARTS):
        solved = torch.cholesky_solve(part.double().T, factor).T
        deviation = ((solved @ covariance) * solved).sum(dim=1).clamp(min=0).sqrt()
        # A deviation far below what an atom of that norm has on average is nothing but rounding.
        least = 1e-7 * variance**0.5 * solved.norm(dim=1)
        parts.append(torch.where((deviation > least)[:, None], solved / deviation[:, None], torch.zeros_like(solved)))
    detectors = torch.cat(parts) if parts else torch.zeros(0, moments.d_model, dtype=torch.float64)
    scale = detectors.norm(dim=1).max().item() if len(detectors) else 0.0
    unit = (detectors / scale if scale > 0 else detectors).float()
    return FeatureEncoder(unit, scale, moments.mean().float(), moments.tokens, ridge).to(atoms.device)


@torch.no_grad()
def fit_features(dictionary: ITDA, activations: Rows, *, ridge: float = RIDGE) -> ITDA:
    """Return the dictionary with a feature encoder fitted on activations [batch, d_model], for `ITDA.features`.

    Massive activations are left out. No codes are needed, and the atoms stay as they are. Some thousands of activations
    are enough, best those that the dictionary was trained on. Raises `ActivationError` for activations that do not fit,
    are all equal or all massive, `SettingError` for a ridge that is not positive.

    >>> import torch, itda
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(2)))
    >>> dictionary = itda.ITDA(torch.eye(2), labels, k=1)
    >>> x = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
    >>> code = itda.fit_features(dictionary, x).features(torch.tensor([[3.0, 2.0]]))
    >>> code.indices.tolist(), code.coefficients.tolist()
    ([[1]], [[2.0]])
    """
    rows = rows_of(activations)
    check_width(rows, dictionary.d_model)
    moments = Moments(dictionary.d_model)
    for part in rows.split(4 * BLOCK):
        check_finite(part)
        moments.add(part[~massive(part, dictionary.massive_norm)])
    return replace(dictionary, feature_encoder=encoder_of(dictionary.atoms, moments, ridge=ridge))
