"""`itda train`: one pass over a corpus, one dictionary per site."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.core.batch import ActivationBatch, Site
from itda.core.memory import available
from itda.core.tokens import TokenLog
from itda.core.training.refine import pass_size
from itda.errors import CorpusError, SettingError, StoreError
from itda.files import FORMAT_VERSION, RUN_FORMAT, read_json
from itda.recipes.activation_source import RecordedSource, closing_of, cluster_of, open_source, tokens_of, with_tokens
from itda.recipes.run_in_progress import Keeper, RunInProgress, Stopped, is_finished, versions
from itda.recipes.run_model import located
from itda.recipes.runs import Bar, Progress, Run, no_bar, now_and_then, open_run
from itda.recipes.trainers import LocalTrainers, Trainers, trainer_of
from itda.resolving import FREE, from_record, resolved, sized, to_record, with_free
from itda.sources.models.names import GGUF
from itda.store.checkpoints import Checkpoint
from itda.store.dictionaries import write_dictionary, write_tokens

LOG_EVERY_S = 1.0
TOKENS = "tokens"
"""The state of the tokens that were read, among those of the sites."""


def train(options: settings.Train, bar: Bar = no_bar, say: Callable[[str], object] = lambda _line: None) -> Run:
    """`itda train`: one pass over the corpus, one dictionary per site, written to a new run folder.

    With `options.resume`, an unfinished run is gone on with. `say` is told what the user should know. Raises an
    `ItdaError` for bad input, and nothing is written then, and `Stopped` on Ctrl-C if the run was kept.
    """
    if options.resume is not None:
        if is_finished(options.resume):
            say(f"{options.resume} is finished")
            return open_run(options.resume)
        with RunInProgress.resumed(options.resume) as unfinished:
            unfinished.options = with_free(unfinished.options, options)
            return _make(unfinished, bar, say)
    options = located(with_tokens(resolved(options)))
    out = options.out or _free_folder(options.model or str(options.activations))
    with RunInProgress.begun(out, replace(options, out=out)) as unfinished:
        return _make(unfinished, bar, say)


def _make(unfinished: RunInProgress, bar: Bar, say: Callable[[str], object]) -> Run:
    """Make a run, from the beginning or from where it was left."""
    options = unfinished.options
    with ExitStack() as stack:
        stack.enter_context(unfinished.room())
        cluster = stack.enter_context(cluster_of(options))
        recorded = open_source(unfinished.pinned, cluster, say)
        if recorded.model is not None:
            stack.enter_context(closing_of(recorded.model))
        unfinished.check(recorded.about)
        options, why = sized(options, recorded.d_model)
        if why:
            say(f"{options.atoms or 0:,} atoms for each dictionary, {why}: --atoms or --threshold say otherwise")
        unfinished.options = options
        reading = _Reading(unfinished, recorded, stack.enter_context(_trainers(options, recorded, cluster)))
        checkpoint = unfinished.latest()
        if checkpoint is not None:
            reading.restore(checkpoint)
            for line in checkpoint.skipped:
                say(f"passed over {line}")
            say(f"going on from {reading.tokens:,} tokens")
        reading.run(bar)
        return _finish(reading, bar, why, say)


def _finish(reading: _Reading, bar: Bar, why: str, say: Callable[[str], object]) -> Run:
    """Write the dictionaries and run.json, with the reason of their size if nobody gave it."""
    unfinished, recorded, trainers = reading.unfinished, reading.recorded, reading.trainers
    options = unfinished.options
    seen = reading.seen[reading.lead]
    if seen == 0:
        raise CorpusError(f"{options.corpus} has no token to train on: name another corpus with --corpus")
    if options.atoms is not None and seen < tokens_of(options):
        asked = (
            f"of {tokens_of(options):,} tokens: --tokens {seen} may give more of the {options.atoms} atoms asked for"
        )
        say(f"{options.corpus or options.activations} ended after {seen:,} {asked}")
    provenance = {**recorded.provenance, "tokens": seen}
    if options.refine:
        provenance["refinement"] = {"passes": options.refine, "min_fidelity": options.min_fidelity}
    each_pass = sum(min(seen, pass_size(atoms, options.k)) for atoms in trainers.atom_counts().values())
    with bar("refine", (options.refine or 0) * each_pass) as progress:
        parts = {site: {"mode": options.mode, "site": site, "provenance": provenance} for site in recorded.sites}
        made = trainers.finish(parts, progress.update)
    for site, dictionary in made.items():
        with unfinished.place_for(str(site)) as folder:
            write_dictionary(dictionary, folder)
    record = {
        "format": RUN_FORMAT,
        "format_version": FORMAT_VERSION,
        "sites": [str(site) for site in recorded.sites],
        **provenance,
        "settings": {**to_record(options), **(recorded.settings or {})},
        "device": recorded.device,
        "seconds": round(reading.seconds, 3),
        "checkpoints": {"written": reading.keeper.written, "seconds": round(reading.keeper.seconds, 3)},
        "gram_rows": {str(site): rows for site, rows in trainers.gram_rows().items()},
        # Why --atoms is what it is, if nobody said.
        **({"atoms_default": why} if why else {}),
        # Atoms before the crop to --atoms.
        "found": {str(site): number for site, number in trainers.found().items()},
        # Of each site; nothing in mode reference, or with --massive off.
        "massive": {str(site): d.provenance["massive"] for site, d in made.items() if "massive" in d.provenance},
        "versions": versions(),
    }
    write_tokens(reading.read.table(), unfinished.folder / "tokens.parquet")
    unfinished.finish(record)
    return open_run(unfinished.folder)


class _Asked(Exception):  # noqa: N818 - no error
    """The user asked for the end."""


class _Reading:
    """The pass over the activations: where it is, and how it is kept."""

    def __init__(self, unfinished: RunInProgress, recorded: RecordedSource, trainers: Trainers) -> None:
        self.unfinished, self.recorded, self.trainers = unfinished, recorded, trainers
        self.keeper = Keeper(unfinished.options.checkpoint_every)
        self.lead = recorded.sites[0]
        """The site whose tokens are counted: all have the same in the end."""
        self.seen = dict.fromkeys(recorded.sites, 0)
        """Activations of each site that its trainer has had."""
        self.read = TokenLog()
        self.before = 0.0
        """Seconds of the processes before this one."""
        self._place = ""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent on the run so far."""
        return self.before + time.monotonic() - self._started

    @property
    def tokens(self) -> int:
        """How many activations all sites have had, on average."""
        return sum(self.seen.values()) // len(self.seen)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises `StoreError` if it is another run's."""
        states = dict(checkpoint.states)
        try:
            self.read.restore(states.pop(TOKENS))
            self.trainers.restore({Site.parse(name): state for name, state in states.items()})
            self.seen = {Site.parse(name): number for name, number in checkpoint.record["seen"].items()}
            self.before = checkpoint.record["seconds"]
        except (KeyError, SettingError) as error:
            raise StoreError(f"{checkpoint.path} is not of this run ({error}): begin the run anew") from error

    def keep(self) -> None:
        """Write a checkpoint."""

        def write() -> None:
            states = {
                TOKENS: self.read.state(),
                **{str(s): state for s, state in self.trainers.training_states().items()},
            }
            seen = {str(site): number for site, number in self.seen.items()}
            self.unfinished.write({"seen": seen, "seconds": round(self.seconds, 3)}, states)

        self.keeper.save(write)

    def run(self, bar: Bar) -> None:
        """Read to the end. Raises `Stopped` if the user asks for it."""
        tokens, model = tokens_of(self.unfinished.options), self.recorded.model
        start = min(self.seen.values())
        # Those that a site had beyond that, from a flight in which it came before others, are not offered again.
        drop = {site: number - start for site, number in self.seen.items()}
        self._started, shown = time.monotonic(), self.tokens
        with bar("train", tokens) as progress, self.unfinished.log(self.seen[self.lead]) as log:
            progress.update(shown)
            progress.set_postfix_str("starting; the first run of all compiles for some seconds")
            logged, watched = time.monotonic(), nullcontext()
            if model is not None:
                watched = model.watched(self._watching(progress))
            with self.keeper.listening(), self._kept_on_request(), watched:
                for batches in self.recorded.source(start):
                    fresh = {site: _after(batch, drop, site) for site, batch in batches.items()}
                    fresh = {site: batch for site, batch in fresh.items() if len(batch)}
                    self.trainers.offer(fresh)
                    for site, batch in fresh.items():
                        self.seen[site] += len(batch)
                    if self.lead in fresh:
                        self.read.add(fresh[self.lead].labels)
                    progress.update(self.tokens - shown)
                    shown = self.tokens
                    progress.set_postfix_str(self._place + self._atoms())
                    if time.monotonic() - logged >= LOG_EVERY_S:
                        logged = time.monotonic()
                        log(json.dumps(self._line(fresh)) + "\n")
                    if self.keeper.stopping:
                        raise _Asked
                    if self.keeper.due:
                        self.keep()
        if self.unfinished.options.refine and self.unfinished.has_checkpoint:
            self.keep()  # refinement may take as long as the pass

    def _watching(self, progress: Progress) -> Callable[[str], object]:
        """What a model calls that yields nothing for long: shows what is being done, and ends it on request."""
        show = now_and_then(lambda place: progress.set_postfix_str(f"{place}, {self._atoms()}"))

        def watch(place: str) -> None:
            if self.keeper.stopping:
                raise _Asked
            self._place = f"{place}, "
            show(place)

        return watch

    @contextmanager
    def _kept_on_request(self) -> Iterator[None]:
        """If it ends because the user asked for it, one more checkpoint is written. Raises `Stopped` then."""
        try:
            yield
        except _Asked:
            self.keep()
            raise Stopped(f"stopped at {self.tokens:,} tokens; go on with {self.unfinished.remedy}") from None

    def _atoms(self) -> str:
        return " ".join(f"{site.short}:{size}" for site, size in self.trainers.atom_counts().items()) + " atoms"

    def _line(self, batches: Mapping[Site, ActivationBatch]) -> dict[str, Any]:
        errors = self.trainers.errors({site: batch.activations[:64] for site, batch in batches.items()})
        return {
            "tokens": self.seen[self.lead],
            "tokens_per_s": round(self.tokens / self.seconds, 1),
            "atoms": {str(site): size for site, size in self.trainers.atom_counts().items()},
            # Of this batch's first activations, massive ones apart: enough to see where it goes.
            "mean_error": {str(site): error.mean().item() for site, error in errors.items() if len(error)},
            # Rows of the Gram matrix in memory: all, or the number of those that fit.
            "gram_rows": {str(site): rows for site, rows in self.trainers.gram_rows().items()},
        }


