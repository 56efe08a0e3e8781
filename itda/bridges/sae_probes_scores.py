"""The protocol of sae-probes 0.4.2 on one data set and one readout: split, choice of latents, regressions, measures.

Written after its `run_sae_evals.py`, `utils_data.py` and `utils_training.py`, setting "normal", penalty L2, so that it
needs neither its SAE nor its other packages: bridges_tests/sae_probes compares the two.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itda.errors import CorpusError, ItdaError

PENALTIES = np.logspace(5, -5, 10)
"""Values of scikit-learn's C, the weakest penalty first."""
KEPT, MOST = 100, 1024
"""Rows kept for the test at least, and rows of training at most."""
VALIDATED, SHARE = 100, 0.2
"""Rows of the training that the penalty is chosen on: a share of them, at most so many."""
FEW, SOME = 12, 128
"""Rows of training up to which pairs are left out, and below which there are six folds."""


def split(classes: Int64[np.ndarray, " rows"], size: int, seed: int, name: str = "the set") -> tuple[Any, Any]:
    """Return the rows to train on and to test on, as many of either class in both.

    `size` is that of the whole set, of which the rows are the first. Raises `CorpusError` for too few of a class.
    """
    generator = np.random.RandomState(seed)
    train = min(size - KEPT, MOST)
    test = len(classes) - train - 1
    sides = [np.flatnonzero(classes == side) for side in (1, 0)]
    if train < 4 or test < 2:
        raise CorpusError(f"{name} has {len(classes)} prompts, too few for a test of {KEPT}: raise --rows")
    try:
        chosen = [generator.choice(side, n, replace=False) for side, n in zip(sides, _halves(train), strict=True)]
        left = [np.setdiff1d(side, taken) for side, taken in zip(sides, chosen, strict=True)]
        tested = [generator.choice(side, n, replace=False) for side, n in zip(left, _halves(test), strict=True)]
    except ValueError as error:
        raise CorpusError(f"{name} has too few prompts of one class for {train} + {test}: leave it out") from error
    return generator.permutation(np.concatenate(chosen)), generator.permutation(np.concatenate(tested))


def _halves(number: int) -> tuple[int, int]:
    return -(-number // 2), number // 2


def by_mean_difference(features: Float[Tensor, "rows latents"], classes: Tensor) -> Tensor:
    """Return the latents in the order of the difference of their means between the classes, scaled by their size.

    The size of a latent is the mean of its absolute values where it is not 0.

    >>> by_mean_difference(torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0]]), torch.tensor([0, 0, 1])).tolist()
    [0, 1]
    """
    size = features.abs().sum(dim=0) / ((features != 0).sum(dim=0) + 1e-6)
    scaled = features / (size + 1e-6)
    return (scaled[classes == 1].mean(dim=0) - scaled[classes == 0].mean(dim=0)).abs().argsort(descending=True)


def scores(
    features: Float[Tensor, "rows latents"],
    classes: Int64[np.ndarray, " rows"],
    counts: Sequence[int | None],
    rows: tuple[Any, Any],
    seed: int,
) -> list[dict[str, Any]]:
    """Return the measures of a regression on the best 1, 2 ... latents (None: on all, as they come).

    `rows` are those of `split`. Each entry has test_f1, test_acc, test_auc, val_auc, k and the latents as `indices`.
    """
    train, test = rows
    wanted = [count for count in counts if count is None or count <= features.shape[1]]
    order = by_mean_difference(features[train], torch.from_numpy(classes[train])) if any(wanted) else None
    found = []
    for count in wanted:
        chosen = order[:count] if count is not None and order is not None else slice(None)
        x = features[:, chosen].numpy()
        measured = fitted(x[train], classes[train], x[test], classes[test], seed)
        found.append({**measured, "k": count, "indices": chosen.tolist() if isinstance(chosen, Tensor) else None})
    return found


def fitted(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, seed: int) -> dict[str, float]:
    """Fit a logistic regression, its penalty chosen on a part of the rows, and return its measures on the test rows."""
    regression, metrics, selection = _sklearn()
    splits = _validations(selection, x, y, seed)

    def judged(c: float) -> float:
        aucs = []
        for fit, held in splits:
            if len(np.unique(y[fit])) < 2:
                aucs.append(0.5)
                continue
            made = regression(C=c, random_state=seed, max_iter=1000).fit(x[fit], y[fit])
            aucs.append(metrics.roc_auc_score(y[held], made.predict_proba(x[held])[:, 1]))
        return float(np.mean(aucs))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some regressions do not converge in 1000 steps is a part of the protocol
        said = [judged(c) for c in PENALTIES]
        order = np.random.RandomState(seed).permutation(len(x))
        best = regression(C=PENALTIES[int(np.argmax(said))], random_state=seed, max_iter=1000)
        best.fit(x[order], y[order])
    predicted = best.predict(x_test)
    return {
        "test_f1": float(metrics.f1_score(y_test, predicted, average="weighted")),
        "test_acc": float(metrics.accuracy_score(y_test, predicted)),
        "test_auc": float(metrics.roc_auc_score(y_test, best.predict_proba(x_test)[:, 1])),
        "val_auc": float(np.max(said)),
    }


def _validations(selection: Any, x: np.ndarray, y: np.ndarray, seed: int) -> list[tuple[Any, Any]]:
    """Return pairs of rows to fit on and rows to judge on, with both classes among the latter."""
    rows = len(x)
    if rows >= SOME:
        held = min(int(SHARE * rows), VALIDATED)
        return [(np.arange(rows - held), np.arange(rows - held, rows))]
    if rows <= FEW:
        splits = selection.LeavePOut(2).split(x, y)
    else:
        splits = selection.StratifiedKFold(n_splits=6, shuffle=True, random_state=seed).split(x, y)
    return [(fit, held) for fit, held in splits if len(np.unique(y[held])) == 2]


def _sklearn() -> tuple[Any, Any, Any]:
    try:
        from sklearn import metrics, model_selection
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ItdaError("probing needs scikit-learn: pip install 'itda[probing]'") from error
    return LogisticRegression, metrics, model_selection
