"""The pass of training over the activations: it offers them to the trainers, logs, and keeps checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

from itda import config as settings
from itda.core.batch import ActivationBatch, ActivationSource, Site
from itda.core.dictionary import ITDA
from itda.core.tokens import TokenLog, Tokens
from itda.core.training.state import TrainingState
from itda.errors import SettingError, StoreError
from itda.recipes.activation_source import RecordedSource, tokens_of
from itda.recipes.run_in_progress import Keeper, Stopped
from itda.recipes.runs import Bar, Progress, Run, now_and_then
from itda.recipes.trainers import Trainers
from itda.sources.ahead import ReadAhead
from itda.sources.models.base import ActivationModel
from itda.sources.streamed.model import StreamedModel
from itda.store.checkpoints import Checkpoint

LOG_EVERY_S = 1.0
TOKENS = "tokens"
"""The state of the tokens that were read, among those of the sites."""


@runtime_checkable
class RunPlace(Protocol):
    """Where a run is made: a folder (`RunInProgress`), or memory alone (`PlaceInMemory`)."""

    options: settings.Train

    @property
    def has_checkpoint(self) -> bool:
        """True if there is a checkpoint to go on from."""
        ...

    @property
    def remedy(self) -> str:
        """Say how to go on."""
        ...

    @property
    def pinned(self) -> settings.Train:
        """Return the settings, at the commits that the run was begun with."""
        ...

    def keeper(self) -> Keeper:
        """Return what says when to write checkpoints."""
        ...

    def room(self) -> AbstractContextManager[None]:
        """Within this, a full disk is one line."""
        ...

    def check(self, about: Mapping[str, Any]) -> None:
        """Raises `StoreError` if what the bits depend on has changed."""
        ...

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint to go on from."""
        ...

    def write(self, record: Mapping[str, Any], training_states: Mapping[str, TrainingState]) -> None:
        """Write a checkpoint."""
        ...

    def log(self, seen: int) -> AbstractContextManager[Callable[[str], Any]]:
        """Open the log for lines after `seen` tokens."""
        ...

    def finish(self, record: Mapping[str, Any], made: Mapping[Site, ITDA], tokens: Tokens) -> Run:
        """Keep what was made, and return it as a run."""
        ...


class _Asked(Exception):  # noqa: N818 - no error
    """The user asked for the end."""


