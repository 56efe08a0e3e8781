"""Encoding of a stream of activations into the parts of a code index, in whatever order its sites come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.massive import massive_medians
from itda.core.nearest import Nearest
from itda.explorer.code_index_writer import CodePart, PartRecord, TextPart, write_part
from itda.explorer.nearest_parts import NearestInParts, NearPart

BLOCK = 4096
"""Tokens, at least, of a part: they are encoded together, as pursuits of fewer rows are slower."""

HELD_BYTES = 2**31
"""Memory in bytes for the codes of parts that are encoded at some sites and not yet at others."""


def most_in_flight(dictionaries: Mapping[Site, ITDA]) -> int:
    """Return how many tokens of one site may come before those of the next so that the codes fit in `HELD_BYTES`."""
    return max(BLOCK, HELD_BYTES // sum(8 * dictionary.k + 12 for dictionary in dictionaries.values()))


@dataclass(eq=False)
class _Waiting:
    """The activations of a site that are not encoded yet."""

    number: int
    """The number of the part that they belong to."""
    activations: list[Tensor] = field(default_factory=list)
    labels: list[Labels] = field(default_factory=list)
    tokens: int = 0


class PartWriter:
    """Encodes the batches of a source and writes the codes, with the text, as parts of an index.

    A part ends with the first batch that fills it, so that it is the same whether sites come together or one after the
    other, many batches of the first, then those of the next. A part is written once all sites have it. Codes are
    computed where the activations are. Parts that are there are `before`: the next one follows them.
    """

    def __init__(self, partial: Path, dictionaries: Mapping[Site, ITDA], before: Sequence[PartRecord] = ()) -> None:
        self.partial, self.dictionaries = partial, dict(dictionaries)
        self._waiting = {site: _Waiting(len(before)) for site in dictionaries}
        self._nearest = {site: NearestInParts(site, each, before) for site, each in dictionaries.items()}
        self._codes: dict[int, dict[Site, tuple[CodePart, NearPart]]] = {}
        """The codes, by part number and site, of the parts that are not written yet, and the activations near atoms."""
        self._text: dict[int, TextPart] = {}
        self._received = 0
        self._since = time.monotonic()

    @property
    def tokens(self) -> int:
        """Tokens received so far, the mean over the sites."""
        return self._received // len(self._waiting)

    def add(self, batches: Mapping[Site, ActivationBatch]) -> Iterator[PartRecord]:
        """Take the next activations of some of the sites; yield the parts that they complete, once written.

        Raises `StoreError` if a part cannot be written.
        """
        for site, batch in batches.items():
            waiting = self._waiting[site]
            waiting.activations.append(batch.activations)
            waiting.labels.append(batch.labels)
            waiting.tokens += len(batch)
            self._received += len(batch)
            if waiting.tokens >= BLOCK:
                self._encode(site)
        yield from self._written()

    def finish(self) -> Iterator[PartRecord]:
        """Encode what is left at the end of the stream, as a shorter part; yield the parts that are written."""
        for site, waiting in self._waiting.items():
            if waiting.tokens:
                self._encode(site)
        yield from self._written()
        assert not self._codes, "a source yields the same tokens of all sites"

    def nearest(self, parts: Sequence[PartRecord]) -> dict[Site, Nearest]:
        """Return the nearest activations of each site's atoms, once all `parts` are written."""
        return {site: search.result(parts) for site, search in self._nearest.items()}

    def _encode(self, site: Site) -> None:
        waiting = self._waiting[site]
        self._waiting[site] = _Waiting(waiting.number + 1)
        x = torch.cat(waiting.activations)
        dictionary = self.dictionaries[site]
        if dictionary.atoms.device != x.device:
            dictionary = self.dictionaries[site] = dictionary.to(x.device)
        code, error = dictionary.decompose(x)
        part = CodePart.of(code, error, massive_medians(x, dictionary.massive_norm))
        labels = Labels.concatenate(waiting.labels)
        self._codes.setdefault(waiting.number, {})[site] = part, self._nearest[site].add(x, labels)
        if waiting.number not in self._text:  # the first site that has the part brings its text
            self._text[waiting.number] = TextPart.of(labels)

    def _written(self) -> Iterator[PartRecord]:
        whole = [number for number, codes in self._codes.items() if len(codes) == len(self._waiting)]
        for number in sorted(whole):
            seconds, self._since = time.monotonic() - self._since, time.monotonic()
            found = self._codes.pop(number)
            codes = {site: found[site][0] for site in self._waiting}
            near = {name: column for site in codes for name, column in found[site][1].arrays(site).items()}
            yield write_part(self.partial, number, seconds, self._text.pop(number), codes, near)
