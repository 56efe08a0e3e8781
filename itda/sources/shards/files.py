"""The files of activations on disk: shards, the labels of each range of tokens, and the manifest of the whole files.

    FOLDER/
      manifest.json                   settings, and for each range of tokens its files with their sizes and SHA-256
      layer_3/000000.safetensors      `activations` [tokens, d_model] of one site and range, in the model's dtype
      labels/000000.parquet           the labels of the range, one row for each window of text

A file is written under a temporary name, flushed to the disk, renamed, and only then named in the manifest, which is
replaced in one step: a process killed at any moment leaves a folder that is right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from itda.core.batch import Site
from itda.core.labels import Labels, strings
from itda.errors import SettingError, StoreError
from itda.files import damage_of, explained, hidden, reason_of, rename, sha256_of, sync, write_whole

FORMAT, FORMAT_VERSION = "itda-activations", 1
MANIFEST, LABELS = "manifest.json", "labels"
DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""The names of the dtypes in the header of a safetensors file."""
DATA_START = 512
"""The first byte of a shard's activations: its header is written last, and filled up with spaces to this length."""
TOKEN_COLUMNS = ("position", "char_start", "char_end", "token_id")
HARVEST_AGAIN = "run the same `itda harvest` again to make it anew"
UNKNOWN = ("prefix", "corpus_rules")
"""Settings that older manifests may lack, and that follow from the others: not compared where they are lacking."""
BEFORE = {"bos": "auto", "settings.bos": "auto"}
"""Settings that older manifests may lack, with the values that they had then."""


@dataclass(frozen=True)
class FileRecord:
    """The manifest's entry for a whole file."""

    file: str
    """The path, relative to the folder."""
    size: int
    """Number of bytes."""
    sha256: str


@dataclass(frozen=True)
class Range:
    """Consecutive tokens of the stream with the files that hold them."""

    first: int
    """The number of the first token in the stream."""
    tokens: int
    """Number of tokens."""
    labels: FileRecord
    shards: Mapping[Site, FileRecord]

    @property
    def files(self) -> list[FileRecord]:
        """The entries of the labels and of each site's shard."""
        return [self.labels, *self.shards.values()]


@dataclass(frozen=True)
class Partial:
    """The beginning of the next range, as far as it is safe on the disk: after a kill, a harvest goes on from there."""

    tokens: int
    labels: FileRecord
    shards: Mapping[Site, str]
    """SHA-256 of the activations of each site, which are in a hidden file that grows."""


