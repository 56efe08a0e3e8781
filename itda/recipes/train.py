"""`itda train`: one pass over a corpus, one dictionary per site."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.core.arithmetic import ARITHMETIC, combined
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.memory import available
from itda.core.training.centres import readings, usual_steps
from itda.core.training.refine import pass_size
from itda.core.training.settings import stride_of
from itda.errors import CorpusError, SettingError, StoreError
from itda.files import FORMAT_VERSION, RUN_FORMAT, read_json
from itda.recipes.activation_source import RecordedSource, closing_of, cluster_of, open_source, tokens_of, with_tokens
from itda.recipes.run_in_memory import PlaceInMemory
from itda.recipes.run_in_progress import RunInProgress, is_finished, versions
from itda.recipes.run_model import located
from itda.recipes.runs import Bar, Run, no_bar, open_run
from itda.recipes.trainers import LocalTrainers, Trainers, trainer_of
from itda.recipes.training_pass import RunPlace, TrainingPass
from itda.resolving import FREE, from_record, recipe_of, resolved, sized, to_record, with_free
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.names import GGUF
from itda.store.checkpoints import Checkpoint


def train(
    options: settings.Train,
    bar: Bar = no_bar,
    say: Callable[[str], object] = lambda _line: None,
    *,
    model: ActivationModel | None = None,
    corpus: Corpus | None = None,
) -> Run:
    """`itda train`: one pass over the corpus, one dictionary per site, written to a new run folder.

    A `model` or a `corpus` that is in memory already is used in place of those that `options` name. With
    `options.resume`, an unfinished run is gone on with. `say` is told what the user should know. Raises an
    `ItdaError` for bad input, and nothing is written then, and `Stopped` on Ctrl-C if the run was kept.
    """
    if options.resume is not None:
        if is_finished(options.resume):
            say(f"{options.resume} is finished")
            return open_run(options.resume)
        with RunInProgress.resumed(options.resume) as place:
            place.options = with_free(place.options, options)
            return _make(place, bar, say)
    options = _settled(options, say, model, corpus)
    out = options.out or _free_folder(options.model or str(options.activations))
    with RunInProgress.begun(out, replace(options, out=out)) as place:
        return _make(place, bar, say, model, corpus)


def train_in_memory(
    options: settings.Train,
    bar: Bar = no_bar,
    say: Callable[[str], object] = lambda _line: None,
    *,
    model: ActivationModel | None = None,
    corpus: Corpus | None = None,
) -> Run:
    """As `train`, but nothing is written: the run and its dictionaries are in memory alone."""
    options = _settled(options, say, model, corpus)
    return _make(PlaceInMemory(options, model, corpus), bar, say, model, corpus)


def _settled(
    options: settings.Train, say: Callable[[str], object], model: ActivationModel | None, corpus: Corpus | None
) -> settings.Train:
    """Return the settings with the mode's defaults; say which recipe they stand for, if it is not the default."""
    settled = located(with_tokens(resolved(options)), model=model is None, corpus=corpus is None)
    why = recipe_of(options)[1] if options.recipe is None else ""
    if why:
        say(f"recipe {settled.recipe}, because of {why}: see --recipe in itda train --help")
    return settled


def _make(
    place: RunPlace,
    bar: Bar,
    say: Callable[[str], object],
    model: ActivationModel | None = None,
    corpus: Corpus | None = None,
) -> Run:
    """Make a run, from the beginning or from where it was left."""
    options = place.options
    with ExitStack() as stack:
        stack.enter_context(place.room())
        cluster = stack.enter_context(cluster_of(options))
        recorded = open_source(place.pinned, cluster, say, model=model, corpus=corpus)
        if recorded.model is not None and recorded.model is not model:
            stack.enter_context(closing_of(recorded.model))
        place.check(recorded.about)
        options, why = sized(options, recorded.d_model)
        if why:
            say(f"{options.atoms or 0:,} atoms for each dictionary, {why}: --atoms or --threshold say otherwise")
        place.options = options
        reading = TrainingPass(place, recorded, stack.enter_context(_trainers(options, recorded, cluster)))
        checkpoint = place.latest()
        if checkpoint is not None:
            reading.restore(checkpoint)
            for line in checkpoint.skipped:
                say(f"passed over {line}")
            say(f"going on from {reading.tokens:,} tokens")
            for line in _of_two_orders(checkpoint):
                say(line)
        reading.run(bar)
        return _finish(reading, bar, why, say)


