"""The pass of a fingerprint over the activations: they wait until a segment is whole, and are forgotten then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from itda.core.batch import ActivationBatch, Site
from itda.core.similarity.fingerprint import FingerprintSettings, TokenNovelty, fingerprint_of_segment
from itda.core.tokens import TokenLog
from itda.store.fingerprints import Fingerprint


class FingerprintPass:
    """Takes batches of a stream, and cuts the stream into segments itself: how it comes in batches changes nothing.

    Sites may come one after the other, as they do from a streamed model. Of each, a segment of activations waits at
    most.
    """

    def __init__(self, sites: Sequence[Site], settings: FingerprintSettings, *, tokens: int) -> None:
        self.settings, self.asked = settings, tokens
        """`asked` is the number of tokens that the stream has, or fewer if it ends before."""
        self._sites = {site: _SiteSegments(min(tokens, settings.segment), settings) for site in sites}
        self._lead = next(iter(sites))
        self._read = TokenLog()
        self._before: Fingerprint | None = None
        self._first = 0
        """Number of tokens that were read before this pass."""

    @property
    def seen(self) -> int:
        """Number of tokens so far, from before too."""
        return self._first + self._sites[self._lead].seen

    @property
    def mean_seen(self) -> int:
        """Number of tokens that all sites have had, on average."""
        return self._first + sum(site.seen for site in self._sites.values()) // len(self._sites)

    @property
    def whole(self) -> int:
        """Number of first tokens whose segments are done at every site: from there a pass can go on."""
        return self._first + min(site.done for site in self._sites.values())

    def restore(self, before: Fingerprint) -> None:
        """Go on from the first tokens of the stream, in whole segments."""
        self._before, self._first = before, len(before)

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Take some batches. Raises `ActivationError` for a row that is not finite."""
        for site, batch in batches.items():
            self._sites[site].add(batch.activations)
            if site == self._lead:
                self._read.add(batch.labels)

    def so_far(self, about: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of the segments that are whole."""
        return self._fingerprint(about, self.whole)

    def finish(self, about: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of all tokens; the last segment is as long as it is."""
        for site in self._sites.values():
            site.end()
        return self._fingerprint(about, self.seen)

    def _fingerprint(self, about: Mapping[str, Any], tokens: int) -> Fingerprint:
        before = self._before
        read = self._read.table()
        if before is not None:
            read = before.tokens.followed_by(read)
        sites = {
            site: TokenNovelty.joined([*([before.sites[site]] if before is not None else []), *found.parts])
            for site, found in self._sites.items()
        }
        sites = {site: found[:tokens] for site, found in sites.items()}
        return Fingerprint(read.first(tokens), sites, self.settings, about)


class _SiteSegments:
    """The segments of one site: those done, and the activations of the next."""

    def __init__(self, tokens: int, settings: FingerprintSettings) -> None:
        self.settings = settings
        self.parts: list[TokenNovelty] = []
        self.done = 0
        """Number of tokens in `parts`."""
        self._size, self._waiting = tokens, 0
        self._room: Tensor | None = None

    @property
    def seen(self) -> int:
        return self.done + self._waiting

    def add(self, activations: Tensor) -> None:
        while len(activations):
            if self._room is None:
                self._room = activations.new_empty(self._size, activations.shape[1])
            some = activations[: self._size - self._waiting]
            assert len(some), "the stream is longer than was asked for"
            # A copy: the source may use its tensor again.
            self._room[self._waiting : self._waiting + len(some)] = some
            self._waiting += len(some)
            activations = activations[len(some) :]
            if self._waiting == self.settings.segment:
                self.end()

    def end(self) -> None:
        if self._waiting:
            assert self._room is not None
            self.parts.append(fingerprint_of_segment(self._room[: self._waiting], self.settings))
            self.done, self._waiting = self.done + self._waiting, 0
