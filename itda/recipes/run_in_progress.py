"""A run that is being made: its folder holds what it takes to go on after a kill at any moment.

    RUN/unfinished.json     the settings, and what the bits depend on: model, corpus, versions
        checkpoints/        the newest two states (`itda.store.checkpoints`)
        log.jsonl           as in a finished run

A dictionary's folder appears there when it is whole, and run.json when all are; then the rest is removed.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from itda import config as settings
from itda.checks import check_free, check_resumable
from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.core.tokens import Tokens
from itda.core.training.state import TrainingState
from itda.errors import StoreError
from itda.files import (
    FORMAT_VERSION,
    RUN_FORMAT,
    explained,
    is_full,
    locked,
    read_json,
    replaced_folder,
    write_json,
    write_whole,
)
from itda.recipes.runs import Run, open_run
from itda.resolving import from_record, to_record
from itda.store.checkpoints import Checkpoint, latest_checkpoint, write_checkpoint
from itda.store.dictionaries import write_dictionary, write_tokens
from itda.store.records import UNFINISHED
from itda.version import __version__

CHECKPOINTS, LOG = "checkpoints", "log.jsonl"
UNFINISHED_FORMAT = "itda-unfinished-run"

THREADS = "threads"
"""The number of threads of torch: another may split a product otherwise, so a run keeps its own."""

COST = 0.02
"""The share of the time that checkpoints may take."""


class Stopped(KeyboardInterrupt):
    """The user stopped a run, and it was kept."""


class RunInProgress:
    """The folder of a run that is being made."""

    def __init__(self, folder: Path, options: settings.Train, about: Mapping[str, Any] | None) -> None:
        self.folder, self.options = folder, options
        self.about = about
        """Values that the bits depend on besides the settings; None until they are known."""

    @staticmethod
    @contextmanager
    def begun(folder: Path, options: settings.Train) -> Iterator[RunInProgress]:
        """A new one, which is removed if it fails before there is anything to keep. Raises `StoreError`."""
        check_free(folder)
        with explained(f"write {folder}", "name a folder that can be written"):
            try:
                folder.mkdir(parents=True)
            except FileExistsError as error:
                raise StoreError(f"{folder} exists already: name another folder, or remove it") from error
        run = RunInProgress(folder, options, None)
        with locked(folder, "made"):
            try:
                run._write()
                yield run
            except BaseException:
                if not run.has_checkpoint and (folder / UNFINISHED).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    @staticmethod
    @contextmanager
    def resumed(folder: Path) -> Iterator[RunInProgress]:
        """One that was left, which nobody else may go on with meanwhile. Raises `StoreError`."""
        check_resumable(folder)
        with locked(folder, "made"):
            yield RunInProgress.read(folder)

    @staticmethod
    def read(folder: Path) -> RunInProgress:
        """One that was left. Raises `StoreError` if there is none, or it is another itda's."""
        if (folder / "run.json").exists():
            raise StoreError(f"{folder} is finished: nothing to resume")
        check_resumable(folder)
        record = read_json(folder / UNFINISHED, UNFINISHED_FORMAT)
        try:
            options = from_record(record["settings"])
        except TypeError as error:
            raise StoreError(f"{folder} was begun by another version of itda: install that, or begin anew") from error
        if record["about"] is not None:
            torch.set_num_threads(record["about"][THREADS])
        return RunInProgress(folder, options, record["about"])

    @property
    def has_checkpoint(self) -> bool:
        """True if there is a checkpoint to go on from."""
        return any((self.folder / CHECKPOINTS).glob("checkpoint-*"))

    @property
    def pinned(self) -> settings.Train:
        """The settings, at the commits that the run was begun with where these are known: branches move."""
        about = self.about or {}
        model = about.get("revision") or self.options.revision
        corpus = about.get("corpus_revision") or self.options.dataset_revision
        return replace(self.options, revision=model, dataset_revision=corpus)

    @property
    def remedy(self) -> str:
        """Return the command that goes on with the run."""
        return f"itda train --resume {self.folder}"

    def check(self, about: Mapping[str, Any]) -> None:
        """Note what the bits depend on, or compare it with what was noted.

        Raises `StoreError` for what has changed: nothing is written then.
        """
        about = {**about, "versions": versions(), THREADS: torch.get_num_threads()}
        if self.about is None:
            self.about = about
            self._write()
            return
        was, now = _flat(self.about), _flat(json.loads(json.dumps(about)))
        # What an earlier itda did not note yet is not known to have changed, nor what this one no longer notes. It said
        # "not installed" for its own version in a checkout.
        for name in [each for each in was if each in now and was[each] != "not installed"]:
            if was[name] != now[name]:
                raise StoreError(
                    f"{_said(name)} was {_short(was[name])} when {self.folder} was begun, and is "
                    f"{_short(now[name])} now: bring it back, or begin anew in another folder"
                )

    def latest(self) -> Checkpoint | None:
        """The state to go on from; None for the beginning. Raises `StoreError` if all that there is is damaged."""
        return latest_checkpoint(self.folder / CHECKPOINTS)

    def write(self, record: Mapping[str, Any], training_states: Mapping[str, TrainingState]) -> None:
        """Write a checkpoint. Raises `StoreError`; the one before stays."""
        # Without a checkpoint the folder goes when this fails: there is nothing to resume.
        then = f"then go on with {self.remedy}" if self.has_checkpoint else "then run the same command again"
        write_checkpoint(self.folder / CHECKPOINTS, record, training_states, remedy=then)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Raises `StoreError`, with how to go on, if there is no space to write."""
        try:
            yield
        except Exception as error:
            if not is_full(error):
                raise
            then = f"go on with {self.remedy}" if self.has_checkpoint else "run the same command again"
            raise StoreError(f"no space to write {self.folder}: free some, then {then}") from error

    @contextmanager
    def log(self, seen: int) -> Iterator[Callable[[str], Any]]:
        """Appends lines to the log, without those that were written after `seen` tokens."""
        path, lines = self.folder / LOG, []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # the last one may be cut short
                    lines += [line] if json.loads(line)["tokens"] <= seen else []
        write_whole(path, "".join(f"{line}\n" for line in lines), alone=True)
        with path.open("a", encoding="utf-8", buffering=1) as file:  # line by line, for those who look on
            yield file.write

    def place_for(self, name: str) -> AbstractContextManager[Path]:
        """A folder that becomes `name` in the run when it is whole, in place of one from before a kill."""
        return replaced_folder(self.folder / name)

    def keeper(self) -> Keeper:
        """Return what says when to write checkpoints."""
        return Keeper(self.options.checkpoint_every)

    def finish(self, record: Mapping[str, Any], made: Mapping[Site, ITDA], tokens: Tokens) -> Run:
        """Write the dictionaries, then run.json, which makes it a run, and remove what was for going on."""
        for site, dictionary in made.items():
            with self.place_for(str(site)) as folder:
                write_dictionary(dictionary, folder)
        write_tokens(tokens, self.folder / "tokens.parquet")
        write_json(self.folder / "run.json", record)
        tidy(self.folder)
        return open_run(self.folder)

    def _write(self) -> None:
        values = {"format": UNFINISHED_FORMAT, "format_version": FORMAT_VERSION}
        values |= {"settings": to_record(self.options), "about": self.about}
        with explained(f"write {self.folder}", "name a folder that can be written"):
            write_json(self.folder / UNFINISHED, values)


def tidy(folder: Path) -> None:
    """Remove what a finished run had for going on."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / UNFINISHED).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Return True if a folder holds a whole run, and remove what it had for going on."""
    if not (folder / "run.json").exists():
        return False
    read_json(folder / "run.json", RUN_FORMAT)
    tidy(folder)
    return True