def _of_two_orders(checkpoint: Checkpoint) -> Iterator[str]:
    """Say what it means that the beginning of a run was made with another order of summation than this itda's."""
    orders = combined(*(state.arithmetic for state in checkpoint.training_states.values()), [ARITHMETIC])
    if len(orders) > 1:
        yield (
            "the run was begun by an itda that adds numbers in another order: the last bits of its dictionaries are of "
            f"orders {' and '.join(map(str, orders))}, as their config.json will say"
        )


def _finish(reading: TrainingPass, bar: Bar, why: str, say: Callable[[str], object]) -> Run:
    """Write the dictionaries and run.json, with the reason of their size if nobody gave it."""
    place, recorded, trainers = reading.place, reading.recorded, reading.trainers
    options = place.options
    seen = reading.seen[reading.lead]
    if seen == 0:
        raise CorpusError(f"{options.corpus} has no token to train on: name another corpus with --corpus")
    if options.atoms is not None and seen < tokens_of(options):
        asked = (
            f"of {tokens_of(options):,} tokens: --tokens {seen} may give more of the {options.atoms} atoms asked for"
        )
        say(f"{options.corpus or options.activations} ended after {seen:,} {asked}")
    provenance = {**recorded.provenance, "tokens": seen}
    if options.refine and options.recipe != 2:
        provenance["refinement"] = {"passes": options.refine, "min_fidelity": options.min_fidelity}
    to_refine = _refined_tokens(options, seen, recorded.d_model, trainers.atom_counts(), len(recorded.sites))
    with bar("refine", to_refine) as progress:
        parts = {site: {"mode": options.mode, "site": site, "provenance": provenance} for site in recorded.sites}
        made = trainers.finish(parts, progress.update)
    record = _record(reading, provenance | _refinement(made), made, why)
    return place.finish(record, made, reading.read.table())


def _refinement(made: Mapping[Site, ITDA]) -> dict[str, Any]:
    """Say how the atoms were refined, as run.json has it: what the dictionaries say alike."""
    said = [dictionary.provenance.get("refinement", {}) for dictionary in made.values()]
    alike = {name: value for name, value in said[0].items() if all(each.get(name) == value for each in said)}
    return {"refinement": alike} if alike else {}


def _refined_tokens(options: settings.Train, seen: int, d_model: int, atoms: Mapping[Site, int], sites: int) -> int:
    """Return how many tokens refinement goes through, for all dictionaries together."""
    rounds = options.refine or 0
    if rounds and options.recipe == 2:
        stride = stride_of(tokens_of(options), d_model, atoms=options.atoms, recipe=2, passes=rounds)
        kept = math.ceil(seen / stride)
        numbers = atoms.values() or [options.atoms or 0] * sites
        steps = [usual_steps(kept, number) if options.steps is None else options.steps for number in numbers]
        return sum(readings(rounds, each) for each in steps) * kept
    return sum(rounds * min(seen, pass_size(number, options.k)) for number in atoms.values())


def _record(reading: TrainingPass, provenance: dict[str, Any], made: Mapping[Site, ITDA], why: str) -> dict[str, Any]:
    """Return the contents of run.json."""
    recorded, trainers = reading.recorded, reading.trainers
    return {
        "format": RUN_FORMAT,
        "format_version": FORMAT_VERSION,
        "sites": [str(site) for site in recorded.sites],
        **provenance,
        "settings": {**to_record(reading.place.options), **(recorded.settings or {})},
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
        "arithmetic": list(combined(*(dictionary.arithmetic for dictionary in made.values()))),
    }


@contextmanager
def _trainers(options: settings.Train, recorded: RecordedSource, cluster: Any) -> Iterator[Trainers]:
    sites = recorded.sites
    made = {
        site: trainer_of(options, recorded.d_model, (options.memory or available()) // len(sites)) for site in sites
    }
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
        made = to_record(RunInProgress.read(folder).options)
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
