"""Which of many statistics are more than noise: an empirical null, and a false discovery rate.

Two fine-tunes of the same text with other seeds differ in every atom, by more than the sampling of documents explains:
a test of "no difference at all" would call nearly all of them findings. Most atoms of a narrow change move only as much
as any two fine-tunes do. So the spread of the bulk of the atoms is taken for the null (Efron 2004, "Large-scale
simultaneous hypothesis testing: the choice of a null hypothesis"), and what stands out from it is a finding, at a false
discovery rate (Benjamini and Hochberg 1995).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from itda.errors import SettingError

MAD = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""

FEWEST = 20
"""Statistics below this number have no bulk: nothing is called a finding."""


@dataclass(frozen=True)
class Null:
    """The centre and the spread of statistics that show nothing: of their bulk."""

    centre: float
    spread: float


def empirical_null(statistics: Float[np.ndarray, " atoms"]) -> Null:
    """Take the null from the bulk of the statistics: their median, and their median absolute deviation.

    Raises `SettingError` if there are none.

    >>> empirical_null(np.array([-1.0, 0.0, 1.0, 50.0, 0.0]))
    Null(centre=0.0, spread=1.4826)
    """
    if not len(statistics):
        raise SettingError("no statistic to take a null from: give at least one")
    centre = float(np.median(statistics))
    return Null(centre, MAD * float(np.median(np.abs(statistics - centre))))


def p_values(statistics: Float[np.ndarray, " atoms"], null: Null, *, both: bool = True) -> Float[np.ndarray, " atoms"]:
    """Return the chance of a value as far from the centre, under a normal null; `both` sides, or above alone.

    A null without spread gives 0 to what differs from its centre, and 1 to the rest.

    >>> p_values(np.array([0.0, 1.959963985]), Null(0.0, 1.0)).round(6).tolist()
    [1.0, 0.05]
    """
    away = statistics - null.centre
    if null.spread == 0:
        return np.where(np.abs(away) > 0 if both else away > 0, 0.0, 1.0)
    z = away / null.spread
    tails = [math.erfc((abs(each) if both else each) / math.sqrt(2)) for each in z.tolist()]
    return np.array(tails) * (1.0 if both else 0.5)


def q_values(p: Float[np.ndarray, " atoms"]) -> Float[np.ndarray, " atoms"]:
    """Return the false discovery rate at which each would be a finding, by Benjamini and Hochberg.

    >>> q_values(np.array([0.01, 0.02, 0.9])).round(4).tolist()
    [0.03, 0.03, 0.9]
    """
    number = len(p)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * number / np.arange(1, number + 1)
    found = np.empty(number)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found


def findings(
    statistics: Float[np.ndarray, " atoms"], *, rate: float = 0.05, both: bool = True
) -> Bool[np.ndarray, " atoms"]:
    """Return which statistics stand out from the bulk at a false discovery rate; none of fewer than `FEWEST`.

    >>> findings(np.array([*np.linspace(-1, 1, 40), 9.0])).nonzero()[0].tolist()
    [40]
    """
    if not 0 < rate < 1:
        raise SettingError(f"a false discovery rate of {rate}: it must be between 0 and 1, such as 0.05")
    if len(statistics) < FEWEST:
        return np.zeros(len(statistics), dtype=bool)
    return q_values(p_values(statistics, empirical_null(statistics), both=both)) <= rate
