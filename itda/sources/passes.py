"""The cost of reading a model, in passes of a token through a block: for defaults, and for progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from itda.core.batch import Site
from itda.sources.models.base import ActivationModel
from itda.sources.models.splicing import REPLACEMENTS, branches

LEAST, MOST = 5_000, 100_000
"""Number of tokens to evaluate on by default, at least and at most."""


@dataclass(frozen=True)
class Passes:
    """Block passes for each token of an evaluation."""

    reading: float
    """Passes to read the sites."""
    scoring: float
    """Passes from the last site on, and from each site on for each replacement, with all their logits."""


def passes(sites: Sequence[Site], layers: int, vocabulary: int, d_model: int) -> Passes:
    """Count the block passes for each token; `vocabulary` is 0 for a model that predicts nothing.

    Logits count as the blocks that multiply as much: a block has about 12 d_model^2 weights. That some ablated windows
    are run once for many is not counted.

    >>> passes([Site(15)], layers=30, vocabulary=49152, d_model=576)
    Passes(reading=16.0, scoring=84.44444444444444)
    """
    reading = float(max(site.layer for site in sites) + 1)
    if not vocabulary:
        return Passes(reading, 0.0)
    head = vocabulary / (12 * d_model)
    after = sum(layers - site.layer - (site.stream == "resid_post") for site in sites)
    return Passes(reading, layers - reading + len(REPLACEMENTS) * after + branches(len(sites)) * head)


def tokens_as_long(trained: int, cost: Passes) -> int:
    """Return how many tokens to evaluate on, to take as many block passes as reading `trained` tokens took.

    In two digits, between `LEAST` and `MOST`.

    >>> tokens_as_long(40_000, Passes(reading=16.0, scoring=84.4)), tokens_as_long(10**9, Passes(1.0, 9.0))
    (6300, 100000)
    """
    wanted = max(LEAST, min(MOST, int(trained * cost.reading / (cost.reading + cost.scoring))))
    unit = 10 ** (len(str(wanted)) - 2)
    return wanted // unit * unit


class Steps:
    """Reports work that is done in parts to `progress`, in whole tokens that add up.

    >>> told = []
    >>> steps = Steps(told.append)
    >>> for _ in range(3): steps.add(2.5)
    >>> told
    [2, 3, 2]
    """

    def __init__(self, progress: Callable[[int], object]) -> None:
        self._progress, self._done, self._told = progress, 0.0, 0

    def add(self, tokens: float) -> None:
        """Count some tokens, or a part of one."""
        self._done += tokens
        whole = int(self._done + 1e-6)
        if whole > self._told:
            self._progress(whole - self._told)
            self._told = whole

    @contextmanager
    def flight(self, model: ActivationModel, tokens: float, parts: int) -> Iterator[None]:
        """Count so many tokens by the end of this block: one of `parts` each time that the model calls `watch`."""
        before, counted = model.watch, 0

        def watch(place: str) -> None:
            nonlocal counted
            before(place)
            if counted < parts:
                counted += 1
                self.add(tokens / parts)

        with model.watched(watch):
            yield
        self.add(tokens * (parts - counted) / parts)
