"""Fit the detectors of `FeatureEncoder` in one pass: all they need are the mean and two covariances of activations.

One is that of an activation with itself. The other is that of two activations near each other in the text: what they
share *lasts*. Texts need no marks: of rows in no order nothing lasts, and the second covariance is only noise.

The sums are in float64, over blocks of `BLOCK` activations of the stream, in the order of the stream. So they do not
depend on how it was cut into batches: the same activations give the same bits on one machine with one number of
threads. On another machine a library of linear algebra may sum in another order, and then the last bits differ. What
is stored is the result; what it makes of an activation is the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.dictionary import ITDA, check_width
from itda.core.intake import Rows, check_finite, rows_of
from itda.core.levels import grouped, stand_ins
from itda.core.massive import massive
from itda.core.readout_features import FeatureEncoder
from itda.errors import ActivationError, SettingError

BLOCK = 1024
"""Activations whose products are summed at once."""

RIDGE = 0.3
"""The default share of the mean variance that is added to each variance: see docs/method.md for what was tried."""

LASTING_RIDGE, LASTING_POWER = 0.1, 0.5
"""The same where space is weighted by what lasts; and the power of a direction's persistence that its variance is."""

SURE = 3.0
"""How far above noise a persistence must be, if it is to count as more; see `lasting_map`."""

NEAR = 64
"""Activations in a row of the stream that count as near each other."""

ATOMS_A_BROAD = 32
"""So many atoms for each broad feature."""

PARTS = 4096
"""Atoms whose detectors are solved for at once."""


