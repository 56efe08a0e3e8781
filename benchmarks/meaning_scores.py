"""The arithmetic of the benchmark of meaning: choice of features, probes, areas under the curve, matching of atoms.

Choice and probes are those of sae-probes 0.4.2 (`run_sae_evals.py`, `utils_training.py`), written again so that they
need neither its model nor its other packages. One thing differs: the same logistic regression is solved by Newton's
method, all penalties and all data sets at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PENALTIES = np.logspace(5, -5, 10)
"""C of scikit-learn's LogisticRegression, the weakest penalty first."""
TEST_ROWS = 100
NEWTON_STEPS, HALVINGS = 100, 30


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

    Each minimises C * (sum of the log losses) + |weights|^2 / 2, the intercept being free. Of more features than rows,
    only their span matters.
    """
    if x.shape[1] > len(x):
        left, size, right = np.linalg.svd(x, full_matrices=False)
        weights, intercepts = logistic(left * size, y, penalties)
        return weights @ right, intercepts
    weights, intercepts = logistics(*(torch.from_numpy(np.asarray(each)[None]) for each in (x, y, penalties)))
    return weights[0].numpy(), intercepts[0].numpy()


def logistics(x: Tensor, y: Tensor, penalties: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [problems, penalties, features] and intercepts [problems, penalties] of many regressions as `logistic`'s.

    `x` is [problems, rows, features], `y` [problems, rows] of 0 and 1, `penalties` [problems, penalties]. Newton's
    method with halved steps, in float64, all at once; each regression stops when its own loss does. Features are scaled
    for the solution only.
    """
    x, y, penalties = x.double(), y.double(), penalties.double()
    problems, count = penalties.shape
    scale = x.abs().amax(dim=1).clamp(min=1e-12)
    z = torch.cat([x / scale[:, None], x.new_ones(*x.shape[:2], 1)], dim=2)
    ridge = torch.cat([scale**-2.0, scale.new_zeros(problems, 1)], dim=1)
    of = torch.arange(problems).repeat_interleave(count)  # the problem of each regression
    found = x.new_zeros(len(of), z.shape[2])
    each = torch.arange(len(of))  # the regressions that are not finished
    z, y, ridge, cost = z[of], y[of], ridge[of], penalties.reshape(-1, 1)
    w, margin = found[each], x.new_zeros(len(of), x.shape[1])
    loss = _loss(w, margin, y, ridge, cost)
    for _ in range(NEWTON_STEPS):
        step = _newton(w, margin, z, y, ridge, cost)
        ahead = torch.einsum("rni,ri->rn", z, step)
        share = _halved(loss, lambda part: _loss(w - part * step, margin - part * ahead, y, ridge, cost))  # noqa: B023
        w, margin = w - share * step, margin - share * ahead
        then = _loss(w, margin, y, ridge, cost)
        moved = loss - then > 1e-9 * (1 + loss)
        found[each] = w
        if not moved.any():
            break
        each, w, margin, loss = each[moved], w[moved], margin[moved], then[moved]
        z, y, ridge, cost = z[moved], y[moved], ridge[moved], cost[moved]
    found = found.reshape(problems, count, -1)
    return found[:, :, :-1] / scale[:, None], found[:, :, -1]


def _halved(loss: Tensor, after: Callable[[Tensor], Tensor]) -> Tensor:
    """The part of its step [regressions, 1] that makes no regression's loss larger: 1, halved as often as needed, or 0.

    `after` gives the losses after such parts.
    """
    share = loss.new_ones(len(loss), 1)
    for _ in range(HALVINGS):
        worse = after(share) > loss
        if not worse.any():
            return share
        share[worse] /= 2
    share[after(share) > loss] = 0
    return share


def _loss(w: Tensor, margin: Tensor, y: Tensor, ridge: Tensor, cost: Tensor) -> Tensor:
    """The loss of each regression; `margin` [regressions, rows] is its score of each row."""
    logs = torch.nn.functional.softplus((1 - 2 * y) * margin, threshold=50)
    return cost[:, 0] * logs.sum(dim=1) + (ridge * w**2).sum(dim=1) / 2


def _newton(w: Tensor, margin: Tensor, z: Tensor, y: Tensor, ridge: Tensor, cost: Tensor) -> Tensor:
    chance = margin.sigmoid()
    gradient = cost * torch.einsum("rni,rn->ri", z, chance - y) + ridge * w
    spread = cost * chance * (1 - chance)
    hessian = (z * spread[:, :, None]).transpose(1, 2) @ z
    hessian.diagonal(dim1=1, dim2=2).add_(ridge + 1e-12)
    return torch.linalg.solve(hessian, gradient)


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


