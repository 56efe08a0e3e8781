"""Files and folders of documents: finds the files to read in a folder, and reads the documents in each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from itda.errors import CorpusError
from itda.sources.corpora.document import Document, LongDocument

Rules = Literal[1, 2]
"""The rules by which files are found and read. Runs that do not name them were made by 1, and so are read again.

1 knows fewer suffixes, only in lower case, and neither linked folders nor a byte order mark.
"""
NEWEST: Rules = 2

TEXT_SUFFIXES = (".txt", ".md", ".py")
TABLE_SUFFIXES = (".jsonl", ".parquet", ".json", ".csv")
UNCERTAIN = (".json", ".csv")
"""Suffixes of files that often hold no texts: in a folder they are read only if their first row has a text."""
OLD_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")
PACKED = ".gz"

IN_MEMORY = 2**16
"""Bytes up to which a text file is read at once; larger ones are read part by part."""
PART = 2**20
"""Number of characters in a part."""
FIRST_ROW = 2**24
"""Number of characters within which the first row of an uncertain file must end."""
BROKEN = (OSError, ValueError, EOFError, zlib.error, csv.Error)
"""The errors of reading a damaged file: pyarrow's and json's are ValueErrors or OSErrors."""


@dataclass(frozen=True)
class Files:
    """The files to read of a file or folder."""

    root: Path
    """The folder that ids are relative to."""
    files: list[Path]
    rules: Rules
    notes: list[str] = field(default_factory=list)
    """Messages for the user about files that were left out."""

    def documents(self, text_field: str) -> Iterator[Document]:
        """Yield the documents of all files, in order. Raises `CorpusError` for a file that cannot be read."""
        for file in self.files:
            name = shown(file.relative_to(self.root).as_posix())
            if kind_of(file, self.rules) in TEXT_SUFFIXES:
                parts = partial(_text_parts, file, self.rules)
                long = file.suffix.lower() == PACKED or _size(file) > IN_MEMORY
                yield LongDocument(name, parts) if long else Document(name, "".join(parts()))
                continue
            for number, row in enumerate(self._rows_of(file)):
                yield Document(f"{name}:{number}", text_of(row, text_field, f"{file}, row {number}"))

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield the rows of all tables, in order, each with its id. Raises `CorpusError` for a file that is damaged."""
        for file in self.files:
            if kind_of(file, self.rules) not in TEXT_SUFFIXES:
                name = shown(file.relative_to(self.root).as_posix())
                yield from ((f"{name}:{number}", row) for number, row in enumerate(self._rows_of(file)))

    def _rows_of(self, file: Path) -> Iterator[object]:
        rows = _rows(file, self.rules)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except BROKEN as error:
                raise _unreadable(file, error) from error
            yield row

    @property
    def are_texts(self) -> bool:
        """True if each file is one document."""
        return all(kind_of(file, self.rules) in TEXT_SUFFIXES for file in self.files)


def kind_of(file: Path, rules: Rules = NEWEST) -> str | None:
    """Return the suffix that says how a file is read, in lower case and without `.gz`; None if it is not read."""
    if rules == 1:
        return file.suffix if file.suffix in OLD_SUFFIXES else None
    suffix = file.suffix.lower()
    packed = suffix == PACKED
    if packed:
        suffix = Path(file.stem).suffix.lower()
    known = suffix in TEXT_SUFFIXES + TABLE_SUFFIXES and not (packed and suffix == ".parquet")
    return suffix if known else None


def find(path: Path, text_field: str, rules: Rules = NEWEST) -> Files:
    """Find the files to read at a path: the file itself, or those in the folder.

    Hidden files and folders are left out. Raises `CorpusError` if nothing is to be read.
    """
    known = OLD_SUFFIXES if rules == 1 else TEXT_SUFFIXES + TABLE_SUFFIXES
    if not path.is_dir():
        root, files, notes = path.parent, [path] if kind_of(path, rules) and path.is_file() else [], []
    elif rules == 1:
        candidates = sorted(path.rglob("*"))
        hidden = {file for file in candidates if any(part.startswith(".") for part in file.relative_to(path).parts)}
        files = [file for file in candidates if kind_of(file, 1) and file.is_file() and file not in hidden]
        root, notes = path, []
    else:
        there, closed = _walked(path)
        textless = {file for file in there if kind_of(file) in UNCERTAIN and not _has_text(file, text_field)}
        files = [file for file in there if kind_of(file) and file not in textless]
        root, notes = path, _notes(path, there, textless, closed, text_field)
    if not files:
        raise CorpusError(f"{path} holds no {', '.join(known)} file: name one, or a folder with some")
    names = [file.relative_to(root).as_posix() for file in files]
    if len({shown(name) for name in names}) < len(names):
        strange = next(name for name in names if shown(name) != name)
        raise CorpusError(f"{path} holds two files that are both called {shown(strange)}: rename one of them")
    return Files(root, files, rules, notes)


