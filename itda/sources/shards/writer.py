"""Writing activations from any source to disk, once, to train from them as often as one likes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from itda.core.batch import ActivationBatch, Site
from itda.core.labels import Labels
from itda.errors import SettingError, StoreError
from itda.files import locked
from itda.sources.shards.files import (
    DTYPES,
    LABELS,
    FileRecord,
    Manifest,
    Partial,
    Range,
    ShardFile,
    check_content,
    check_made_alike,
    check_same,
    check_size,
    read_labels,
    write_labels,
    writing,
)
from itda.sources.shards.source import BATCH

SHARD_BYTES = 2**26
"""Bytes of a shard of one site, about."""
KEEP_S = 60.0
"""Seconds between two times that the beginning of an unfinished range is made safe on the disk."""


@dataclass
class _Track:
    """The place in the stream that a site, or the labels, have reached."""

    number: int
    """The number of the range that is being written."""
    filled: int = 0
    """Number of rows that this range has so far."""
    received: int = 0
    """Number of rows that this process was given."""
    file: ShardFile | None = None
    """The shard that is being written; None for the labels, and between two ranges."""
    labels: list[Labels] = field(default_factory=list)
    """The labels of this range so far; empty for a site."""


class ShardWriter:
    """Writes what a source yields, in its order, to a new folder, or goes on with one of the same settings.

    The stream is cut into ranges of `shard_tokens` tokens, wherever the batches end, so the files depend on the stream
    alone. Sites may come together or one after the other, many batches of the first, then those of the next. Give it
    the tokens in `gaps`, first to last, then `finish`. What all sites have is kept every minute, so a killed process
    loses less than that; where sites come one after the other, once all have come.

    Raises `StoreError` if the folder was made with other settings (`about`, a mapping of JSON values, is compared in
    full), is no harvest, is in use by another process, or cannot be written.

    >>> import tempfile
    >>> from itda.core.labels import Label
    >>> from itda.sources.shards.source import ShardSource
    >>> x, labels = torch.ones(1, 8), Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ShardWriter(folder, {"model": "tiny"}, [Site(3)], 8, "float32") as writer:
    ...         writer.add({Site(3): ActivationBatch(x, labels)})
    ...         writer.finish()
    ...     [len(batches[Site(3)]) for batches in ShardSource(folder)]
    [1]
    """

    def __init__(
        self,
        folder: str | Path,
        about: Mapping[str, Any],
        sites: Sequence[Site],
        d_model: int,
        dtype: str,
        *,
        shard_tokens: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise SettingError(f"no dtype {dtype!r}: use {', '.join(DTYPES)}")
        if shard_tokens is not None and shard_tokens < 1:
            raise SettingError(f"shard_tokens is {shard_tokens}: it must be at least 1")
        self.folder = folder = Path(folder)
        self._begun, self._lock = False, ExitStack()
        about = json.loads(json.dumps(about))  # as it will be read
        self._manifest = Manifest(about, tuple(sites), d_model, dtype, shard_tokens or _shard_tokens(d_model, dtype))
        self._whole: set[int] = set()
        """Numbers of the ranges whose files are there."""
        self._pending: dict[int, dict[str, FileRecord]] = {}
        """The files of ranges that still lack some, by range, and site or `LABELS`."""
        self._kept = time.monotonic()
        if check_made_alike(folder, about) is not None:
            self._go_on(cut_alike=shard_tokens is not None)
        first = self._following(-1)
        self._tracks = {site: _Track(first) for site in sites}
        self._labels = _Track(first)
        if self._manifest.partial is not None:
            self._restore(self._manifest.partial)

    @property
    def tokens(self) -> int:
        """Number of tokens that are there: those of whole ranges, from the first on, and the kept ones of the next."""
        ranges, partial = enumerate(self._manifest.ranges), self._manifest.partial
        whole = sum(each.tokens for _, each in itertools.takewhile(lambda entry: entry[0] in self._whole, ranges))
        return whole + (partial.tokens if partial is not None else 0)

    @property
    def complete(self) -> bool:
        """True if there is nothing left to write."""
        return not self.gaps

    @property
    def gaps(self) -> list[tuple[int, int | None]]:
        """The tokens to come: first and end of each gap; the end of the last is None where the stream may go on.

        There is more than one only if files of a range have vanished or are cut short.
        """
        ranges = self._manifest.ranges
        kept = self._manifest.partial.tokens if self._manifest.partial is not None else 0
        open_end = [] if self._manifest.complete else [(self._manifest.tokens + kept, None)]
        lost = [(r.first, r.first + r.tokens) for n, r in enumerate(ranges) if n not in self._whole]
        found: list[tuple[int, int | None]] = []
        for first, end in [*lost, *open_end]:
            if found and found[-1][1] == first:
                first = found.pop()[0]
            found.append((first, end))
        return found

    def add(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Write the next activations of some of the sites.

        Raises `StoreError` if they cannot be written, or are of another dtype or width than the folder's.
        """
        if not self._begun:
            self._begin()
        for site, batch in batches.items():
            track, x = self._tracks[site], batch.activations
            dtype = str(x.dtype).removeprefix("torch.")
            if (dtype, x.shape[1]) != (self._manifest.dtype, self._manifest.d_model):
                raise StoreError(
                    f"{self.folder} is for {self._manifest.dtype} activations of width {self._manifest.d_model}, not "
                    f"{dtype} of width {x.shape[1]}: name another folder"
                )
            # Whichever site comes to a token first brings its label.
            self._add_labels(batch.labels[max(0, self._labels.received - track.received) :])
            for number, rows, full in self._cut(track, len(batch)):
                if track.file is None:
                    made = self._manifest
                    first = number * made.shard_tokens
                    track.file = ShardFile(self.folder, number, site, first, made.d_model, made.dtype)
                track.file.append(x[rows])
                if full:
                    self._close(site, number)
        if time.monotonic() - self._kept >= KEEP_S:
            self.keep()

    def keep(self) -> None:
        """Make the rows of an unfinished range safe on the disk, for another process to go on from.

        Does nothing where some site is ahead of another, or a range is being made anew. Raises `StoreError`.
        """
        number, rows = self._labels.number, self._labels.filled
        alike = all((track.number, track.filled) == (number, rows) for track in self._tracks.values())
        if not alike or not rows or number != len(self._manifest.ranges) or self._manifest.complete:
            return
        labels = Labels.concatenate(self._labels.labels)
        self._labels.labels = [labels]
        shards = {site: track.file.keep() for site, track in self._tracks.items() if track.file is not None}
        record = write_labels(self.folder, number, labels, partial=True)
        self._write(replace(self._manifest, partial=Partial(rows, record, shards)))
        self._tidy()

    def finish(self) -> None:
        """End the stream: write the last range, and mark the folder as complete. Raises `StoreError`."""
        if not self._begun:
            self._begin()
        ends = {(track.number, track.filled) for track in (self._labels, *self._tracks.values())}
        assert len(ends) == 1, "a source yields the same tokens of all sites"
        number, filled = ends.pop()
        if len(self._whole) < len(self._manifest.ranges):
            raise StoreError(f"{self.folder} had more tokens than there are now: put the corpus back as it was")
        if filled:
            for site in self._tracks:
                self._close(site, number)
            self._close_labels(number)
            self._record(number, filled, complete=True)
        elif not self._manifest.complete:
            self._write(replace(self._manifest, complete=True))

    def close(self) -> None:
        """Unlock the folder; rows that are neither in a whole range nor kept are lost."""
        partial = self._manifest.partial
        for track in self._tracks.values():
            if track.file is not None:
                if partial is not None and track.number == len(self._manifest.ranges):
                    track.file.leave()
                else:
                    track.file.discard()
                track.file = None
        self._lock.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt) and self._begun:
                with suppress(StoreError):
                    self.keep()
        finally:
            self.close()

    def _go_on(self, *, cut_alike: bool) -> None:
        self._lock.enter_context(locked(self.folder, "written"))
        self._begun = True
        try:
            made = Manifest.read(self.folder)  # again, now that the folder is locked
            asked = self._manifest if cut_alike else replace(self._manifest, shard_tokens=made.shard_tokens)
            check_same(self.folder, made.settings, asked.settings)
        except StoreError:
            self._lock.close()
            raise
        self._manifest = made
        self._whole = {n for n, each in enumerate(made.ranges) if _is_there(self.folder, each)}
        self._tidy()

    def _restore(self, partial: Partial) -> None:
        """Go on from the kept beginning of a range, if its files are unchanged and all ranges before it are whole."""
        made, number = self._manifest, len(self._manifest.ranges)
        files: list[ShardFile] = []
        try:
            if len(self._whole) < number:
                raise StoreError("ranges before it are made anew first")
            check_content(self.folder, partial.labels)
            labels = read_labels(self.folder / partial.labels.file, partial.tokens)
            for site in self._tracks:
                first = number * made.shard_tokens
                files.append(ShardFile(self.folder, number, site, first, made.d_model, made.dtype, rows=partial.tokens))
                if files[-1].digest() != partial.shards[site]:
                    raise StoreError("it has changed since it was written")
        except (StoreError, KeyError):
            for file in files:
                file.discard()
            self._manifest = replace(made, partial=None)
            return
        for (site, track), file in zip(self._tracks.items(), files, strict=True):
            self._tracks[site] = replace(track, filled=partial.tokens, file=file)
        self._labels = replace(self._labels, filled=partial.tokens, labels=[labels])

    def _tidy(self) -> None:
        """Remove the files of kept labels that are no longer needed."""
        partial = self._manifest.partial
        needed = self.folder / partial.labels.file if partial is not None else None
        for path in (self.folder / LABELS).glob(".*.parquet"):
            if path != needed:
                path.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Make and lock the folder: only when there is something to write, so that bad input leaves nothing behind."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.enter_context(locked(self.folder, "written"))
        self._begun = True
        if check_made_alike(self.folder, {}) is not None:
            raise StoreError(f"{self.folder} appeared while this ran: run the same command again to go on")
        self._write(self._manifest)

    def _add_labels(self, labels: Labels) -> None:
        for number, rows, full in self._cut(self._labels, len(labels)):
            self._labels.labels.append(labels[rows])
            if full:
                self._close_labels(number)

    def _cut(self, track: _Track, rows: int) -> Iterator[tuple[int, slice, bool]]:
        """Yield the ranges that the next rows go to: the range's number, the rows, and True if they fill it."""
        start = 0
        track.received += rows
        while start < rows:
            number, length = track.number, self._length(track.number)
            stop = min(rows, start + length - track.filled)
            track.filled += stop - start
            full = track.filled == length
            if full:
                track.number, track.filled = self._following(number), 0
            yield number, slice(start, stop), full
            start = stop

    def _length(self, number: int) -> int:
        ranges = self._manifest.ranges
        assert number < len(ranges) or not self._manifest.complete, "more tokens than the gaps have"
        return ranges[number].tokens if number < len(ranges) else self._manifest.shard_tokens

    def _following(self, number: int) -> int:
        return next(n for n in itertools.count(number + 1) if n not in self._whole)

    def _close(self, site: Site, number: int) -> None:
        track = self._tracks[site]
        assert track.file is not None
        rows = track.file.rows
        self._pending.setdefault(number, {})[str(site)] = track.file.close()
        track.file = None
        if rows == self._length(number):
            self._record(number, rows, complete=self._manifest.complete)

    def _close_labels(self, number: int) -> None:
        labels, self._labels.labels = Labels.concatenate(self._labels.labels), []
        self._pending.setdefault(number, {})[LABELS] = write_labels(self.folder, number, labels)

    def _record(self, number: int, tokens: int, *, complete: bool) -> None:
        """Name a range in the manifest once all its files are there."""
        files = self._pending[number]
        if len(files) <= len(self._tracks):
            return
        shards = {site: files[str(site)] for site in self._tracks}
        made = Range(number * self._manifest.shard_tokens, tokens, files[LABELS], shards)
        before, after = self._manifest.ranges[:number], self._manifest.ranges[number + 1 :]
        self._write(replace(self._manifest, ranges=(*before, made, *after), complete=complete, partial=None))
        self._whole.add(number)
        del self._pending[number]
        self._tidy()

    def _write(self, manifest: Manifest) -> None:
        manifest.write(self.folder)
        self._manifest = manifest
        self._kept = time.monotonic()


def _is_there(folder: Path, each: Range) -> bool:
    try:
        for record in each.files:
            check_size(folder, record)
    except StoreError:
        return False
    return True


def _shard_tokens(d_model: int, dtype: str) -> int:
    fitting = SHARD_BYTES // (d_model * getattr(torch, dtype).itemsize)
    return max(1, fitting - fitting % BATCH if fitting > BATCH else fitting)