class Moments:
    """The mean and the covariances of a stream of activations in the order of their text, whatever its batches.

    >>> moments = Moments(2)
    >>> moments.add(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> moments.tokens, moments.mean().tolist(), moments.covariance().tolist(), moments.lasting().tolist()
    (2, [2.0, 0.0], [[1.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self, d_model: int) -> None:
        self.d_model, self.tokens = d_model, 0
        self._sums = _Sums.none(d_model)
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
            self._sums = self._sums.plus(block)
        self._waiting = waiting[whole:].clone()

    def mean(self) -> Float64[Tensor, " d_model"]:
        """Return the mean of all activations so far. Raises `ActivationError` if there is none."""
        return self._all().rows / self.tokens + self._first

    def covariance(self) -> Float64[Tensor, "d_model d_model"]:
        """Return the mean of (x - mean)(x - mean)^T. Raises `ActivationError` if there is no activation."""
        sums = self._all()
        mean = sums.rows / self.tokens
        return sums.products / self.tokens - torch.outer(mean, mean)

    def lasting(self) -> Float64[Tensor, "d_model d_model"]:
        """Return the mean of (x - mean)(y - mean)^T over all x and y in one run of `NEAR` activations; 0 of no pair.

        Raises `ActivationError` if there is no activation.
        """
        sums = self._all()
        mean = sums.rows / self.tokens
        pairs = sums.pairs - self.tokens
        if not pairs:
            return torch.zeros_like(sums.products)
        cross = torch.outer(sums.weighted, mean)
        together = sums.near - cross - cross.T + sums.pairs * torch.outer(mean, mean)
        return (together - sums.products + self.tokens * torch.outer(mean, mean)) / pairs

    def _all(self) -> _Sums:
        """Return the sums with those rows that do not fill a block yet."""
        if not self.tokens:
            raise ActivationError("no activations to fit features on: give some that are not massive")
        return self._sums.plus(self._waiting) if len(self._waiting) else self._sums


@dataclass(frozen=True)
class _Sums:
    """Sums over rows, and over runs of at most `NEAR` rows; s is the sum of a run, n its length."""

    rows: Float64[Tensor, " d_model"]
    products: Float64[Tensor, "d_model d_model"]
    near: Float64[Tensor, "d_model d_model"]
    """Of s s^T."""
    weighted: Float64[Tensor, " d_model"]
    """Of n s."""
    pairs: int
    """Of n^2."""

    @staticmethod
    def none(d_model: int) -> _Sums:
        vector, table = torch.zeros(d_model, dtype=torch.float64), torch.zeros(d_model, d_model, dtype=torch.float64)
        return _Sums(vector, table, table, vector, 0)

    def plus(self, block: Float64[Tensor, "block d_model"]) -> _Sums:
        runs = block.split(NEAR)
        sums = torch.stack([run.sum(dim=0) for run in runs])
        lengths = torch.tensor([len(run) for run in runs], dtype=torch.float64)
        return _Sums(
            self.rows + block.sum(dim=0),
            self.products + block.T @ block,
            self.near + sums.T @ sums,
            self.weighted + lengths @ sums,
            self.pairs + sum(len(run) ** 2 for run in runs),
        )


@torch.no_grad()
def encoder_of(atoms: Float32[Tensor, "atoms d_model"], moments: Moments, *, ridge: float = RIDGE) -> FeatureEncoder:
    """Return the detectors of atoms, each divided by the deviation of its score, (w^T S w)^(1/2).

    Fine ones are w = (S + ridge t I)^-1 d. If anything lasts, one atom in `ATOMS_A_BROAD` becomes a broad one: see
    `_broad`. A detector whose score would be the same for all activations is zero. Raises `SettingError` for a ridge
    that is not positive, `ActivationError` where all activations are equal.

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
    on_cpu = atoms.detach().cpu()
    parts = [torch.cholesky_solve(part.double().T, factor).T for part in on_cpu.split(PARTS)]
    detectors = torch.cat([_to_deviations(part, covariance) for part in parts]) if parts else on_cpu.double()
    lasting, number = lasting_map(covariance, moments.lasting())
    broad, solved = _broad(on_cpu, lasting, len(atoms) // ATOMS_A_BROAD if number else 0)
    detectors[broad] = _to_deviations(solved, covariance)
    scale = detectors.norm(dim=1).max().item() if len(detectors) else 0.0
    unit = (detectors / scale if scale > 0 else detectors).float()
    encoder = FeatureEncoder(unit, scale, moments.mean().float(), moments.tokens, ridge, broad, lasting.float())
    return encoder.to(atoms.device)


def _to_deviations(
    solved: Float64[Tensor, "part d_model"], covariance: Float64[Tensor, "d_model d_model"]
) -> Float64[Tensor, "part d_model"]:
    """Divide detectors by the deviation of their scores."""
    deviation = ((solved @ covariance) * solved).sum(dim=1).clamp(min=0).sqrt()
    # A deviation far below what an atom of that norm has on average is nothing but rounding.
    least = 1e-7 * covariance.diagonal().mean().sqrt() * solved.norm(dim=1)
    return torch.where((deviation > least)[:, None], solved / deviation[:, None], torch.zeros_like(solved))


def lasting_map(
    covariance: Float64[Tensor, "d_model d_model"], lasting: Float64[Tensor, "d_model d_model"]
) -> tuple[Float64[Tensor, "d_model d_model"], int]:
    """Return the map of x - mean to the space where a direction's variance is a power of its *persistence*.

    And how many directions last for sure: those of a persistence above `SURE` times what noise has.

    First all directions are whitened, by P = (S + ridge t I)^(-1/2), so that none counts for its variance alone. There
    the covariance of near activations, P C P, says how much of each direction lasts: its eigenvalues are persistences,
    from 1 down to 0. A negative one is noise, and so is every one as small: none counts as less than the most negative.

    >>> mapping, number = lasting_map(torch.eye(2).double(), torch.diag(torch.tensor([0.81, -0.0001]).double()))
    >>> number, (mapping * 1.1**0.75).round(decimals=4).tolist()
    (1, [[0.9487, 0.0], [0.0, 0.1]])
    """
    variance = covariance.diagonal().mean()
    values, vectors = torch.linalg.eigh(covariance)
    whitening = (vectors * (values.clamp(min=0) + LASTING_RIDGE * variance).rsqrt()) @ vectors.T
    persistence, directions = torch.linalg.eigh(whitening @ lasting @ whitening)
    floor = max(-persistence.min().item(), 1e-6)
    weighted = directions * persistence.clamp(min=floor) ** (LASTING_POWER / 2)
    return whitening @ weighted @ directions.T, int((persistence > SURE * floor).sum())


def _broad(
    atoms: Float32[Tensor, "atoms d_model"], lasting: Float64[Tensor, "d_model d_model"], number: int
) -> tuple[Int64[Tensor, " broad"], Float64[Tensor, "broad d_model"]]:
    """Return the atoms that stand for so many groups, ascending, and the detector of each group.

    In the space of what lasts, atoms are grouped by spherical k-means that starts from atoms evenly spread over their
    order. The atom nearest to a group's centre stands for it; the detector's score is the product with the centre.
    """
    if not number:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, atoms.shape[1], dtype=torch.float64)
    mapped = atoms.double() @ lasting
    mapped = (mapped / mapped.norm(dim=1, keepdim=True).clamp(min=1e-30)).float()
    start = torch.arange(number) * ((len(atoms) - 1) // max(1, number - 1))
    centres, groups = grouped(mapped, mapped[start])
    _, atom = stand_ins(mapped, centres, groups)
    order = atom.argsort()
    return atom[order], centres[groups.unique()[order]].double() @ lasting.T


@torch.no_grad()
def fit_features(dictionary: ITDA, activations: Rows, *, ridge: float = RIDGE) -> ITDA:
    """Return the dictionary with a feature encoder fitted on activations [batch, d_model], for `ITDA.features`.

    Give them in the order of their text, because broad features look for what lasts through it. Massive activations are
    left out. No codes are needed, and the atoms stay as they are. Some thousands of activations are enough, preferably
    those that the dictionary was trained on. Raises `ActivationError` for activations that do not fit,
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
