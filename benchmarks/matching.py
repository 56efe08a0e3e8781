"""Layer matching: is the most similar site of another model the same site? Scores, with intervals over models.

The unit of replication is the model: pairs share models and sites share pairs, so intervals are by the delete-one-model
jackknife with Student's t of M - 1 degrees of freedom, and indices are compared by the jackknife of their difference.
Over several families of models, errors of the families' means add as those of independent things do.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

# Student's quantile at 97.5%, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


@dataclass(frozen=True)
class Score:
    """Per ordered pair of different models: shares of sites, and margins."""

    accuracy: dict[tuple[int, int], float]
    """The best match is the same site; of several best ones, the same site's share."""
    within_one: dict[tuple[int, int], float]
    margin: dict[tuple[int, int], float]
    """The same site's value less the best other's, in standard deviations of the row, on average."""


def score(matrix: np.ndarray, models: int, sites: int) -> Score:
    """Match every site of every model with those of every other, by a matrix [models * sites, models * sites].

    Raises `ValueError` for a value that is not a number.
    """
    blocks = matrix.reshape(models, sites, models, sites)
    accuracy, within_one, margin = {}, {}, {}
    for m, n in permutations(range(models), 2):
        block = blocks[m, :, n, :]
        if not np.isfinite(block).all():
            raise ValueError(f"model {m} with model {n}: a similarity is not a number")
        credit, near, lead = [], [], []
        for i, row in enumerate(block):
            best = np.flatnonzero(row == row.max())
            credit.append(float(np.mean(best == i)))
            near.append(float(np.mean(np.abs(best - i) <= 1)))
            lead.append((row[i] - np.delete(row, i).max()) / (row.std() or 1.0))
        accuracy[m, n], within_one[m, n], margin[m, n] = np.mean(credit), np.mean(near), np.mean(lead)
    return Score(accuracy, within_one, margin)


def jackknife(values: dict[tuple[int, int], float]) -> tuple[float, float]:
    """The mean over ordered pairs, and the half width of its 95% interval over models; NaN for fewer than three."""
    models = sorted({m for m, _ in values})
    if len(models) < 3:
        return float(np.mean(list(values.values()))), float("nan")
    without = [np.mean([v for pair, v in values.items() if m not in pair]) for m in models]
    number = len(models)
    error = np.sqrt((number - 1) / number * np.sum((np.array(without) - np.mean(without)) ** 2))
    return float(np.mean(list(values.values()))), float(T.get(number - 1, 1.96) * error)


def difference(a: dict[tuple[int, int], float], b: dict[tuple[int, int], float]) -> tuple[float, float]:
    """The mean of a - b over pairs of models, with the half width of its interval."""
    return jackknife({pair: a[pair] - b[pair] for pair in a})


def over_families(several: list[tuple[float, float]], models: int) -> tuple[float, float]:
    """The mean of families' means, and half its 95% interval: families are taken as given, models as drawn.

    Errors of families add as those of independent things do; degrees of freedom are Satterthwaite's.
    """
    variances = np.array([(half / T[models - 1]) ** 2 for _, half in several])
    freedom = models - 1 if not variances.any() else int(variances.sum() ** 2 * (models - 1) / (variances**2).sum())
    half = T.get(freedom, 2.228) * np.sqrt(variances.sum()) / len(several)
    return float(np.mean([mean for mean, _ in several])), float(half)


def self_similarity(matrix: np.ndarray) -> float:
    """The smallest similarity of a site to itself."""
    return float(matrix.diagonal().min())
