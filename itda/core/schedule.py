"""A number of atoms instead of a threshold: the threshold that a sample asks for, corrected as the stream goes on."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from itda.core.checks import check_number
from itda.core.growth import Growth
from itda.core.pursuit import Pursuit

LOWEST, HIGHEST = 1e-6, 0.999
"""Thresholds that are tried."""

EARLY, LATE = 20, 64
"""The threshold may change after a 20th more tokens, and at least 64 times on the way."""

EXPONENT = 0.4
"""Of the planned curve: atoms ~ tokens^EXPONENT, close to how a dictionary grows at one threshold."""

GAIN = 0.2
"""Change of log threshold per log of atoms too many: less than the inverse of how these depend on it, or it swings."""

AIM = 1.01
"""Atoms aimed at for each one wanted: a dictionary can be cropped, not stretched."""


class Schedule:
    """The threshold at each point of a stream of `tokens` activations that is to give about `atoms` atoms.

    The plan is atoms * (t / tokens)^b after t tokens, b = `EXPONENT`, more if the sample would have to become atoms
    entirely. It starts from the threshold with which a sample of the stream meets the plan. At fixed points after the
    sample, whatever the batches, the threshold moves by the ratio of the atoms that would come next if it stayed to
    those wanted next: what is missing, spread as the plan spreads it.

    >>> schedule = Schedule(atoms=100, tokens=6400, sample=400, threshold=0.2)
    >>> schedule.until_next(0), round(schedule.planned(6400))
    (400, 101)
    """

    def __init__(self, *, atoms: int, tokens: int, sample: int, threshold: float) -> None:
        self.atoms, self.tokens, self.sample, self.threshold = atoms, tokens, sample, threshold
        self.exponent = exponent_of(atoms, tokens, sample)
        self._points = [min(sample, tokens)]
        while self._points[-1] < tokens:
            last = self._points[-1]
            self._points.append(min(tokens, last + max(1, min(last // EARLY, tokens // LATE))))
        self._last = (0, 0)

    def state(self) -> dict[str, Any]:
        """What `restored` needs besides `atoms` and `tokens`; JSON can hold it."""
        return {"sample": self.sample, "threshold": self.threshold, "last": list(self._last)}

    @staticmethod
    def restored(values: dict[str, Any], *, atoms: int, tokens: int) -> Schedule:
        """The schedule as it was when it gave its state."""
        schedule = Schedule(atoms=atoms, tokens=tokens, sample=values["sample"], threshold=values["threshold"])
        seen, number = values["last"]
        schedule._last = seen, number
        return schedule

    def planned(self, seen: int) -> float:
        """Atoms after so many tokens."""
        return AIM * self.atoms * (min(seen, self.tokens) / self.tokens) ** self.exponent

    def until_next(self, seen: int) -> int:
        """Tokens until the threshold may change; all that may come if it does not any more."""
        return next((point - seen for point in self._points if point > seen), 2**62)

    def correct(self, seen: int, number: int) -> float:
        """The threshold from here on, `seen` tokens being a point and `number` the atoms there."""
        if seen in self._points and seen < self.tokens and self._last[0] < seen:
            following = seen + self.until_next(seen)
            left = self.planned(self.tokens) - self.planned(seen)
            share = (self.planned(following) - self.planned(seen)) / left
            decline = left * share / (self.planned(seen) - self.planned(self._last[0]))
            # One atom more on both sides: nought has no logarithm.
            wanted = max(0.0, AIM * self.atoms - number) * share + 1
            expected = (number - self._last[1]) * decline + 1
            change = min(2.0, max(0.5, (expected / wanted) ** GAIN))
            self.threshold = min(HIGHEST, max(LOWEST, self.threshold * change))
            self._last = (seen, number)
        return self.threshold


def exponent_of(atoms: int, tokens: int, sample: int) -> float:
    """The plan's exponent: at least `EXPONENT`, and such that at most half of the sample becomes atoms."""
    if not 0 < sample < tokens:
        return EXPONENT
    return max(EXPONENT, math.log(min(1.0, sample / (2 * atoms))) / math.log(sample / tokens))


def calibrated(
    sample: Float[Tensor, "tokens d_model"], *, atoms: int, tokens: int, k: int, pursuit: Pursuit, memory: int | None
) -> Schedule:
    """The schedule for a stream that begins with `sample` (targets, offset subtracted). Raises `SettingError`."""
    check_number(atoms, tokens)
    exponent = exponent_of(atoms, tokens, len(sample))
    wanted = AIM * atoms * (len(sample) / tokens) ** exponent
    low, high = math.log(LOWEST), math.log(HIGHEST)
    # Bisection: fewer atoms at a higher threshold, not quite monotonely, so to within a few atoms and no further.
    for _ in range(12):
        middle = (low + high) / 2
        growth = Growth(sample.shape[1], k, math.exp(middle), pursuit, math.ceil(1.5 * wanted) + 1, None, memory)
        growth.offer(sample)
        if abs(growth.number - wanted) <= max(1.0, 0.02 * wanted):
            break
        low, high = (middle, high) if growth.number > wanted else (low, middle)
    return Schedule(atoms=atoms, tokens=tokens, sample=len(sample), threshold=math.exp((low + high) / 2))
