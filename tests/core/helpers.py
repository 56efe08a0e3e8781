"""Oracles and data for the tests of the core: slow, plain, in float64."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from itda import ActivationBatch, Label, Labels, Trainer
from itda.core.pursuit import PURSUITS
from itda.core.pursuit.gram_cpu import kind_of
from itda.core.training.greedy import GreedyPass
from itda.core.training.growth import Growth


def labels(number: int, document: str = "essay") -> Labels:
    """Labels that count the tokens of a document."""
    return _many_labels(max(number - 1, 0).bit_length(), document)[:number]


@cache
def _many_labels(exponent: int, document: str) -> Labels:
    """2 to some power of them, made once: each is checked as it is made, which takes long."""
    return Labels.of(*(Label(document, i, i, i + 1, i, "", "x", "") for i in range(2**exponent)))


def unit_rows(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=random), dim=1)


def growth_of(trainer: Trainer) -> Growth:
    """What grows in a trainer that has begun."""
    assert isinstance(trainer._pass, GreedyPass)
    return trainer._pass._growth


def normal(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1000 + seed))


class SlowRules(NamedTuple):
    """What a pursuit does, for the slow loop: what makes an atom the best, and where least squares come in."""

    score: Callable[[np.ndarray], np.ndarray] = np.abs
    fits_each_step: bool = False
    fits_at_the_end: bool = False


SLOW: dict[str, SlowRules] = {
    "mp": SlowRules(),
    "mp_refit": SlowRules(fits_at_the_end=True),
    "omp": SlowRules(fits_each_step=True),
    "nn_mp": SlowRules(score=lambda correlations: correlations),
}
"""A row for each pursuit of the package's table: the oracle."""


COMPILED = [name for name in PURSUITS if kind_of(name) is not None]
"""The pursuits that compiled loops know."""


def slow_pursuit(x: np.ndarray, atoms: np.ndarray, k: int, pursuit: str) -> tuple[dict[int, float], list[int], float]:
    """One activation in float64: coefficients by atom, picks in order, share of the energy left."""
    rules, x, atoms = SLOW[pursuit], x.astype(np.float64), atoms.astype(np.float64)
    energy, residual, picks, code = x @ x, x.copy(), [], {}
    for _ in range(k):
        scores = atoms @ residual
        best = int(np.argmax(rules.score(scores)))  # the first of equals
        worth = rules.score(scores)[best]
        if energy == 0 or residual @ residual <= 2.0**-40 * energy or worth <= 2.0**-20 * energy**0.5:
            break
        picks.append(best)
        code[best] = code.get(best, 0.0) + scores[best]
        residual = residual - scores[best] * atoms[best]
        if rules.fits_each_step:
            fit = np.linalg.lstsq(atoms[picks].T, x, rcond=None)[0]
            code = dict(zip(picks, fit, strict=True))
            residual = x - fit @ atoms[picks]
    if rules.fits_at_the_end and code:
        support = list(code)
        fit = np.linalg.lstsq(atoms[support].T, x, rcond=None)[0]
        code, residual = dict(zip(support, fit, strict=True)), x - fit @ atoms[support]
    return code, picks, float(residual @ residual / energy) if energy else 0.0


def slow_training(x: np.ndarray, k: int, threshold: float, pursuit: str) -> list[int]:
    """The rows that become atoms, one activation at a time."""
    atoms, rows = np.zeros((0, x.shape[1])), []
    for i, row in enumerate(x.astype(np.float64)):
        error = float(row.any()) if len(atoms) == 0 else slow_pursuit(row, atoms, k, pursuit)[2]
        if error > threshold:
            rows.append(i)
            atoms = np.vstack([atoms, (row / np.linalg.norm(row)).astype(np.float32)])
    return rows


def batch(x: torch.Tensor, start: int = 0, stop: int | None = None) -> ActivationBatch:
    """Rows start to stop of a stream whose labels count its rows."""
    part = slice(start, stop)
    return ActivationBatch(x[part], labels(len(x))[part])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, with -0 and 0 apart."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
