"""Durable files: written under a hidden name and renamed when they are whole; locked, checked, and read as JSON.

A process killed at any moment leaves the old file or the new one, never half of one. It may leave something hidden
besides, whose name begins with a dot. An error of the system becomes one line that says what to do. No other module
renames, syncs or locks files: a test holds that.

Nothing here needs tensors, so that what reads JSON alone starts at once.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from itda.errors import StoreError

FORMAT_VERSION = 1
RUN_FORMAT, DICTIONARY_FORMAT, METRICS_FORMAT = "itda-run", "itda-dictionary", "itda-metrics"
TOKENS_FORMAT, FINGERPRINT_FORMAT, REPLICATION_FORMAT = "itda-tokens", "itda-fingerprint", "itda-replication"
NEAREST_FORMAT, DIFF_FORMAT, EFFECTS_FORMAT = "itda-nearest", "itda-diff", "itda-effects"
DICTIONARY_FILES = ("config.json", "atoms.safetensors", "labels.parquet", "README.md")
FEATURES_FILE = "features.safetensors"
NOTES_FILE = "notes.jsonl"
FILES_THAT_MAY_LACK = ("replication.safetensors", "nearest.parquet", "effects.parquet", FEATURES_FILE)
"""Files of a dictionary's folder that a command adds later."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of the errors for a full disk, a quota, and a limit on the size of files."""

NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""The numbers of the errors of file systems that cannot sync a folder."""

_NUMBERS = itertools.count()
"""Counts up, so that hidden names differ within a process."""


# Errors of the system, in one line each.


def is_full(error: BaseException) -> bool:
    """Return True if an error says that there is no space left to write.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full(FileNotFoundError())
    (True, False)
    """
    if _is_of_safetensors(error):  # it has the number in its text alone
        found = re.search(r"os error (\d+)", str(error))
        return found is not None and int(found[1]) in FULL
    return isinstance(error, OSError) and error.errno in FULL


def reason_of(error: BaseException) -> str:
    """Say in a few words what went wrong: the system's words, or the first line of the message.

    >>> reason_of(FileNotFoundError(errno.ENOENT, "No such file or directory")), reason_of(KeyError())
    ('No such file or directory', 'KeyError')
    """
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 150 characters; its type where it has none.

    >>> first_line(ValueError("too long\\nby 3")), first_line(ValueError())
    ('too long', 'ValueError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0][:150]


@contextmanager
def explained(doing: str, remedy: str, *, full: str | None = None) -> Iterator[None]:
    """Raise `StoreError` "cannot DOING (REASON): REMEDY" for an error of the system within this block.

    `full` is the whole message where the disk is full; other exceptions pass as they are.

    >>> with explained("read it", "name another file"):
    ...     Path("/nowhere").read_text()
    Traceback (most recent call last):
    itda.errors.StoreError: cannot read it (No such file or directory): name another file
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not _is_of_safetensors(error):
            raise
        if full is not None and is_full(error):
            raise StoreError(full) from error
        raise StoreError(f"cannot {doing} ({reason_of(error)}): {remedy}") from error


def _is_of_safetensors(error: BaseException) -> bool:
    # By name: importing the library takes time that most readers of JSON need not spend.
    return type(error).__name__ == "SafetensorError"


# Files.


def hidden(path: Path, ending: str = "tmp") -> Path:
    """Return the hidden name beside `path` under which it is written.

    >>> hidden(Path("run/run.json")).as_posix()
    'run/.run.json.tmp'
    """
    return path.with_name(f".{path.name}.{ending}")


@contextmanager
def whole_file(path: Path, *, alone: bool = False, synced: bool = False) -> Iterator[Path]:
    """Give a hidden path to write to: the file becomes `path` when the block ends, and vanishes if it fails.

    The file has the mode that `open` would give it, whatever library wrote it. With `synced` it is on the disk, under
    its name, when this returns. With `alone`, for folders that one process writes to at a time, the hidden name is
    always the same, so that what a killed process left is written over. Raises `OSError`.
    """
    partial = hidden(path) if alone else hidden(path, f"{os.getpid()}-{next(_NUMBERS)}.tmp")
    try:
        partial.unlink(missing_ok=True)
        partial.open("xb").close()
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:  # some libraries leave a file to its owner alone
            partial.chmod(mode)
        if synced:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        rename(partial, path, synced=synced)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes, *, alone: bool = False, synced: bool = False) -> None:
    """Write a file so that it is there in full or not at all: see `whole_file`. Text is UTF-8."""
    content = content.encode() if isinstance(content, str) else content
    with whole_file(path, alone=alone, synced=synced) as partial:
        partial.write_bytes(content)


def rename(partial: Path, path: Path, *, synced: bool = False) -> None:
    """Rename a whole file to its own name, in place of a file that has that name."""
    partial.replace(path)
    if synced:
        sync_folder(path.parent)