def _after(batch: ActivationBatch, drop: dict[Site, int], site: Site) -> ActivationBatch:
    """A batch without those of its first activations that are still to be dropped."""
    number = min(drop[site], len(batch))
    if number == 0:
        return batch
    drop[site] -= number
    return ActivationBatch(batch.activations[number:], batch.labels[number:])


@contextmanager
def _trainers(options: settings.Train, recorded: RecordedSource, cluster: Any) -> Iterator[Trainers]:
    sites = recorded.sites
    made = {site: trainer_of(options, recorded.d_model, available() // len(sites)) for site in sites}
    if cluster is None or len(sites) == 1:
        yield LocalTrainers(made)
        return
    from itda.workers.trainers import RayTrainers

    with RayTrainers(cluster, made) as trainers:
        yield trainers


def _free_folder(model: str) -> Path:
    name = Path(model.rpartition(":")[2]).name.removesuffix(GGUF) or "run"
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())


def make_room(folder: Path, options: settings.Train) -> None:
    """Remove what an earlier run with these very settings left. Raises `StoreError` if something else is there."""
    if not folder.exists():
        return
    if (folder / "run.json").exists():
        made = read_json(folder / "run.json", RUN_FORMAT).get("settings", {})
    else:
        made = to_record(RunInProgress.opened(folder).options)
    made, asked = _canonical(made), to_record(resolved(options))
    # A number of atoms that nobody asked for is in run.json all the same.
    asked = {name: value for name, value in asked.items() if name not in FREE and value is not None}
    if any(made.get(name) != value for name, value in asked.items()):
        raise StoreError(f"{folder} is not a run of the demo: name another folder with --out")
    shutil.rmtree(folder)


def _canonical(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings as this itda writes them: 200k is 200000. Empty for those of another version."""
    try:
        return to_record(from_record(recorded))
    except (TypeError, SettingError):
        return {}
