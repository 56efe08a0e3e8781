"""The progress of a command on standard error: a bar in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

EVERY_S = 10.0
"""Seconds between lines of progress, at least."""
START_S = 0.5
"""Seconds after the start in which a first count is of work that was done before, by a process that was killed."""
UNITS = {"export": "atoms", "probes": "readouts", "measure": "parts"}
UNITS |= {"delphi": "latents", "neuronpedia": "atoms", "saelens": "atoms", "sets": "sets", "push": "bytes"}
"""The unit of what is counted, by the name of the progress, where it is not tokens."""


def short_count(number: int | float) -> str:
    """Return a number of tokens in a few characters.

    >>> short_count(950), short_count(9_500), short_count(120_400), short_count(1_000_000)
    ('950', '9.5k', '120k', '1.0M')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # A number that would round to 1000 of a unit is shown in the next unit.
        if number >= size * (1 - 5e-4 if size > 1e3 else 1):
            value = number / size
            return f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"
    return f"{number:.0f}"


def duration(seconds: int | float) -> str:
    """Return a time in seconds, minutes or hours.

    >>> duration(8.2), duration(280), duration(7_500)
    ('8s', '4m40s', '2h05m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


class Lines:
    """Progress where there is no terminal: a line every ten seconds, and none for work that takes less.

    A context manager with tqdm's methods `update` and `set_postfix_str`. The rate shown is that since the line before,
    as work gets slower while a dictionary grows.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
    ) -> None:
        self._name, self._total, self._clock = name, total, clock
        self._write = write if write is not None else _write
        self._done = self._before = 0
        self._remark = ""
        self._begun = self._told = clock()
        self._told_at = 0
        self._lines = 0

    def update(self, n: int, /) -> None:
        """Count `n` more tokens, or other units."""
        now = self._clock()
        if self._done == 0 and now - self._begun < START_S:
            self._before = self._told_at = n
        self._done += n
        self._tell(now)

    def set_postfix_str(self, s: str, /) -> None:
        """Set a remark for the lines to come."""
        self._remark = s
        self._tell(self._clock())

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines and kind is None:
            took = self._clock() - self._begun
            self._write(f"itda: {self._name} {short_count(self._done)} {self._unit} in {duration(took)}")

    @property
    def _unit(self) -> str:
        return UNITS.get(self._name, "tokens")

    def _tell(self, now: float) -> None:
        if now - self._told < EVERY_S:
            return
        # Nothing is new since the last line: show the mean rate since the start.
        new, seconds = self._done - self._told_at, now - self._told
        if not new:
            new, seconds = self._done - self._before, now - self._begun
        rate = new / seconds
        parts = [f"{self._name} {short_count(self._done)} of {short_count(self._total)} {self._unit}"]
        if rate > 0:
            parts.append(f"{rate:,.{0 if rate >= 10 else 1}f}/s")
        parts += [self._remark] if self._remark else []
        if rate > 0 and self._done < self._total:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        self._write("itda: " + ", ".join(parts))
        self._told, self._told_at = now, self._done
        self._lines += 1


def _write(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def bars(quiet: bool) -> Callable[[str, int], AbstractContextManager[Any]]:
    """Return a function that makes progress bars: tqdm's on a terminal, `Lines` elsewhere, silent ones if `quiet`."""

    def bar(name: str, tokens: int) -> AbstractContextManager[Any]:
        if quiet:
            return nullcontext(_Silent())
        if not sys.stderr.isatty():
            return Lines(name, tokens)
        from tqdm import tqdm

        unit = {"tokens": "tok"}.get(UNITS.get(name, "tokens"), f" {UNITS.get(name)}")
        return tqdm(total=tokens, desc=name, unit=unit, unit_scale=True, leave=False)

    return bar


def remarks(quiet: bool) -> Callable[[str], None]:
    """Return a function that shows remarks on standard error, or does nothing if `quiet`."""

    def say(line: str) -> None:
        if not quiet:
            print(f"itda: {line}", file=sys.stderr)

    return say


class _Silent:
    """A progress bar that shows nothing."""

    def update(self, n: int, /) -> None:
        """Ignore n more tokens."""

    def set_postfix_str(self, s: str, /) -> None:
        """Ignore a remark."""
