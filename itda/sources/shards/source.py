"""Reading from disk the activations that `ShardWriter` wrote, with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itda.core.batch import ActivationBatch, Site
from itda.errors import SettingError, StoreError
from itda.sources.shards.files import (
    FileRecord,
    Manifest,
    Range,
    check_content,
    check_size,
    read_labels,
    read_shard,
)

BATCH = 4096
"""Number of activations that `ShardSource` yields together."""


class ShardSource:
    """The activations in a folder that `ShardWriter` made, to the bit and with their labels; an `ActivationSource`.

    Yields batches of up to `BATCH` activations of all `sites` (default: all that there are), mapped into memory.
    `tokens` ends the stream after that many, of which the first `skip` are left out. Files are looked for at once;
    the SHA-256 of each is compared before its first activation is yielded, unless `verify` is False.

    Raises `StoreError` for a folder that is damaged, or not whole unless `tokens` are no more than it has, and
    `SettingError` for a site or tokens that it does not have.

    >>> ShardSource("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no activations in nowhere: check the path, or make them with `itda harvest`
    """

    def __init__(
        self,
        folder: str | Path,
        sites: Sequence[Site] | None = None,
        tokens: int | None = None,
        skip: int = 0,
        *,
        verify: bool = True,
    ) -> None:
        self.folder = folder = Path(folder)
        self.skip, self._verify = skip, verify
        self._manifest = made = Manifest.read(folder)
        self.sites = list(made.sites if sites is None else sites)
        for site in self.sites:
            if site not in made.sites:
                names = ", ".join(each.short for each in made.sites)
                raise SettingError(f"{folder} has no layer {site.short}: use one of {names}")
        if not made.complete and (tokens is None or tokens > made.tokens):
            raise StoreError(
                f"{folder} is incomplete: it has {made.tokens:,} tokens so far: run the same `itda harvest` again to "
                f"go on, or use --tokens {made.tokens}"
            )
        if tokens is not None and tokens > made.tokens:
            raise SettingError(f"{folder} has {made.tokens:,} tokens, not {tokens:,}: use --tokens {made.tokens}")
        self.tokens = made.tokens if tokens is None else tokens
        """Number of tokens after which the stream ends: all that there are, if no number was asked for."""
        for each in self._ranges():
            for record in self._files(each):
                check_size(folder, record)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self._manifest.d_model

    @property
    def dtype(self) -> str:
        """The dtype of the activations: float32, bfloat16, ..."""
        return self._manifest.dtype

    @property
    def about(self) -> Mapping[str, Any]:
        """The model, corpus and settings that made the activations."""
        return self._manifest.about

    @property
    def bytes(self) -> int:
        """Bytes of the files that are read."""
        return sum(record.size for each in self._ranges() for record in self._files(each))

    @property
    def site_bytes(self) -> dict[Site, int]:
        """Bytes of the shards of each site."""
        return {site: sum(each.shards[site].size for each in self._ranges()) for site in self.sites}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of these sites' activations and labels up to the last token; `skip` changes nothing."""
        digest = hashlib.sha256(str(self.tokens).encode())
        for each in self._ranges():
            digest.update(each.labels.sha256.encode())
            for site in sorted(self.sites):
                digest.update(f"{site}:{each.shards[site].sha256}".encode())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Mapping[Site, ActivationBatch]]:
        made = self._manifest
        for each in self._ranges():
            start, stop = max(0, self.skip - each.first), min(each.tokens, self.tokens - each.first)
            if start >= stop:
                continue
            for record in self._files(each) if self._verify else ():
                check_content(self.folder, record)
            labels = read_labels(self.folder / each.labels.file, each.tokens)
            shards = {
                site: read_shard(self.folder / each.shards[site].file, each.tokens, made.d_model, made.dtype)
                for site in self.sites
            }
            for first in range(start, stop, BATCH):
                rows = slice(first, min(stop, first + BATCH))
                own = labels[rows]
                yield {site: ActivationBatch(x[rows], own) for site, x in shards.items()}

    def _ranges(self) -> list[Range]:
        return [each for each in self._manifest.ranges if each.first < self.tokens]

    def _files(self, each: Range) -> list[FileRecord]:
        return [each.labels, *(each.shards[site] for site in self.sites)]