@dataclass(frozen=True)
class Manifest:
    """The settings of a folder of activations, and its whole files: manifest.json."""

    about: Mapping[str, Any]
    """The model, corpus and settings that made the activations, as JSON values."""
    sites: tuple[Site, ...]
    d_model: int
    dtype: str
    shard_tokens: int
    """Number of tokens of every range but the last."""
    complete: bool = False
    """True if the last range is there."""
    ranges: tuple[Range, ...] = ()
    """The ranges from the first token on, without a gap."""
    partial: Partial | None = None
    """The beginning of the range after these; None if nothing is kept of it."""

    @property
    def tokens(self) -> int:
        """Number of tokens of all ranges together."""
        return sum(each.tokens for each in self.ranges)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must be the same for a harvest to go on."""
        sites = ", ".join(str(site) for site in self.sites)
        own = {"sites": sites, "d_model": self.d_model, "dtype": self.dtype, "shard_tokens": self.shard_tokens}
        return {**self.about, **own}

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder in one step. Raises `StoreError`."""
        values = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "about": self.about,
            "sites": [str(site) for site in self.sites],
            "d_model": self.d_model,
            "dtype": self.dtype,
            "shard_tokens": self.shard_tokens,
            "tokens": self.tokens,
            "complete": self.complete,
            "ranges": [
                {
                    "first": each.first,
                    "tokens": each.tokens,
                    "labels": asdict(each.labels),
                    "shards": {str(site): asdict(record) for site, record in each.shards.items()},
                }
                for each in self.ranges
            ],
        }
        if self.partial is not None:
            shards = {str(site): digest for site, digest in self.partial.shards.items()}
            labels = asdict(self.partial.labels)
            values["partial"] = {"tokens": self.partial.tokens, "labels": labels, "shards": shards}
        _write(folder, MANIFEST, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read the manifest of a folder. Raises `StoreError` if it is missing, damaged, or of another program."""
        path = folder / MANIFEST
        remedy = f"put back a copy of it, or remove {folder} and harvest again"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise StoreError(f"{path} is not an {FORMAT} file: name a folder made by `itda harvest`")
            if values["format_version"] != FORMAT_VERSION:
                raise StoreError(
                    f"{path} has format version {values['format_version']}, this itda reads {FORMAT_VERSION}: "
                    "install the itda that wrote it"
                )
            ranges = tuple(
                Range(
                    first=each["first"],
                    tokens=each["tokens"],
                    labels=FileRecord(**each["labels"]),
                    shards={Site.parse(name): FileRecord(**record) for name, record in each["shards"].items()},
                )
                for each in values["ranges"]
            )
            sites = tuple(Site.parse(name) for name in values["sites"])
            own = {name: values[name] for name in ("about", "d_model", "dtype", "shard_tokens", "complete")}
            partial = None
            if (begun := values.get("partial")) is not None:
                digests = {Site.parse(name): digest for name, digest in begun["shards"].items()}
                partial = Partial(begun["tokens"], FileRecord(**begun["labels"]), digests)
            return Manifest(sites=sites, ranges=ranges, partial=partial, **own)
        except FileNotFoundError as error:
            raise StoreError(f"no activations in {folder}: check the path, or make them with `itda harvest`") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingError) as error:
            raise StoreError(f"{path} is damaged, it may be cut short: {remedy}") from error


class ShardFile:
    """A shard that is being written: rows go to the disk as they come, as many sites' shards would not fit into memory.

    Raises `StoreError` if it cannot be written.
    """

    def __init__(
        self, folder: Path, number: int, site: Site, first: int, d_model: int, dtype: str, *, rows: int = 0
    ) -> None:
        self._folder, self.name, self.rows = folder, f"{site}/{number:06}.safetensors", rows
        self._site, self._first, self._d_model, self._dtype = site, first, d_model, dtype
        path = folder / self.name
        self._temporary = hidden(path)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            if rows:
                # A process may have been killed after the file got its name, and before the manifest knew.
                if not self._temporary.exists():
                    rename(path, self._temporary)
                self._file = self._temporary.open("r+b")
                self._file.truncate(DATA_START + self._size)
                self._file.seek(DATA_START + self._size)
            else:
                self._file = self._temporary.open("w+b")
                self._file.write(b" " * DATA_START)

    @property
    def _size(self) -> int:
        return self.rows * self._d_model * getattr(torch, self._dtype).itemsize

    def keep(self) -> str:
        """Flush the activations so far to the disk, and return their SHA-256. More may follow."""
        with writing(self._folder / self.name):
            sync(self._file)
            return self.digest()

    def digest(self) -> str:
        """Return the SHA-256 of the activations so far."""
        digest, left = hashlib.sha256(), self._size
        self._file.seek(DATA_START)
        while left and (part := self._file.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
        self._file.seek(DATA_START + self._size)
        return digest.hexdigest()

    def leave(self) -> None:
        """Close the unfinished file, and keep it for another process to go on."""
        with suppress(OSError):
            self._file.close()

    def append(self, activations: Float[Tensor, "batch d_model"]) -> None:
        """Add rows of the shard's dtype."""
        with writing(self._folder / self.name):
            self._file.write(activations.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        self.rows += len(activations)

    def close(self) -> FileRecord:
        """Finish the shard and give it its own name; return its entry for the manifest."""
        size = self._size
        tensor = {"dtype": DTYPES[self._dtype], "shape": [self.rows, self._d_model], "data_offsets": [0, size]}
        about = {"format": FORMAT, "site": str(self._site), "first": str(self._first)}
        header = json.dumps({"__metadata__": about, "activations": tensor}).encode()
        assert len(header) <= DATA_START - 8
        with writing(self._folder / self.name):
            self._file.seek(0)
            self._file.write((DATA_START - 8).to_bytes(8, "little") + header.ljust(DATA_START - 8))
            sync(self._file)
            self._file.close()
            digest = sha256_of(self._temporary)
            rename(self._temporary, self._folder / self.name, synced=True)
        return FileRecord(self.name, DATA_START + size, digest)

    def discard(self) -> None:
        """Close and remove the unfinished file."""
        with suppress(OSError):  # closing writes what is buffered, and the disk may be full
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def read_shard(path: Path, rows: int, d_model: int, dtype: str) -> Float[Tensor, "rows d_model"]:
    """Map the activations of a shard into memory. Raises `StoreError` if they are not those expected."""
    try:
        with safe_open(path, "pt") as file:
            activations = file.get_tensor("activations")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read: remove it, and {HARVEST_AGAIN}") from error
    if activations.shape != (rows, d_model) or activations.dtype != getattr(torch, dtype):
        raise StoreError(f"{path} is not the shard that the manifest names: remove it, and {HARVEST_AGAIN}")
    return activations


def write_labels(folder: Path, number: int, labels: Labels, *, partial: bool = False) -> FileRecord:
    """Write the labels of a range, or with `partial` those of its beginning. Raises `StoreError`."""
    inside = np.ones(len(labels), bool)  # True for a row of the same window as the row before
    inside[:1] = False
    for column in (labels.document, labels.window, labels.window_start):
        inside[1:] &= column[1:] == column[:-1]
    starts = np.flatnonzero(~inside)
    offsets = pyarrow.array(np.append(starts, len(labels)).astype(np.int32))
    numbers: dict[str, int] = {}
    document = [numbers.setdefault(name, len(numbers)) for name in labels.document[starts].tolist()]
    try:
        columns = {
            "document": pyarrow.DictionaryArray.from_arrays(
                pyarrow.array(document, pyarrow.int32()), pyarrow.array(list(numbers), pyarrow.string())
            ),
            "window": pyarrow.array(labels.window[starts].tolist(), pyarrow.string()),
            "window_start": pyarrow.array(labels.window_start[starts].astype(np.int64)),
        }
    except UnicodeEncodeError as error:
        names = ", ".join(map(repr, list(numbers)[:3]))
        raise StoreError(
            f"a name or text holds a broken character (half a surrogate pair) ({names}): rename or mend it"
        ) from error
    for name in TOKEN_COLUMNS:
        values = pyarrow.array(getattr(labels, name).astype(np.int64))
        columns[name] = pyarrow.ListArray.from_arrays(offsets, values)
    table = pyarrow.table(columns).replace_schema_metadata({"format": f"{FORMAT}-labels"})
    # Positions and offsets grow by little from token to token, so differences take less space.
    packed = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in TOKEN_COLUMNS}
    content = BytesIO()
    pyarrow.parquet.write_table(
        table,
        content,
        compression="zstd",
        use_dictionary=["document"],  # pyright: ignore[reportArgumentType] - its stub knows bool alone
        column_encoding=packed,
        row_group_size=len(table) or 1,
    )
    name = f".{number:06}.{len(labels)}.parquet" if partial else f"{number:06}.parquet"
    return _write(folder, f"{LABELS}/{name}", content.getvalue())


def read_labels(path: Path, rows: int) -> Labels:
    """Read the labels of a range; those of a window share its text. Raises `StoreError` if they are not as expected."""
    try:
        table = pyarrow.parquet.read_table(path).combine_chunks()
        document, window, window_start = (
            table[name].combine_chunks() for name in ("document", "window", "window_start")
        )
        lists = {name: table[name].combine_chunks() for name in TOKEN_COLUMNS}
        lengths = np.diff(np.asarray(lists["position"].offsets).astype(np.int64))
        # From the column's dictionary, so that all rows of a document share one string.
        names = strings(document.dictionary.to_pylist())[np.asarray(document.indices)]
        labels = Labels(
            document=np.repeat(names, lengths),
            window=np.repeat(strings(window.to_pylist()), lengths),
            window_start=np.repeat(np.asarray(window_start), lengths),
            **{name: np.asarray(column.flatten()) for name, column in lists.items()},
        )
    except (OSError, pyarrow.ArrowException, KeyError, AttributeError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: remove it, and {HARVEST_AGAIN}") from error
    if len(labels) != rows:
        raise StoreError(f"{path} has {len(labels)} labels, not {rows}: remove it, and {HARVEST_AGAIN}")
    return labels


def check_made_alike(folder: Path, asked: Mapping[str, Any]) -> Manifest | None:
    """Read the manifest of a folder that has the settings `asked`; return None if there is none yet.

    Raises `StoreError` if it has other settings, or the folder holds other things.
    """
    if not (folder / MANIFEST).exists():
        try:
            # A process killed at its very first step leaves a hidden file.
            foreign = any(not path.name.startswith(".") for path in folder.iterdir())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{folder} cannot be read ({reason_of(error)}): name another folder") from error
        if foreign:
            raise StoreError(f"{folder} holds something else than activations: name another folder")
        return None
    made = Manifest.read(folder)
    asked = {name: value for name, value in asked.items() if name not in UNKNOWN or name in made.settings}
    check_same(folder, {name: made.settings.get(name) for name in asked}, asked)
    return made


def check_same(folder: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises `StoreError`, naming the differences, if a folder has other settings than those asked for."""
    found, wanted = _flat(made), _flat(asked)
    found |= {name: value for name, value in BEFORE.items() if name in wanted and found.get(name) is None}
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if names:
        shown = ", ".join(f"{n} {found.get(n)!s:.40}, not {wanted.get(n)!s:.40}" for n in names[:3])
        raise StoreError(f"{folder} was made with other settings ({shown}): use those, or name another folder")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those inside `NAME` as `NAME.INNER`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= {f"{name}.{n}": v for n, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return found


def check_size(folder: Path, record: FileRecord) -> None:
    """Raises `StoreError` if a file is missing or has another size than the manifest says."""
    damage = damage_of(folder / record.file, record.size)
    if damage is not None:
        raise StoreError(f"{folder / record.file} {damage}: {HARVEST_AGAIN}")


def check_content(folder: Path, record: FileRecord) -> None:
    """Raises `StoreError` if a file has other bytes than were written."""
    check_size(folder, record)
    damage = damage_of(folder / record.file, record.size, record.sha256)
    if damage is not None:
        raise StoreError(f"{folder / record.file} {damage}: remove it, and {HARVEST_AGAIN}")


def _write(folder: Path, name: str, content: bytes) -> FileRecord:
    """Write a small file of the folder whole, and flush it to the disk. Raises `StoreError`."""
    with writing(folder / name):
        (folder / name).parent.mkdir(exist_ok=True)
        write_whole(folder / name, content, alone=True, synced=True)
    return FileRecord(name, len(content), hashlib.sha256(content).hexdigest())


def writing(path: Path) -> AbstractContextManager[None]:
    """Raise `StoreError`, with the remedy, for an error of the system within this block."""
    return explained(f"write {path}", "make room for it, and run the same command again to go on")
