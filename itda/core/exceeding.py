"""Whether an effect exceeds that of its controls: a rank test, and bootstrap intervals over contexts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

BOOTSTRAPS = 1000


def control_windows(values: Shaped[np.ndarray, " atoms"], number: int) -> Integer[np.ndarray, "atoms number"]:
    """Return for each atom the `number` others whose ranks, by a value such as its uses, are nearest to its own.

    There must be more atoms than `number`.

    >>> control_windows(np.array([9, 0, 5, 7]), 2).tolist()
    [[2, 3], [2, 3], [1, 3], [2, 0]]
    """
    order = np.argsort(values, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    start = np.clip(rank - number // 2, 0, len(order) - number - 1)
    window = start[:, None] + np.arange(number + 1)  # atoms number+1, the atom itself among them
    others = window[window != rank[:, None]].reshape(len(order), number)
    return order[others]


def p_values(
    own: Float[np.ndarray, " atoms"], controls: Float[np.ndarray, "atoms number"]
) -> Float[np.ndarray, " atoms"]:
    """Return the share of effects, the own one counted with its controls, that are at least as large as the own.

    If an atom is no other than its controls, this is at most p with a probability of at most p. Controls without an
    effect (NaN) do not count; NaN for an atom without one.

    >>> p_values(np.array([3.0, 0.0]), np.array([[1.0, 2.0, 2.5], [1.0, -1.0, np.nan]])).tolist()
    [0.25, 0.6666666666666666]
    """
    known = ~np.isnan(controls)
    found = (1 + ((controls >= own[:, None]) & known).sum(axis=1)) / (1 + known.sum(axis=1))
    return np.where(np.isnan(own), np.nan, found)


def exceeding(p: Float[np.ndarray, " atoms"], level: float, some: Bool[np.ndarray, " atoms"] | None = None) -> float:
    """Return the share of some atoms, of those whose p is known, that have a p of at most a level; NaN for none.

    >>> exceeding(np.array([0.01, 0.5, np.nan]), 0.05)
    0.5
    """
    known = p[~np.isnan(p) & (True if some is None else some)]
    return float((known <= level).mean()) if len(known) else float("nan")


def either(*p: Float[np.ndarray, " atoms"]) -> Float[np.ndarray, " atoms"]:
    """Return a p that says that one of several is small, whichever: the least of those known, times their number.

    >>> either(np.array([0.01, np.nan]), np.array([0.5, 0.3])).tolist()
    [0.02, 0.3]
    """
    all_p = np.stack(p)
    known = (~np.isnan(all_p)).sum(axis=0)
    least = np.where(known, np.where(np.isnan(all_p), np.inf, all_p).min(axis=0), np.nan).astype(all_p.dtype)
    return np.minimum(1.0, least * np.maximum(known, 1).astype(least.dtype))


def bootstrapped(
    differences: Float[np.ndarray, "atoms contexts"], seed: int
) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, " atoms"]]:
    """Return the ends of the 95% interval of each atom's mean, by drawing contexts with replacement.

    Contexts that an atom lacks are NaN; the same draws for all atoms.

    >>> low, high = bootstrapped(np.array([[1.0, 1.0, np.nan]]), seed=0)
    >>> low.tolist(), high.tolist()
    ([1.0], [1.0])
    """
    contexts = differences.shape[1]
    random = np.random.default_rng(seed)
    weights = random.multinomial(contexts, np.full(contexts, 1 / contexts), size=BOOTSTRAPS).T.astype(np.float64)
    there = ~np.isnan(differences)
    low, high = np.full(len(differences), np.nan), np.full(len(differences), np.nan)
    for start in range(0, len(differences), 1024):
        some = slice(start, start + 1024)
        number = there[some] @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (np.nan_to_num(differences[some]) @ weights) / number
        known = there[some].any(axis=1)
        if known.any():
            low[some][known], high[some][known] = np.nanpercentile(means[known], [2.5, 97.5], axis=1)
    return low, high
