"""The run folders of an explorer: files are read when a page asks for them, and kept in memory until they change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.memory import NO_LIMITS, PursuitLimits
from itda.errors import MissingError, StoreError
from itda.explorer.code_index import CodeIndex
from itda.explorer.search import AtomTexts
from itda.files import FILES_THAT_MAY_LACK, METRICS_FORMAT, RUN_FORMAT, read_json
from itda.store.dictionaries import load_dictionary
from itda.store.records import dictionaries

T = TypeVar("T")


class Cache:
    """A cache of values made from files or objects; a value is made anew when one of its sources has changed."""

    def __init__(self) -> None:
        self._values: dict[object, tuple[object, Any]] = {}
        self._locks: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: object, sources: Sequence[object], make: Callable[[], T]) -> T:
        """Return the value of a key, calling `make` if there is none or a source has changed.

        Sources are files or other objects. Threads that ask for one key at the same time share one call of `make`.
        """
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            stamps = [_stamp(source) for source in sources]
            if key not in self._values or self._values[key][0] != stamps:
                self._values.pop(key, None)  # the old one may be large
                self._values[key] = (stamps, make())
            return self._values[key][1]


def _stamp(source: object) -> object:
    """Return a value that changes when the source does: for a file its inode, size and time of change."""
    if not isinstance(source, Path):
        return source
    try:
        found = source.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, eq=False)
class IndexedDictionary:
    """A dictionary of a run together with its code index, if it has one."""

    itda: ITDA
    index: CodeIndex | None
    """None if the run has no index of this dictionary, or none that can be used."""
    index_trouble: str | None
    """A sentence for the page that says why there is no index; None if there is one."""

    def no_finding(self, atom: int) -> bool:
        """Return True for an atom that does not replicate; False for others, and if `itda replicate` was not run."""
        return self.itda.replication is not None and not bool(self.itda.replication.replicates[atom])

    @cached_property
    def shown(self) -> list[tuple[str, str, str]]:
        """For each atom the text just before its token, the token, and the text just after it."""
        return [(label.before[-BEFORE:], label.token, label.after[:AFTER]) for label in self.itda.labels]

    def shown_of(self, atom: int) -> tuple[str, str, str]:
        """Return the text just before an atom's token, the token, and the text just after it."""
        label = self.itda.labels[atom]
        return label.before[-BEFORE:], label.token, label.after[:AFTER]

    @cached_property
    def numbers(self) -> dict[tuple[str, int], int]:
        """The atom of each label, by the document and the end of the token."""
        return by_key(self.itda.labels, by_end=True)

    @cached_property
    def texts(self) -> AtomTexts:
        """The texts of the atoms, to search in."""
        return AtomTexts(self.shown, self.itda.labels.document.tolist())

    @cached_property
    def first_page(self) -> dict[str, Any]:
        """What the first page has worked out of it, kept for the next time that it is asked for."""
        return {}


BEFORE, AFTER = 120, 48
"""Characters before and after an atom's token that lists show and that a search looks at."""


class RunCache:
    """The runs of one explorer by name; what is read from their folders is kept until the files change.

    A run has the name of its folder, with a number behind it where two folders have the same name. Raises `StoreError`
    for a folder that is not a run.
    """

    def __init__(self, folders: Sequence[Path], limits: PursuitLimits = NO_LIMITS) -> None:
        self.folders: dict[str, Path] = {}
        number_of_dictionaries = 0
        for folder in folders:
            number_of_dictionaries += len(dictionaries(folder))  # raises for what is not a run
            name = plain = folder.resolve().name
            number = 2
            while name in self.folders:
                name, number = f"{plain}-{number}", number + 1
            self.folders[name] = folder
        self._limits = limits.shared_by(number_of_dictionaries)
        self._cache = Cache()

    def folder(self, run: str) -> Path:
        """Return the folder of a run. Raises `MissingError` if no run has that name."""
        if run not in self.folders:
            raise MissingError(f"no run {run!r} here: use one of {', '.join(self.folders)}")
        return self.folders[run]

    def record(self, run: str) -> Mapping[str, Any]:
        """Return the contents of a run's run.json. Raises `StoreError` if it is damaged or missing."""
        file = self.folder(run) / "run.json"
        return self._cache.get(("record", run), [file], lambda: read_json(file, RUN_FORMAT))

    def sites(self, run: str) -> dict[Site, Path]:
        """Return the folder of each dictionary of a run. Raises `StoreError` if the run is damaged."""
        return dictionaries(self.folder(run))

    def metrics(self, run: str, site: Site) -> Mapping[str, Any] | None:
        """Return the figures that `itda evaluate` kept for a site, or None. Raises `StoreError` if they are damaged."""
        file = self.sites(run)[site] / "metrics.json"
        return read_json(file, METRICS_FORMAT) if file.exists() else None

    def dictionary(self, run: str, site: str) -> IndexedDictionary:
        """Return a dictionary with its index. Raises `MissingError` for a site that is not there, or `StoreError`."""
        parsed, folders = Site.parse(site), self.sites(run)
        if parsed not in folders:
            raise MissingError(f"{run} has no {site}: use one of {', '.join(str(each) for each in folders)}")
        folder = folders[parsed]
        root = self.folder(run)
        files = [folder / "config.json", folder / "atoms.safetensors", folder / "labels.parquet"]
        files += [folder / name for name in FILES_THAT_MAY_LACK]
        files += [root / "index" / "index.json", root / "index" / f"{parsed}.safetensors"]
        return self._cache.get(
            ("dictionary", run, parsed), files, lambda: _dictionary(root, folder, parsed, self._limits)
        )


def _dictionary(run: Path, folder: Path, site: Site, limits: PursuitLimits) -> IndexedDictionary:
    dictionary = replace(load_dictionary(folder), limits=limits)
    try:
        index = CodeIndex.open(run, site)
    except StoreError as error:
        return IndexedDictionary(dictionary, None, str(error))
    if index.atoms != len(dictionary):
        return IndexedDictionary(dictionary, None, f"the index is of another dictionary: run `itda index {run}` again")
    return IndexedDictionary(dictionary, index, None)


def by_key(labels: Labels, by_end: bool) -> dict[tuple[str, int], int]:
    """Map each label to its atom; the key is (document, position), or (document, end of the token) if `by_end`."""
    ends = labels.char_end if by_end else labels.position
    return {key: atom for atom, key in enumerate(zip(labels.document.tolist(), ends.tolist(), strict=True))}
