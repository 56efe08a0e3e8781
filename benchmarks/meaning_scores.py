"""The arithmetic of the benchmark of meaning: choice of features, probes, areas under the curve, matching of atoms.

Choice and probes are those of sae-probes 0.4.2 (`run_sae_evals.py`, `utils_training.py`), written again so that they
need neither its model nor its other packages. One thing differs: the same logistic regression is solved by Newton's
method, ten penalties at once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

PENALTIES = np.logspace(5, -5, 10)
"""C of scikit-learn's LogisticRegression, the weakest penalty first."""
TEST_ROWS = 100
NEWTON_STEPS = 100


def split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and to test on, as many of either class in both; 100 rows are kept for the test."""
    generator = np.random.RandomState(seed)
    train, test = len(y) - TEST_ROWS, TEST_ROWS - 1
    sides, rest, tested = [np.flatnonzero(y == 1), np.flatnonzero(y == 0)], [], []
    sizes = -(-train // 2), train // 2
    chosen = [generator.choice(side, size, replace=False) for side, size in zip(sides, sizes, strict=True)]
    rest = [np.setdiff1d(side, taken) for side, taken in zip(sides, chosen, strict=True)]
    sizes = -(-test // 2), test // 2
    tested = [generator.choice(side, size, replace=False) for side, size in zip(rest, sizes, strict=True)]
    return generator.permutation(np.concatenate(chosen)), generator.permutation(np.concatenate(tested))


def by_mean_difference(features: Tensor, y: Tensor) -> Tensor:
    """Features in the order of the difference of their means between the classes, each scaled by its size where used.

    >>> by_mean_difference(torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0]]), torch.tensor([0, 0, 1])).tolist()
    [0, 1]
    """
    size = features.abs().sum(dim=0) / ((features != 0).sum(dim=0) + 1e-6)
    scaled = features / (size + 1e-6)
    difference = scaled[y == 1].mean(dim=0) - scaled[y == 0].mean(dim=0)
    return difference.abs().argsort(descending=True, stable=True)


def logistic(x: np.ndarray, y: np.ndarray, penalties: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [penalties, features] and intercepts [penalties] of logistic regressions with a squared penalty.

    Each minimises C * (sum of the log losses) + |weights|^2 / 2, the intercept being free, by Newton's method with
    halved steps; features are scaled for the solution only. Of more features than rows, only their span matters.
    """
    if x.shape[1] > len(x):
        left, size, right = np.linalg.svd(x, full_matrices=False)
        weights, intercepts = logistic(left * size, y, penalties)
        return weights @ right, intercepts
    scale = np.maximum(np.abs(x).max(axis=0), 1e-12)
    z = np.concatenate([x / scale, np.ones((len(x), 1))], axis=1).astype(np.float64)
    sign, cost = 2.0 * y - 1, np.asarray(penalties, dtype=np.float64)[:, None]
    ridge = np.append(1 / scale.astype(np.float64) ** 2, 0.0)
    w = np.zeros((len(cost), z.shape[1]))

    def loss(w: np.ndarray) -> np.ndarray:
        return cost[:, 0] * np.logaddexp(0, -sign * (w @ z.T)).sum(axis=1) + (ridge * w**2).sum(axis=1) / 2

    now = loss(w)
    for _ in range(NEWTON_STEPS):
        chance = 0.5 * (1 + np.tanh(0.5 * (w @ z.T)))
        gradient = cost * ((chance - y) @ z) + ridge * w
        spread = cost * chance * (1 - chance)
        hessian = np.einsum("cn,ni,nj->cij", spread, z, z, optimize=True) if z.shape[1] < 40 else _products(spread, z)
        hessian += np.diag(ridge + 1e-12)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        share = np.ones(len(w))
        for _ in range(30):
            then = loss(w - share[:, None] * step)
            worse = then > now
            if not worse.any():
                break
            share[worse] /= 2
        share[loss(w - share[:, None] * step) > now] = 0
        w = w - share[:, None] * step
        then = loss(w)
        if (now - then <= 1e-9 * (1 + now)).all():
            break
        now = then
    return w[:, :-1] / scale, w[:, -1]


def _products(spread: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.stack([(z * row[:, None]).T @ z for row in spread])


def auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the curve of each column of scores [rows, columns]: how often a positive row is above a negative one.

    Ties count half.

    >>> auroc(np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), np.array([False, True, True])).tolist()
    [1.0, 0.5]
    """
    from scipy.stats import rankdata

    n = int(positive.sum())
    ranks = rankdata(scores, axis=0)[positive].sum(axis=0)
    return (ranks - n * (n + 1) / 2) / (n * (len(positive) - n))


def probe_auc(train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray) -> float:
    """Test AUC of a logistic regression whose penalty is chosen on the last fifth of the training rows."""
    held = len(train) - min(len(train) // 5, 100)
    w, intercept = logistic(train[:held], y_train[:held], PENALTIES)
    judged = auroc(train[held:] @ w.T + intercept, y_train[held:] == 1)
    w, intercept = logistic(train, y_train, [PENALTIES[int(np.argmax(judged))]])
    return float(auroc(test @ w.T + intercept, y_test == 1)[0])


def probed(features: Tensor, y: np.ndarray, sizes: Sequence[int | None], seed: int) -> tuple[list[float], list[int]]:
    """Test AUC with so many features (None: all); and the features in their order, as many as the most asked for."""
    train, test = split(y, seed)
    rows = features[torch.from_numpy(train)]
    most = max((size for size in sizes if size), default=0)
    order = by_mean_difference(rows, torch.from_numpy(y[train])) if most else torch.arange(features.shape[1])
    found = []
    for size in sizes:
        chosen = features[:, order[:size]].double().numpy()
        found.append(probe_auc(chosen[train], y[train], chosen[test], y[test]))
    return found, order[:most].tolist()


def cosines_to_nearest(atoms: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each of some unit vectors, the largest cosine to one of the others, and which that is.

    >>> [each.tolist() for each in cosines_to_nearest(torch.eye(2), torch.tensor([[0.0, 1.0], [0.8, 0.6]]))]
    [[0.800000011920929, 1.0], [1, 0]]
    """
    best = (atoms @ others.T).max(dim=1)
    return best.values, best.indices


def paired(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences, and its standard error."""
    difference = np.asarray(one) - np.asarray(other)
    if len(difference) < 2:
        return float(difference.mean()), float("nan")
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)