class TrainingPass:
    """The pass over the activations: where it is, and how it is kept."""

    def __init__(self, place: RunPlace, recorded: RecordedSource, trainers: Trainers) -> None:
        self.place, self.recorded, self.trainers = place, recorded, trainers
        self.keeper = place.keeper()
        self.lead = recorded.sites[0]
        """The site whose tokens are counted: all have the same in the end."""
        self.seen = dict.fromkeys(recorded.sites, 0)
        """Activations of each site that its trainer has had."""
        self.read = TokenLog()
        self.before = 0.0
        """Seconds of the processes before this one."""
        self._at, self._counts = "", ""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far."""
        return self.before + time.monotonic() - self._started

    @property
    def tokens(self) -> int:
        """Count the activations that all sites have had, on average."""
        return sum(self.seen.values()) // len(self.seen)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises `StoreError` if it is another run's."""
        training_states = dict(checkpoint.training_states)
        try:
            self.read.restore(training_states.pop(TOKENS))
            self.trainers.restore({Site.parse(name): state for name, state in training_states.items()})
            self.seen = {Site.parse(name): number for name, number in checkpoint.record["seen"].items()}
            self.before = checkpoint.record["seconds"]
        except (KeyError, SettingError) as error:
            raise StoreError(f"{checkpoint.path} is not of this run ({error}): begin the run anew") from error

    def keep(self) -> None:
        """Write a checkpoint."""

        def write() -> None:
            training_states = {TOKENS: self.read.state()}
            training_states |= {str(site): state for site, state in self.trainers.training_states().items()}
            seen = {str(site): number for site, number in self.seen.items()}
            self.place.write({"seen": seen, "seconds": round(self.seconds, 3)}, training_states)

        self.keeper.save(write)

    def run(self, bar: Bar) -> None:
        """Read to the end. Raises `Stopped` if the user asks for it."""
        tokens = tokens_of(self.place.options)
        start = min(self.seen.values())
        # Those that a site had beyond that, from a flight in which it came before others, are not offered again.
        drop = {site: number - start for site, number in self.seen.items()}
        self._started, shown = time.monotonic(), self.tokens
        with bar("train", tokens) as progress, self.place.log(self.seen[self.lead]) as log:
            progress.update(shown)
            progress.set_postfix_str("starting; the first run of all compiles for some seconds")
            logged, self._counts = time.monotonic(), self._atoms()
            with self.keeper.listening(), self._kept_on_request(), self._reading(start, progress) as reading:
                for batches in reading:
                    fresh = self._offer(batches, drop)
                    self._counts = self._atoms()
                    progress.update(self.tokens - shown)
                    shown = self.tokens
                    progress.set_postfix_str(self._at + self._counts)
                    if time.monotonic() - logged >= LOG_EVERY_S:
                        logged = time.monotonic()
                        log(json.dumps(self._line(fresh)) + "\n")
                    if self.keeper.stopping:
                        raise _Asked
                    if self.keeper.due:
                        self.keep()
        if self.place.options.refine and self.place.has_checkpoint:
            self.keep()  # refinement may take as long as the pass

    def _offer(self, batches: Mapping[Site, ActivationBatch], drop: dict[Site, int]) -> dict[Site, ActivationBatch]:
        """Hand on what is new of some batches, and return that."""
        fresh = {site: _after(batch, drop, site) for site, batch in batches.items()}
        fresh = {site: batch for site, batch in fresh.items() if len(batch)}
        self.trainers.offer(fresh)
        for site, batch in fresh.items():
            self.seen[site] += len(batch)
        if self.lead in fresh:
            self.read.add(fresh[self.lead].labels)
        return fresh

    def _reading(
        self, start: int, progress: Progress
    ) -> AbstractContextManager[Iterable[Mapping[Site, ActivationBatch]]]:
        """Give the stream without its first activations; read ahead, where the model may run beside the trainers."""
        source = self.recorded.source(start)
        return read_ahead(self.recorded.model, source, lambda leaving: self._watching(progress, leaving))

    def _watching(self, progress: Progress, leaving: Callable[[], bool]) -> Callable[[str], object]:
        """Return what a model calls while it yields nothing: it shows what is done, and ends the pass on request.

        The model may call it in a thread of its own, so it asks nothing of the trainers.
        """
        show = now_and_then(lambda block: progress.set_postfix_str(f"{block}, {self._counts}"))

        def watch(block: str) -> None:
            if self.keeper.stopping or leaving():
                raise _Asked
            self._at = f"{block}, "
            show(block)

        return watch

    @contextmanager
    def _kept_on_request(self) -> Iterator[None]:
        """Write one more checkpoint if the user asks for the end within this. Raises `Stopped` then."""
        try:
            yield
        except _Asked:
            self.keep()
            raise Stopped(f"stopped at {self.tokens:,} tokens; go on with {self.place.remedy}") from None

    def _atoms(self) -> str:
        counts = " ".join(f"{site.short}:{size}" for site, size in self.trainers.atom_counts().items())
        return f"{counts} atoms" if counts else "atoms come at the end"

    def _line(self, batches: Mapping[Site, ActivationBatch]) -> dict[str, Any]:
        line = {"tokens": self.seen[self.lead], "tokens_per_s": round(self.tokens / self.seconds, 1)}
        counts = self.trainers.atom_counts()
        if not counts:
            return line  # nothing grows, so nothing more is known
        errors = self.trainers.errors({site: batch.activations[:64] for site, batch in batches.items()})
        return line | {
            "atoms": {str(site): size for site, size in counts.items()},
            # Of this batch's first activations, massive ones apart: enough to see where it goes.
            "mean_error": {str(site): error.mean().item() for site, error in errors.items() if len(error)},
            # Rows of the Gram matrix in memory: all, or the number of those that fit.
            "gram_rows": {str(site): rows for site, rows in self.trainers.gram_rows().items()},
        }


@contextmanager
def read_ahead(
    model: ActivationModel | None,
    source: ActivationSource,
    watching: Callable[[Callable[[], bool]], Callable[[str], object]],
) -> Iterator[Iterable[Mapping[Site, ActivationBatch]]]:
    """Give the batches of a source, which a model, if there is one, computes ahead in a thread where it may.

    What the model calls while it yields nothing is made by `watching`, of a function that says if nothing more is
    wanted of it.
    """
    if model is None:
        yield source
        return
    if not may_run_ahead(model):
        with model.watched(watching(lambda: False)):
            yield source
        return
    # The weights of a streamed model come and go on the one stream that all threads use by themselves.
    own = not isinstance(model, StreamedModel)
    reading = ReadAhead(source, device=torch.device(model.device), own_stream=own)
    with model.watched(watching(lambda: reading.leaving)), reading:
        yield reading


def may_run_ahead(model: ActivationModel) -> bool:
    """Return True if a model may run in a thread of its own: to the same bits, and so that time is saved.

    It saves time on a GPU: on a CPU both use all of its cores anyway (`benchmarks/ahead.py`). The bits are in danger
    where settings of torch are for one thread alone (autocast, a default device), or where growth sets for all threads
    a precision that the model should not have.
    """
    device = torch.device(model.device) if model.device else torch.device("cpu")
    if not model.runs_ahead or device.type == "cpu" or torch.is_autocast_enabled(device.type):
        return False
    try:
        full = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # each backend has a precision of its own
        return False
    return full and torch.get_default_device().type == "cpu"


def _after(batch: ActivationBatch, drop: dict[Site, int], site: Site) -> ActivationBatch:
    """A batch without those of its first activations that are still to be dropped."""
    number = min(drop[site], len(batch))
    if number == 0:
        return batch
    drop[site] -= number
    return ActivationBatch(batch.activations[number:], batch.labels[number:])
