"""Massive activations left out of a pair: a token goes where any of the models has one, and is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from itda.core.massive import MULTIPLE, limit_of, norms
from itda.core.site import Site
from itda.diffing.batches import PairedBatch
from itda.errors import ActivationError

MEDIAN_TOKENS = 1024
"""Number of first tokens of a stream from which each model's median norm is taken; they wait until there are so many.
"""


@dataclass
class MassiveTokens:
    """How many tokens of a site were left out because a model has a massive activation there.

    A model's activation is massive if its norm is above 10 times the median of that model's first ones
    (`itda.core.massive`).
    """

    seen: int = 0
    """Number of tokens that were read."""
    left_out: int = 0
    """Number of these at which one model or more has a massive activation."""
    in_model: list[int] = field(default_factory=list)
    """Number of these in each model: the base, the changed one, and the controls."""
    limits: list[float | None] = field(default_factory=list)
    """The norm above which an activation of each model is massive; None for no limit."""

    def record(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"multiple": MULTIPLE, **vars(self)}


class MassiveFilter:
    """Takes the batches of one site in order, and returns them without the tokens that are massive in any model."""

    def __init__(self, site: Site, names: Sequence[str]) -> None:
        self.counts = MassiveTokens(in_model=[0] * len(names))
        self._site, self._names = site, names
        self._waiting: list[tuple[PairedBatch, list[Tensor]]] = []

    def add(self, batch: PairedBatch) -> Iterator[PairedBatch]:
        """Take a batch; yield those that are ready. Raises `ActivationError` for activations that are not finite."""
        found = [norms(x).cpu() for x in batch.models]
        for name, norm in zip(self._names, found, strict=True):
            if not bool(torch.isfinite(norm).all()):
                where = batch.labels[int((~torch.isfinite(norm)).nonzero()[0])]
                raise ActivationError(
                    f"{name} has a number that is not finite at {self._site} of {where.document}, token "
                    f"{where.position}: try --dtype float32"
                )
        self.counts.seen += len(batch)
        if self.counts.limits:
            yield self._kept(batch, found)
            return
        self._waiting.append((batch, found))
        if self.counts.seen >= MEDIAN_TOKENS:
            yield from self.finish()

    def finish(self) -> Iterator[PairedBatch]:
        """Yield what waits still."""
        if not self._waiting:
            return
        columns = zip(*(found for _, found in self._waiting), strict=True)
        firsts = [torch.cat(list(column))[:MEDIAN_TOKENS] for column in columns]
        self.counts.limits = [limit_of(first.median().item()) for first in firsts]
        waiting, self._waiting = self._waiting, []
        for batch, found in waiting:
            yield self._kept(batch, found)

    def _kept(self, batch: PairedBatch, found: Sequence[Tensor]) -> PairedBatch:
        out = torch.zeros(len(batch), dtype=torch.bool)
        for number, (norm, limit) in enumerate(zip(found, self.counts.limits, strict=True)):
            massive = norm > limit if limit is not None else torch.zeros_like(out)
            self.counts.in_model[number] += int(massive.sum())
            out |= massive
        self.counts.left_out += int(out.sum())
        return batch[~out] if bool(out.any()) else batch