def probe_aucs(x: Tensor, y: Tensor, rows: int) -> list[float]:
    """Test AUC of a logistic regression for each problem, its penalty chosen on the last fifth of the training rows.

    `x` is [problems, all rows, features] and `y` [problems, all rows]; the first `rows` are to train on.
    """
    held = rows - min(rows // 5, 100)
    penalties = torch.from_numpy(PENALTIES)
    w, intercept = logistics(x[:, :held], y[:, :held], penalties.expand(len(x), -1))
    scores = x[:, held:rows].double() @ w.transpose(1, 2) + intercept[:, None]
    judged = [auroc(each.numpy(), side.numpy() == 1) for each, side in zip(scores, y[:, held:rows], strict=True)]
    best = penalties[torch.from_numpy(np.argmax(judged, axis=1))][:, None]
    w, intercept = logistics(x[:, :rows], y[:, :rows], best)
    scores = x[:, rows:].double() @ w.transpose(1, 2) + intercept[:, None]
    return [float(auroc(each.numpy(), side.numpy() == 1)[0]) for each, side in zip(scores, y[:, rows:], strict=True)]


def probe_auc(train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray) -> float:
    """Test AUC of one logistic regression, as `probe_aucs` has it; of more features than rows, their span is used."""
    if train.shape[1] > len(train):
        held = len(train) - min(len(train) // 5, 100)
        w, intercept = logistic(train[:held], y_train[:held], PENALTIES)
        judged = auroc(train[held:] @ w.T + intercept, y_train[held:] == 1)
        w, intercept = logistic(train, y_train, [PENALTIES[int(np.argmax(judged))]])
        return float(auroc(test @ w.T + intercept, y_test == 1)[0])
    x, y = np.concatenate([train, test])[None], np.concatenate([y_train, y_test])[None]
    return probe_aucs(torch.from_numpy(x), torch.from_numpy(y), len(train))[0]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The features of one data set that its probes read."""

    x: Tensor
    """Training rows, then test rows [rows, features], the features in their order."""
    y: Tensor
    """Classes of the rows."""
    train: int
    """Number of training rows."""
    order: list[int]
    """The numbers of the features, the best first."""


def choose(features: Tensor, y: np.ndarray, most: int | None, seed: int) -> Chosen:
    """Split a data set and keep its `most` best features by the training rows; None keeps all, in no order."""
    train, test = split(y, seed)
    order = torch.arange(features.shape[1])
    if most is not None:
        order = by_mean_difference(features[torch.from_numpy(train)], torch.from_numpy(y[train]))[:most]
    rows = torch.from_numpy(np.concatenate([train, test]))
    kept = features[rows[:, None], order[None]].double()
    return Chosen(kept, torch.from_numpy(y)[rows], len(train), [] if most is None else order.tolist())


def probed(chosen: Sequence[Chosen], sizes: Sequence[int | None]) -> list[list[float]]:
    """For each data set, the test AUC with so many features (None: all); sets of one shape are solved together."""
    found = [[0.0] * len(sizes) for _ in chosen]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, each in enumerate(chosen):
        groups.setdefault((*each.x.shape, each.train), []).append(place)
    for (_, width, train), places in groups.items():
        y = [chosen[at].y for at in places]
        for column, size in enumerate(sizes):
            x = [chosen[at].x[:, :size] for at in places]
            if (size or width) > train:
                sides = [
                    (rows[:train], side[:train], rows[train:], side[train:]) for rows, side in zip(x, y, strict=True)
                ]
                areas = [probe_auc(*(part.numpy() for part in each)) for each in sides]
            else:
                areas = probe_aucs(torch.stack(x), torch.stack(y), train)
            for at, area in zip(places, areas, strict=True):
                found[at][column] = area
    return found


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


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Sum over sum, and its standard error by leaving out one term of both at a time (jackknife).

    >>> ratio([1.0, 2.0], [2.0, 4.0])
    (0.5, 0.0)
    """
    one, other = np.asarray(above), np.asarray(below)
    without = (one.sum() - one) / (other.sum() - other)
    n = len(one)
    return float(one.sum() / other.sum()), float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