class Keeper:
    """Says when to write checkpoints: so often that little is lost, so seldom that they cost little.

    Within its context Ctrl-C, and SIGTERM, which clusters send before they kill, ask for one more and for the end; a
    second Ctrl-C is not waited for.
    """

    def __init__(self, every: float, *, listens: bool = True) -> None:
        self._every, self._wait, self._listens = every, every, listens
        self._last = time.monotonic()
        self.stopping = False
        self.seconds = 0.0
        """Spent on checkpoints."""
        self.written = 0

    @property
    def due(self) -> bool:
        """True if it is time for a checkpoint."""
        return self.stopping or time.monotonic() - self._last >= self._wait

    def save(self, write: Callable[[], None]) -> None:
        """Write a checkpoint, and note how long that took."""
        started = time.monotonic()
        write()
        self._last = time.monotonic()
        self.seconds += self._last - started
        self.written += 1
        # The first one's cost was unknown: what it took too much, the time to the next makes up for.
        self._wait = max(self._every, (self._last - started) / COST)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this, signals are requests."""
        if not self._listens or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._asked) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _asked(self, number: int, _frame: object) -> None:
        if self.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stopping = True


def versions() -> dict[str, str]:
    """Name the versions of the libraries that decide the bits of a run."""
    names = ("torch", "transformers", "tokenizers", "numpy")
    return {"itda": __version__, **{name: version(name) for name in names}, "python": platform.python_version()}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name} {inner}": each for inner, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _said(name: str) -> str:
    return {
        "fingerprint": "the corpus",
        "model_fingerprint": "the model",
        "revision": "the commit of the model",
        "tokenizer": "the tokenizer",
        "activations": "the folder of activations",
    }.get(name, name)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:8]}…"
