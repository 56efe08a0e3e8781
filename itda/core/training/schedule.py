"""A number of atoms instead of a threshold: one threshold for the whole stream, found from its first part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from itda.core.checks import check_number
from itda.core.pursuit import Pursuit
from itda.core.training.growth import growth_for

LOWEST, HIGHEST = 1e-6, 0.999
"""The lowest and the highest threshold that is tried."""

LEAST_SAMPLE, MOST_SAMPLE, SAMPLE_SHARE, SAMPLE_BYTES = 4096, 32_768, 2, 2**27
"""The sample: half of the stream, but not fewer tokens, not more, and in float32 not larger than that."""

AIM = 1.015
"""Atoms aimed at for each one wanted: a dictionary can be cropped, not stretched."""

DECLINE = 0.15
"""The growth exponent falls as tokens^-DECLINE: new atoms become rare faster than by a power law."""

ELASTICITY = 4.0
"""Fall of log new atoms for a rise of log threshold by 1: measured at 3 to 6."""

SLOPE = -2.2
"""Change of log atoms of a whole stream for a rise of log threshold by 1, to begin the search with."""

SURE, UNSURE = 0.015, 0.06
"""How far a projection may be off the aim before the threshold is moved: at the end of the stream, and before."""

GENTLE = 0.01
"""The most that log threshold moves at a point, beside a quarter of what log projection is off by."""

CLOSER = 32
"""Points on the way: each a sixteenth more tokens than the last, and at least so many in the whole stream."""


class Schedule:
    """The threshold at each point of a stream of `tokens` activations that is to give about `atoms` atoms.

    It begins with the threshold that a sample, the first part of the stream, asks for. From one and a quarter of
    the sample on, the number at the end is projected at fixed points, whatever the batches, from the atoms so far; the
    threshold is left alone while the projection is within `UNSURE` to `SURE` of the aim, and moved a little otherwise.

    >>> schedule = Schedule(atoms=100, tokens=6400, sample=400, threshold=0.2)
    >>> schedule.until_next(0), schedule.correct(400, 40)
    (100, 0.2)
    """

    def __init__(self, *, atoms: int, tokens: int, sample: int, threshold: float, exponent: float = 0.4) -> None:
        self.atoms, self.tokens, self.sample, self.threshold = atoms, tokens, min(sample, tokens), threshold
        self.exponent = exponent
        points = {max(1, self.sample * quarter // 4) for quarter in range(1, 5)}
        last = max(points)
        while last < tokens:
            last = min(tokens, last + max(1, min(last // 16, tokens // CLOSER)))
            points.add(last)
        self._points = sorted(points)
        self._past: list[tuple[int, int, float]] = [(0, 0, threshold)]
        """Tokens, atoms, and the threshold from there on, at each point so far."""

    def state(self) -> dict[str, Any]:
        """Return JSON values from which `restored`, given `atoms` and `tokens` too, makes this schedule again."""
        return {"sample": self.sample, "threshold": self.threshold, "exponent": self.exponent} | {
            "past": [list(each) for each in self._past]
        }

    @staticmethod
    def restored(values: dict[str, Any], *, atoms: int, tokens: int) -> Schedule:
        """Return the schedule as it was when `state` gave these values."""
        given = {name: values[name] for name in ("sample", "threshold", "exponent")}
        schedule = Schedule(atoms=atoms, tokens=tokens, **given)
        schedule._past = [(seen, number, threshold) for seen, number, threshold in values["past"]]
        return schedule

    def until_next(self, seen: int) -> int:
        """Return the tokens until the threshold may change; 2^62 if it does not change any more."""
        return next((point - seen for point in self._points if point > seen), 2**62)

    def correct(self, seen: int, number: int) -> float:
        """Return the threshold from here on, moved if need be where `seen` is a point; `number` counts the atoms."""
        if seen in self._points and seen < self.tokens and self._past[-1][0] < seen:
            if seen >= 1.25 * self.sample:
                change = self._change(seen, number)
                self.threshold = min(HIGHEST, max(LOWEST, self.threshold * math.exp(change)))
            self._past.append((seen, number, self.threshold))
        return self.threshold

    def _change(self, seen: int, number: int) -> float:
        """Return the change of log threshold."""
        aim = AIM * self.atoms
        off = math.log(max(1, self._projected(seen, number)) / aim)
        band = SURE + (UNSURE - SURE) * (1 - seen / self.tokens)
        if abs(off) <= band:
            return 0.0
        # To the nearer edge of the band, by what is still to come. One more on both sides: nought has no logarithm.
        wanted = aim * math.exp(math.copysign(band, off)) - number
        to_come = self._projected(seen, number) - number
        change = math.log((to_come + 1) / (max(0.0, wanted) + 1)) / ELASTICITY
        most = GENTLE + abs(off) / 4
        return min(most, max(-most, change))

    def _projected(self, seen: int, number: int) -> float:
        """Project the atoms at the end if the threshold stays, from those of the second half of the stream so far."""
        points = [*self._past, (seen, number, self.threshold)]
        start = max(i for i, point in enumerate(points) if i == 0 or point[0] <= seen // 2)
        new = 0.0
        for (_, before, threshold), (_, after, _) in zip(points[start:], points[start + 1 :], strict=False):
            # As many as there would have been at today's threshold.
            new += (after - before) * (threshold / self.threshold) ** ELASTICITY
        first = max(1, points[start][0])
        middle, of_sample = math.sqrt(first * seen), max(1, self.sample) / math.sqrt(2)
        exponent = new / max(1, number) / math.log(seen / first) if seen > first else self.exponent
        # One document more or less is much: half of what is expected is what the sample made one expect.
        exponent = (exponent + self.exponent * (middle / of_sample) ** -DECLINE) / 2
        return number * growth_factor(exponent, middle, float(seen), float(self.tokens))


def growth_factor(exponent: float, middle: float, start: float, stop: float) -> float:
    """Return the factor by which atoms grow from `start` to `stop` tokens, given the exponent at `middle` tokens.

    >>> growth_factor(0.0, 100.0, 100.0, 1000.0), round(growth_factor(0.4, 100.0, 200.0, 400.0), 2)
    (1.0, 1.27)
    """
    return math.exp(exponent / DECLINE * ((start / middle) ** -DECLINE - (stop / middle) ** -DECLINE))


def sample_of(tokens: int, d_model: int) -> int:
    """Return how many first activations of a stream are the sample.

    >>> sample_of(3000, 64), sample_of(40_000, 64), sample_of(10**6, 64), sample_of(10**6, 4096)
    (3000, 20000, 32768, 8192)
    """
    most = min(MOST_SAMPLE, SAMPLE_BYTES // (4 * d_model))
    return min(tokens, max(LEAST_SAMPLE, min(tokens // SAMPLE_SHARE, most)))


def calibrated(
    sample: Float[Tensor, "tokens d_model"], *, atoms: int, tokens: int, k: int, pursuit: Pursuit, memory: int | None
) -> Schedule:
    """Find the schedule for a stream that begins with `sample` (targets, offset subtracted). Raises `SettingError`."""
    check_number(atoms, tokens)
    aim, half, grow = AIM * atoms, len(sample) // 2, growth_for(sample.device, pursuit)

    def projected(threshold: float) -> tuple[float, float]:
        """Project the atoms at the end (if far too many, only that they are) and the exponent of their growth."""
        found = grow(sample.shape[1], k, threshold, pursuit, math.ceil(1.5 * aim) + 1, None, memory)
        found.offer(sample[:half])
        first = found.number
        found.offer(sample[half:])
        if len(sample) >= tokens or found.number > 1.5 * aim or half == 0:
            return float(found.number), 0.0
        other = grow(sample.shape[1], k, threshold, pursuit, None, None, memory)
        other.offer(sample[half:])
        # Twice the tokens, against the mean of either half alone: less noise than the first half against both.
        exponent = math.log2(max(1.0, 2 * found.number / max(1, first + other.number)))
        more = growth_factor(exponent, len(sample) / math.sqrt(2), float(len(sample)), float(tokens))
        return found.number * more, exponent

    threshold, exponent = _found(projected, aim)
    return Schedule(atoms=atoms, tokens=tokens, sample=len(sample), threshold=threshold, exponent=exponent)


def _found(projected: Callable[[float], tuple[float, float]], aim: float) -> tuple[float, float]:
    """Find where a falling function of the threshold is about `aim`, by Newton's steps in logarithms in a bracket."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    here, slope = math.log(0.2), SLOPE
    last: tuple[float, float] | None = None
    exponent = 0.0
    for _ in range(14):
        number, exponent = projected(math.exp(here))
        if abs(number - aim) <= max(1.0, 0.01 * aim):
            break
        value = math.log(max(0.5, number) / aim)
        low, high = (here, high) if value > 0 else (low, here)
        if last is not None and abs(here - last[0]) > 1e-9:
            slope = min(-0.5, max(-8.0, (value - last[1]) / (here - last[0])))
        last = here, value
        step = here - value / slope
        here = step if low < step < high else (low + high) / 2
    return math.exp(here), exponent
