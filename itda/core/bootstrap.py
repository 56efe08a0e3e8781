"""Intervals by bootstrap over documents, for measures that are functions of sums over tokens.

The tokens of a document are alike, so documents are what is drawn: a measure's sums are kept per document, and a
resample of documents is a weighted sum of them. Draws depend on the seed and the number of documents alone, so
measures of the same documents are resampled alike.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from itda.errors import SettingError

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Interval:
    """The value of a measure on all documents, and the ends of its interval, which are NaN for a single document."""

    value: Float[np.ndarray, "*values"]
    low: Float[np.ndarray, "*values"]
    high: Float[np.ndarray, "*values"]


def by_document(
    columns: Float[np.ndarray, "rows columns"] | Float[np.ndarray, " rows"], documents: Shaped[np.ndarray, " rows"]
) -> Float[np.ndarray, "documents columns"]:
    """Sum the columns over the rows of each document, in the order of the sorted ids.

    >>> by_document(np.array([1.0, 2.0, 4.0]), np.array(["b", "a", "b"])).tolist()
    [[2.0], [5.0]]
    """
    names, rows = np.unique(documents, return_inverse=True)
    columns = columns.reshape(len(documents), -1)
    weighted = [np.bincount(rows, column, len(names)) for column in columns.T]
    return np.stack(weighted, axis=1) if weighted else np.zeros((len(names), 0))


def ratio(sums: Float[np.ndarray, "*batch columns"]) -> Float[np.ndarray, "*batch"]:
    """Divide the first column by the second: fvu of residual and variance, l0 of picks and tokens, a mean over tokens.

    >>> ratio(np.array([1.0, 4.0])).tolist()
    0.25
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def interval(
    sums: Float[np.ndarray, "documents columns"] | Int[np.ndarray, "documents columns"],
    measure: Callable[[np.ndarray], np.ndarray] = ratio,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the interval of `measure`, a function of sums [..., columns] to [...] or to several values [..., values].

    CE loss score is of the columns (zero - spliced, zero - clean). A measure may subtract two others of its columns:
    that is the interval of a difference on the same documents. Resamples in which it is not a number (they lack a
    class, say) are left out. Percentiles are widened for the number of documents, as Student's t is (Hesterberg 2015,
    "What teachers should know about the bootstrap"): where documents differ much, theirs cover the truth too seldom.
    Raises `SettingError` if there is no document, or the level is not between 0 and 1.

    >>> found = interval(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    >>> found.value.tolist(), found.low.tolist(), found.high.tolist()
    (0.5, 0.5, 0.5)
    """
    if not 0 < level < 1:
        raise SettingError(f"level is {level}: it must be between 0 and 1, such as 0.95")
    documents = len(sums)
    if documents == 0:
        raise SettingError("there is no document to resample: give sums of at least one")
    sums = sums.astype(np.float64)
    value = np.asarray(measure(sums.sum(axis=0)), dtype=np.float64)
    nothing = np.full_like(value, np.nan)
    if documents == 1:
        return Interval(value, nothing, nothing)
    draws = np.random.default_rng(seed).multinomial(documents, np.full(documents, 1 / documents), size=resamples)
    found = np.asarray(measure(draws @ sums), dtype=np.float64).reshape(resamples, value.size)
    tail = _tail(documents, level)
    ends = np.full((2, value.size), np.nan)
    for i, column in enumerate(found.T):
        if (numbers := column[~np.isnan(column)]).size:
            ends[:, i] = np.quantile(numbers, [tail, 1 - tail])
    return Interval(value, ends[0].reshape(value.shape), ends[1].reshape(value.shape))


def _tail(documents: int, level: float) -> float:
    """Return the share to cut at each end: the normal tail at sqrt(n / (n - 1)) times Student's quantile for n - 1."""
    normal = statistics.NormalDist()
    z, freedom = normal.inv_cdf((1 + level) / 2), documents - 1
    # Student's quantile by its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5): no scipy in the core.
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    t = sum(term / freedom**power for power, term in enumerate(terms))
    return normal.cdf(-t * (documents / freedom) ** 0.5)
