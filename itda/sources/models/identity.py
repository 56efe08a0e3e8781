"""The identity of a model: its commit if it is from the Hub, else a fingerprint of its files on this machine.

The fingerprint is a SHA-256 over every byte of the weights, the configuration, the tokenizer and the model's own code,
so that no changed value escapes it. Of weights above `WHOLE` bytes, which take minutes to read, it covers the sizes,
the headers, every tensor of up to `SMALL` bytes (norms and biases among them) and `SAMPLE` bytes in every `STEP`: one
changed value within a large matrix may escape it then, and the fingerprint begins with "sampled" instead of "all".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from itda.files import write_whole
from itda.machine import cache_folder

WHOLE = 2**36
"""Bytes of all files together up to which every byte is hashed: 64 GiB."""
SMALL, SAMPLE, STEP = 2**20, 2**12, 2**22
"""For larger models: bytes of a tensor that is hashed in full, and of a sample that is taken in every `STEP` bytes."""
CHUNK, READ = 2**26, 2**20
"""Bytes that a thread hashes as one part, and bytes that it reads at once."""
CACHED = 2**26
"""Bytes of a file from which on its hash is kept: smaller ones take less than a tenth of a second."""
RECENT_S = 2.0
"""Seconds since a file was changed for its hash to be kept: until then it may change within one tick of the clock."""
MOST_KEPT = 1000
"""Number of hashes that are kept, at most."""

COMMIT = re.compile("[0-9a-f]{40}")
BESIDE = ("config.json", "*.index.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")
BESIDE += ("added_tokens.json", "spiece.model", "sentencepiece*", "*.py")
"""Names of the files besides the weights that decide what a model computes."""

Stamp = tuple[int, int, int, int]
"""A file's size, times of change, and inode: see `_stamp`."""


def commit_of(file: str | Path) -> str | None:
    """Return the commit that a file in the Hub's cache belongs to, by its path; None for another file.

    >>> commit_of("/cache/models--me--m/snapshots/0123456789012345678901234567890123456789/sub/model.gguf")
    '0123456789012345678901234567890123456789'
    """
    parts = Path(file).parts
    after = [part for before, part in pairwise(parts) if before == "snapshots"]
    return next((part for part in reversed(after) if COMMIT.fullmatch(part)), None)


def files_of(folder: Path) -> list[Path]:
    """List the files of a model's folder that decide what it computes."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    beside = {path for pattern in BESIDE for path in folder.glob(pattern) if path.is_file()}
    return sorted({*weights, *beside})


def fingerprint(files: Sequence[Path], *, whole: int = WHOLE) -> str:
    """Return a hash of the files' contents and names, wherever they are: see the module."""
    everything = sum(path.stat().st_size for path in files) <= whole
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="itda-hash") as threads:
        for path in files:
            found = _whole_file(path, threads) if everything or not _is_weights(path) else _samples(path)
            digest.update(f"{path.name} {path.stat().st_size} {found}\n".encode(errors="surrogateescape"))
    return f"{'all' if everything else 'sampled'}:{digest.hexdigest()}"


def _is_weights(path: Path) -> bool:
    return path.suffix.lower() in (".safetensors", ".bin", ".gguf")


def _whole_file(path: Path, threads: ThreadPoolExecutor) -> str:
    stamp = _stamp(path)
    if stamp[0] >= CACHED and (known := _kept().get(str(path.resolve()))) and known[0] == list(stamp):
        return known[1]
    parts = threads.map(lambda first: _part(path, first, CHUNK), range(0, max(1, stamp[0]), CHUNK))
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    if stamp[0] >= CACHED and stamp == _stamp(path) and time.time() - max(stamp[1:3]) / 1e9 > RECENT_S:
        _keep(str(path.resolve()), stamp, digest)
    return digest


def _part(path: Path, first: int, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(first)
        while size > 0 and (read := file.read(min(READ, size))):
            digest.update(read)
            size -= len(read)
    return digest.digest()


def _samples(path: Path) -> str:
    size, digest = path.stat().st_size, hashlib.sha256()
    spans = [(place, SAMPLE) for place in (*range(0, size, STEP), max(0, size - SAMPLE))]
    for first, length in sorted({*spans, *_small_tensors(path)}):
        digest.update(_part(path, first, length))
    return digest.hexdigest()


def _small_tensors(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the first byte and length of the header and of each small tensor of a safetensors file; else nothing."""
    if path.suffix != ".safetensors":
        return
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size:
            return
        header = file.read(length)
    yield 0, 8 + length
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # a damaged file is refused when it is loaded
        for entry in json.loads(header).values():
            if "data_offsets" in entry:
                first, end = entry["data_offsets"]
                if end - first <= SMALL:
                    yield 8 + length + first, end - first


def _stamp(path: Path) -> Stamp:
    """Return a file's size, times and inode: some of these change whenever it is written."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _register() -> Path:
    return cache_folder() / "files.json"


def _kept() -> dict[str, Any]:
    """Read the hashes of large files that were kept, each with the stamp that the file had."""
    with suppress(OSError, ValueError, RuntimeError, AttributeError):
        found = json.loads(_register().read_text(encoding="utf-8"))
        return {name: known for name, known in found.items() if isinstance(known, list) and len(known) == 2}
    return {}


def _keep(name: str, stamp: Stamp, digest: str) -> None:
    kept = {**{key: value for key, value in _kept().items() if key != name}, name: [stamp, digest]}
    text = json.dumps(dict(list(kept.items())[-MOST_KEPT:]))
    with suppress(OSError, RuntimeError):  # a kept hash only saves time
        _register().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_register(), text)