def sync(file: IO[Any]) -> None:
    """Flush to the disk all that was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage_of(path: Path, size: int, sha256: str | None = None) -> str | None:
    """Say how a file differs from one of `size` bytes and, where it is given, this hash; None if it does not.

    >>> damage_of(Path("/nowhere"), 10)
    'is missing'
    """
    try:
        found = path.stat().st_size
        if found != size:
            return f"has {found:,} bytes, not {size:,}"
        if sha256 is not None and sha256_of(path) != sha256:
            return "has changed since it was written (its SHA-256)"
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:  # a bad sector, say
        return f"cannot be read ({reason_of(error)})"
    return None


# Folders.


def sync_folder(folder: Path) -> None:
    """Flush to the disk the names of the files in a folder, on systems that can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # so says a system that opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if there is none, and flush its name to the disk."""
    if not folder.exists():
        folder.mkdir(parents=True)
        sync_folder(folder.parent)


def empty_folder(folder: Path) -> None:
    """Make a folder that is empty, removing one that is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def whole_folder(path: Path, *, alone: bool = False, synced: bool = False) -> Iterator[Path]:
    """Give a hidden folder to write to: it becomes `path` when the block ends, and vanishes if it fails.

    With `synced` the names in it and its own are on the disk then; its files are the block's matter. With `alone` the
    hidden name is always the same, so that what a killed process left is removed first, and others are kept out.
    Raises `OSError`, and `StoreError` if somebody else has made `path` meanwhile, or is writing it now.
    """
    partial = hidden(path, "partial" if alone else f"{os.getpid()}-{next(_NUMBERS)}")
    with ExitStack() as stack:
        partial.mkdir(exist_ok=alone)
        if alone:
            stack.enter_context(locked(partial, "written"))
            _empty(partial)
        stack.callback(shutil.rmtree, partial, ignore_errors=True)  # gone already if all went well
        yield partial
        if synced:
            sync_folder(partial)
        try:
            partial.rename(path)
        except OSError as error:
            if not path.exists():
                raise
            raise StoreError(f"{path} appeared while this ran: name another folder") from error
        if synced:
            sync_folder(path.parent)


def _empty(folder: Path) -> None:
    """Remove what is in a folder."""
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Open a `whole_folder` at a path that a user named. Raises `StoreError` if it exists, or cannot be made."""
    if path.exists():
        raise StoreError(f"{path} exists already: name another folder, or remove it")
    with ExitStack() as stack:
        with explained(f"write beside {path}", "name a folder that can be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(whole_folder(path))
        yield partial


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder to write to: it takes the place of `path` when the block ends, and vanishes if it fails."""
    partial = hidden(path, "partial")
    empty_folder(partial)
    try:
        yield partial
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(whole: Path, path: Path) -> None:
    """Put a whole folder in the place of `path`, which need not be there.

    A process killed at this leaves the old one, or what `finish_replacing` puts in its place.
    """
    shutil.rmtree(hidden(path, "new"), ignore_errors=True)
    whole.rename(hidden(path, "new"))
    finish_replacing(path)


def finish_replacing(path: Path) -> None:
    """Finish a `replace_folder` that was killed half-way; does nothing if none was."""
    new = hidden(path, "new")
    if new.exists():
        if path.exists():
            remove_folder(path)
        new.rename(path)
    shutil.rmtree(hidden(path, "old"), ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, renamed first, so that nobody finds half of it under its name."""
    old = hidden(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keep others out of a folder within this block; a killed process is in nobody's way.

    Does nothing where there are no such locks. Raises `StoreError` if another process is in it: the folder is being
    `doing`, "made" for instance.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{folder} is being {doing} by another process: wait for it, or end it") from None
        except OSError:  # a file system without such locks
            pass
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lines_file(path: Path) -> Iterator[tuple[list[str], Callable[[str], None]]]:
    """Give the lines of a file and a function that appends one, and keep others out within this block.

    An appended line is on the disk when the function returns. A line that a killed process left cut short is ended
    first, so that it spoils no other. Others wait for their turn. Raises `OSError`.
    """
    with path.open("a+b") as file:
        with suppress(ImportError, OSError):  # a system, or a file system, without such locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        cut_short = bool(content) and not content.endswith(b"\n")

        def append(line: str) -> None:
            nonlocal cut_short
            file.write((b"\n" if cut_short else b"") + line.encode() + b"\n")
            cut_short = False
            sync(file)

        yield content.decode(errors="replace").split("\n"), append


# JSON.


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is there in full or not at all. Raises `OSError`."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Read a JSON file of ours. Raises `StoreError` if it is missing, damaged, or not in the `expected` format."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if path.name != "config.json" and (path.parent / "config.json").exists():
            how = f"itda.ITDA.from_pretrained({str(path.parent)!r})"
            raise StoreError(f"{path.parent} is one dictionary, not a run: open it in Python, {how}") from error
        raise StoreError(f"{path.parent} has no {path.name}: name a folder written by itda") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read, it may be cut short: write it anew") from error
    if not isinstance(value, dict) or value.get("format") != expected:
        raise StoreError(f"{path} is not an {expected} file: name a folder written by itda")
    check_format_version(path, value)
    return value


def check_format_version(path: Path, value: Mapping[str, Any]) -> None:
    """Raises `StoreError` for what was written in another version of our formats.

    >>> check_format_version(Path("config.json"), {"format_version": FORMAT_VERSION})
    """
    if value.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {value.get('format_version')}, this itda reads {FORMAT_VERSION}: "
            "install the itda that wrote it"
        )
