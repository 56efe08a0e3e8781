"""Run folders as the explorer sees them: read when asked for, kept while their files stay as they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.errors import MissingError, SettingError, StoreError
from itda.explorer.code_index import CodeIndex
from itda.files import METRICS_FORMAT, RUN_FORMAT, read_json
from itda.store.dictionaries import load_dictionary
from itda.store.records import dictionaries

T = TypeVar("T")


class Cache:
    """Values made from files or other objects, made anew when one of those has changed."""

    def __init__(self) -> None:
        self._values: dict[object, tuple[object, Any]] = {}
        self._locks: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: object, sources: Sequence[object], make: Callable[[], T]) -> T:
        """The value of a key; `make` is called once for each state of the sources, whoever asks at the same time."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            state = [_state(source) for source in sources]
            if key not in self._values or self._values[key][0] != state:
                self._values.pop(key, None)  # the old one may be large
                self._values[key] = (state, make())
            return self._values[key][1]


def _state(source: object) -> object:
    if not isinstance(source, Path):
        return source
    try:
        found = source.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A dictionary with what its pages need again and again."""

    model: ITDA
    index: CodeIndex | None
    """None where there is none, or none that can be used."""
    index_trouble: str | None
    """Why there is none, for people."""

    @cached_property
    def shown(self) -> list[tuple[str, str, str]]:
        """Of each atom the end of what is before its token, the token, and the start of what is after."""
        return [(label.before[-BEFORE:], label.token, label.after[:AFTER]) for label in self.model.labels]


BEFORE, AFTER = 120, 48
"""Characters of an atom's own prompt that lists show, and that a search looks at."""


class Opened:
    """The runs of one explorer by their names: the folders' own, with a number where two are the same."""

    def __init__(self, folders: Sequence[Path]) -> None:
        if not folders:
            raise SettingError("no run to explore: name one or more run folders")
        self.folders: dict[str, Path] = {}
        for folder in folders:
            dictionaries(folder)  # raises for what is not a run
            name = plain = folder.resolve().name
            number = 2
            while name in self.folders:
                name, number = f"{plain}-{number}", number + 1
            self.folders[name] = folder
        self._cache = Cache()

    def folder(self, run: str) -> Path:
        """The folder of a run. Raises `MissingError`."""
        if run not in self.folders:
            raise MissingError(f"no run {run!r} here: there is {', '.join(self.folders)}")
        return self.folders[run]

    def record(self, run: str) -> Mapping[str, Any]:
        """What run.json says. Raises `StoreError`."""
        file = self.folder(run) / "run.json"
        return self._cache.get(("record", run), [file], lambda: read_json(file, RUN_FORMAT))

    def sites(self, run: str) -> dict[Site, Path]:
        """The dictionaries of a run. Raises `StoreError`."""
        return dictionaries(self.folder(run))

    def metrics(self, run: str, site: Site) -> Mapping[str, Any] | None:
        """What `itda evaluate` measured, or None. Raises `StoreError`."""
        file = self.sites(run)[site] / "metrics.json"
        return read_json(file, METRICS_FORMAT) if file.exists() else None

    def dictionary(self, run: str, site: str) -> Dictionary:
        """A dictionary with its index. Raises `MissingError` for a site that the run lacks, `StoreError` if damaged."""
        parsed, folders = Site.parse(site), self.sites(run)
        if parsed not in folders:
            raise MissingError(f"{run} has no {site}: it has {', '.join(str(each) for each in folders)}")
        folder = folders[parsed]
        root = self.folder(run)
        files = [folder / "config.json", folder / "atoms.safetensors", folder / "labels.parquet"]
        files += [root / "index" / "index.json", root / "index" / f"{parsed}.safetensors"]
        return self._cache.get(("dictionary", run, parsed), files, lambda: _dictionary(root, folder, parsed))


def _dictionary(run: Path, folder: Path, site: Site) -> Dictionary:
    model = load_dictionary(folder)
    try:
        index = CodeIndex.open(run, site)
    except StoreError as error:
        return Dictionary(model, None, str(error))
    if index.atoms != len(model):
        return Dictionary(model, None, f"the index is of another dictionary: run `itda index {run}` again")
    return Dictionary(model, index, None)


def by_key(labels: Labels, by_end: bool) -> dict[tuple[str, int], int]:
    """The atom of each label: by document and position, or by document and end of the token."""
    ends = labels.char_end if by_end else labels.position
    return {key: atom for atom, key in enumerate(zip(labels.document.tolist(), ends.tolist(), strict=True))}