def shown(name: str) -> str:
    """Return a file name as text: bytes that are not UTF-8 are written as `\\\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if os.name != "nt" else name


def _walked(root: Path) -> tuple[list[Path], list[str]]:
    """Return the files below a folder that are not hidden, sorted, and the folders that cannot be read.

    A linked folder is read unless its target is, or holds, or is inside, a folder that is read already.
    """
    found: list[Path] = []
    closed: list[str] = []
    waiting, real = [str(root)], [os.path.realpath(root)]
    while waiting:
        links: list[str] = []
        for folder, names, files in os.walk(waiting.pop(0), onerror=lambda error: closed.append(str(error.filename))):
            names[:] = sorted(name for name in names if not name.startswith("."))
            links += [str(path) for name in names if (path := Path(folder, name)).is_symlink()]
            found += [Path(folder, name) for name in files if not name.startswith(".")]
        for link in links:
            target = os.path.realpath(link)
            if not any(_is_within(target, each) or _is_within(each, target) for each in real):
                real.append(target)
                waiting.append(link)
    return sorted(file for file in found if file.is_file()), closed


def _is_within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def _notes(path: Path, there: list[Path], textless: set[Path], closed: list[str], text_field: str) -> list[str]:
    unknown = Counter(shown(file.suffix.lower()) or "without a suffix" for file in there if kind_of(file) is None)
    said = [f"{number:,} {suffix}" for suffix, number in unknown.most_common(4)]
    if len(unknown) > 4:
        said.append(f"{sum(unknown.values()) - sum(n for _, n in unknown.most_common(4)):,} others")
    if textless:
        said.append(f"{len(textless):,} .json or .csv without a {text_field!r} in the first row")
    left_out = sum(unknown.values()) + len(textless)
    notes = [f"{shown(str(path))}: files left out: {left_out:,} ({', '.join(said)})"] if said else []
    return notes + [f"{shown(str(path))}: folders in it that cannot be read: {len(closed):,}"] * bool(closed)


def _has_text(file: Path, text_field: str) -> bool:
    """Return True if the first row of a table has a text; False for a file that cannot be read as a table."""
    try:
        first = next(_rows(file, NEWEST, most=FIRST_ROW), None)
    except BROKEN:
        return False
    return isinstance(first, str) or (isinstance(first, dict) and text_field in first)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from error


def _open(file: Path, rules: Rules, newline: str | None = None) -> io.TextIOBase:
    encoding = "utf-8" if rules == 1 else "utf-8-sig"
    if file.suffix.lower() == PACKED:
        return gzip.open(file, "rt", encoding=encoding, newline=newline)  # pyright: ignore[reportReturnType]
    return file.open(encoding=encoding, newline=newline)


def _text_parts(file: Path, rules: Rules) -> Iterator[str]:
    """Yield the text of a file in parts. Raises `CorpusError` if it cannot be read."""
    try:
        with _open(file, rules) as stream:
            while part := stream.read(PART):
                yield part
    except BROKEN as error:
        raise _unreadable(file, error) from error


def _rows(file: Path, rules: Rules, most: int | None = None) -> Iterator[object]:
    """Yield the rows of a table; those of a .json file must end within `most` characters, if that is given."""
    match kind_of(file, rules):
        case ".parquet":
            return _parquet_rows(file)
        case ".json":
            return _json_rows(file, rules, most)
        case ".csv":
            return _csv_rows(file, rules)
        case _:
            return _jsonl_rows(file, rules)


def _jsonl_rows(file: Path, rules: Rules) -> Iterator[object]:
    with _open(file, rules) as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _csv_rows(file: Path, rules: Rules) -> Iterator[object]:
    # A limit of the whole module `csv`; texts are longer than its default.
    csv.field_size_limit(2**31 - 1)
    with _open(file, rules, newline="") as lines:
        yield from csv.DictReader(lines, strict=True)


def _json_rows(file: Path, rules: Rules, most: int | None) -> Iterator[object]:
    """Yield the rows of a list, or values that follow each other, each decoded as soon as it is read."""
    decoder = json.JSONDecoder()
    with _open(file, rules) as stream:
        text, place, ended = stream.read(PART), 0, False
        in_list: bool | None = None
        while True:
            while place < len(text) and (text[place].isspace() or (text[place] == "," and in_list)):
                place += 1
            if place < len(text) and in_list is None:
                in_list = text[place] == "["
                place += in_list
                continue
            if place < len(text):
                if in_list and text[place] == "]":
                    return
                try:
                    row, place = decoder.raw_decode(text, place)
                except json.JSONDecodeError:
                    if ended or (most is not None and len(text) - place > most):
                        raise
                else:
                    yield row
                    continue
            if ended:
                if in_list:
                    raise ValueError("it ends within a list")
                return
            # Read as much again as there is, so that a long row is decoded from its start only a few times.
            more = stream.read(max(PART, len(text) - place))
            text, place, ended = text[place:] + more, 0, not more


def _parquet_rows(file: Path) -> Iterator[object]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def text_of(row: object, text_field: str, where: str) -> str:
    """Return the text of a row: a string, or the value of `text_field`. Raises `CorpusError`, which says `where`."""
    if isinstance(row, dict) and text_field in row and row[text_field] is None:
        raise CorpusError(f"{where} is null under {text_field!r}: give it a text, or leave the row out")
    text = row.get(text_field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        found = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
        raise CorpusError(f"{where} has no text under {text_field!r} (found: {found}): name the key with --text-field")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{where} holds a broken character (half a surrogate pair): mend it or leave it out"
        ) from error
    return text


def _unreadable(file: Path, error: Exception) -> CorpusError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CorpusError(f"cannot read {shown(str(file))} ({reason}): mend it or leave it out")
