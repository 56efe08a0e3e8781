"""Durable files: written under another name and renamed when they are whole, and read with one line for what is wrong.

Nothing here needs tensors, so that what reads JSON alone starts at once.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itda.errors import StoreError

FORMAT_VERSION = 1
RUN_FORMAT, DICTIONARY_FORMAT, METRICS_FORMAT = "itda-run", "itda-dictionary", "itda-metrics"
TOKENS_FORMAT = "itda-tokens"
DICTIONARY_FILES = ("config.json", "atoms.safetensors", "labels.parquet", "README.md")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a quota, and a limit on the size of files are told by."""


def is_full(error: BaseException) -> bool:
    """Whether something could not be written for want of space.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full(FileNotFoundError())
    (True, False)
    """
    if type(error).__name__ == "SafetensorError":  # it has the number in its text alone
        found = re.search(r"os error (\d+)", str(error))
        return found is not None and int(found[1]) in FULL
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` if the block succeeds and vanishes if it does not.

    Raises `StoreError` if `path` exists.
    """
    if path.exists():
        raise StoreError(f"{path} exists already: name another folder, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise StoreError(f"cannot write beside {path} ({error.strerror}): name a folder that can be written") from error
    try:
        yield partial
        partial.chmod(0o755)
        try:
            partial.rename(path)  # fails if somebody else has filled `path` meanwhile
        except OSError as error:
            raise StoreError(f"{path} appeared while this ran: name another folder") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def lock(folder: Path, doing: str) -> int | None:
    """A descriptor that keeps others out of a folder until it is closed; a killed process is in nobody's way.

    None where there are no such locks. Raises `StoreError` if somebody has it: it is being `doing`, made for instance.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(f"{folder} is being {doing} by another process: wait for it, or end it") from None
    except OSError:  # a file system without such locks
        pass
    return descriptor


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keeps others out of a folder within this. Raises `StoreError` if somebody is in it."""
    descriptor = lock(folder, doing)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON file of ours. Raises `StoreError` if it is missing, damaged, or not in the `expected` format."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path.parent} has no {path.name}: name a folder written by itda") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read, it may be cut short: write it anew") from error
    if not isinstance(value, dict) or value.get("format") != expected:
        raise StoreError(f"{path} is not an {expected} file: name a folder written by itda")
    if value.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {value.get('format_version')}, this itda reads {FORMAT_VERSION}: "
            "install the itda that wrote it"
        )
    return value
