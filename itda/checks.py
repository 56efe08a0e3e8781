"""Checks of a command before anything heavy is loaded: its settings, folders and paths.

With them a slip is refused at once, not after the seconds that imports of tensors and models take. The recipes check
the same again where they use it, and whatever needs a model or a corpus.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from itda import config as settings
from itda.core.effects import EffectSettings
from itda.core.replication import check_cosine, check_draws
from itda.errors import SettingError, StoreError
from itda.files import locked
from itda.resolving import check_elsewhere, check_seed, check_shape, planned, resolved
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.devices import check_device
from itda.sources.models.names import folder_of, gguf_of
from itda.store.diff_records import is_diff
from itda.store.records import UNFINISHED, RunRecord, chosen_site, open_record
from itda.terminal import is_text


def check(command: object) -> None:
    """Raises the `ItdaError` that the command would end with, as far as that needs no tensors and no network."""
    if isinstance(command, settings.ModelOptions):
        check_device(command.device)
    if isinstance(command, settings.LargeOptions):
        if command.scratch is not None and not command.scratch.is_dir():
            raise SettingError(f"no folder {command.scratch} for --scratch: make it, or name another")
    match command:
        case settings.Train():
            check_here()
            _train(command)
        case settings.Harvest():
            check_here()
            check_shape(command)
            check_seed(command)
            check_elsewhere(command)
            _local(command.model, command.corpus, command)
        case settings.Fingerprint():
            check_fingerprint(command)
        case settings.Diff():
            check_diff(command)
            _local(None, None if command.chat else command.corpus, command)
        case settings.Plan():
            check_plan(command)
            folder_of(command.model)
        case settings.Decompose():
            if command.top < 1:
                raise SettingError(f"--top is {command.top}: show at least 1 atom")
            chosen_site(_readable(command.run), command.layer)
            check_text(command.text)
            if (command.exact or command.next_token is not None) and not command.why:
                raise SettingError("--exact and --next-token say how to explain the next token: add --why")
        case settings.Steer():
            check_steer(command, _readable(command.run))
        case settings.Probe(sets="sae-probes"):
            check_probe_sets(command)
            _readable(command.run)
        case settings.Evaluate() | settings.Probe():
            run = _readable(command.run)
            if command.corpus is None and run.record["settings"]["part"] == "all":
                raise SettingError("the run was trained on all of its corpus: name another one with --corpus")
            _local(None, command.corpus, command)
        case settings.Index():
            check_index_batch(command.batch_size)
            check_elsewhere(command)
            run = _readable(command.run)
            for site in command.layer:
                chosen_site(run, site)
            _local(None, command.corpus, command)
        case settings.Replicate():
            check_replicable(_readable(command.run), command)
        case settings.Effects():
            EffectSettings(command.contexts, command.strength, command.tokens, command.seed)
            run = _readable(command.run)
            for site in command.layer:
                chosen_site(run, site)
            _local(None, command.corpus, command)
        case settings.Features():
            check_index_batch(command.batch_size)
            run = _readable(command.run)
            for site in command.layer:
                chosen_site(run, site)
            _local(None, command.corpus, command)
        case settings.Push():
            check_push(command)
            _readable(command.run)
        case settings.Import():
            if not command.path.is_dir():
                raise StoreError(f"no folder {command.path}: name the one that the released scripts wrote")
            if command.out is not None:
                check_free(command.out)
            _local(None, command.corpus, command)
        case settings.Compare():
            check_some(command.runs, "compare")
            if not are_fingerprints(command.runs):
                for folder in command.runs:
                    _readable(folder)
        case settings.Explore():
            check_some(command.runs, "explore")
            check_export(command)
            for folder in command.runs:
                if is_diff(folder) or are_fingerprints([folder]):
                    continue
                run = _readable(folder)
                if command.export is not None:
                    chosen_site(run, command.layer)
        case settings.Export():
            check_exportable(command)
        case _:
            pass


def are_fingerprints(paths: Sequence[Path]) -> bool:
    """Return True for files of fingerprints and names of the Hub, False for run folders.

    Raises `SettingError` for some of each, `StoreError` for a file that is not there.
    """
    kinds = {path: not path.is_dir() and (path.exists() or _may_be_fingerprint(path)) for path in paths}
    if len(set(kinds.values())) > 1:
        one, run = (next(path for path, kind in kinds.items() if kind == wanted) for wanted in (True, False))
        raise SettingError(
            f"{one} is a fingerprint and {run} a run: take a fingerprint of the run's model with `itda fingerprint`"
        )
    for path, kind in kinds.items():
        if kind and path.suffix == ".itda" and not path.exists():
            raise StoreError(f"no fingerprint {path}: check the path, or make one with `itda fingerprint`")
    return all(kinds.values())


def _may_be_fingerprint(path: Path) -> bool:
    """Return True if a path that is not there has the name of a fingerprint, or of a repository of the Hub."""
    name = str(path)
    return path.suffix == ".itda" or (name.count("/") == 1 and name[0] not in "./~" and not path.parent.exists())


def check_fingerprint(options: settings.Fingerprint) -> None:
    """Raises `SettingError` for settings that clash, `StoreError` for a file that cannot be made."""
    if options.out is None and options.push is None:
        raise SettingError("no file to write: name one with --out a.itda")
    if options.push is not None:
        check_repository(options.push)
    if options.out is not None:
        check_free_file(options.out)
    check_fingerprint_source(options)
    if options.activations is None:
        _local(options.model, options.corpus, options)


def check_repository(name: str) -> None:
    """Raises `SettingError` unless a name can be that of a Hub repository."""
    parts = name.split("/")
    if len(parts) != 2 or not all(re.fullmatch(r"\w[\w.-]{0,95}", part) for part in parts):
        raise SettingError(f"no repository {name!r}: name one as user/name")


def check_probe_sets(options: settings.Probe) -> None:
    """Raises `SettingError` for numbers out of range, and for settings of the other kind of probe."""
    for name in ("rows", "prompt_tokens"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise SettingError(f"--{name.replace('_', '-')} is {given}: it must be at least 1")
    if options.corpus is not None:
        raise SettingError("--corpus is for --sets python: say with --data where sae-probes is")


def check_push(options: settings.Push) -> None:
    """Raises `SettingError` unless there is a place to push to, and for settings of another place."""
    others = ("model", "set", "layer", "vectors", "new_model", "server")
    if options.to == "hub":
        for name in others:
            if getattr(options, name) not in (None, ()):
                raise SettingError(f"--{name.replace('_', '-')} is for --to neuronpedia: leave it out")
        check_repository(options.repository)
        return
    if options.repository or options.private or options.index:
        raise SettingError("a repository, --private and --index are for the Hub: leave them out of --to neuronpedia")
    check_neuronpedia(options.model, options.set)
    if options.new_model is not None and not 1 <= options.new_model <= 127:
        raise SettingError(f"--new-model is {options.new_model}: give its number of layers, from 1 to 127")
    run = _readable(options.run)
    sites = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    if options.vectors and len(sites) > 1:
        raise SettingError("--vectors are atoms of one dictionary: name its layer with --layer")
    check_indexed(options.run)


def check_fingerprint_source(options: settings.Fingerprint) -> None:
    """Raises `SettingError` unless the settings name one source of activations: a model and a corpus, or a folder."""
    check_shape(options)
    check_seed(options)
    check_elsewhere(options)
    if options.activations is not None:
        if options.model or options.corpus:
            raise SettingError("--activations has been read from a model and a corpus already: leave those out")
        check_activations(options.activations)
    elif not options.model or not options.corpus:
        missing = "model" if not options.model else "--corpus"
        raise SettingError(f"no {missing} given: itda fingerprint MODEL --corpus CORPUS --out a.itda")
    if options.tokens < 1:
        raise SettingError(f"--tokens is {options.tokens}: it must be at least 1")
    if options.segment is not None and options.segment < 2:
        raise SettingError(f"--segment is {options.segment}: it must be at least 2")


def check_diff(options: settings.Diff, *, in_memory: bool = False) -> None:
    """Raises `SettingError` for settings that clash or are missing, `StoreError` for what cannot be written.

    `in_memory` if models or texts were given as objects, so that the settings need not name any.
    """
    check_shape(options)
    check_seed(options)
    if not in_memory and not (options.base and options.changed and options.corpus):
        missing = "BASE" if not options.base else "CHANGED" if not options.changed else "--corpus"
        raise SettingError(f"no {missing} given: itda diff BASE CHANGED --layers 3,5 --corpus CORPUS")
    if not options.layers:
        raise SettingError("no layers given: name some with --layers 3,5")
    for name in (options.base, *(each for each in (options.changed, *options.control) if each)):
        folder_of(name)
    if options.out is not None:
        check_free(options.out)
    if options.export is not None:
        check_page(options.export)


def check_page(target: Path) -> None:
    """Raises `StoreError` if a page cannot be written there."""
    if target.is_dir() or not target.parent.is_dir():
        raise StoreError(f"cannot write {target}: name a file in a folder that is there")


def check_free_file(path: Path) -> None:
    """Raises `StoreError` if a new file exists already, or its folder does not."""
    if path.exists():
        raise StoreError(f"{path} exists already: name another file, or remove it")
    if not path.parent.is_dir():
        raise StoreError(f"no folder {path.parent} for {path.name}: make it, or name another")


def check_activations(folder: Path) -> None:
    """Raises `StoreError` if a folder has no activations."""
    if not (folder / "manifest.json").exists():
        raise StoreError(f"no activations in {folder}: check the path, or make them with `itda harvest`")


def check_index_batch(batch_size: int) -> None:
    """Raises `SettingError` for a negative batch size; 0 means that of the run."""
    if batch_size < 0:
        raise SettingError(f"--batch-size is {batch_size}: it must be at least 1, or 0 for that of the run")


def check_replicable(run: RunRecord, options: settings.Replicate) -> None:
    """Raises `SettingError` for settings out of range, and for a run whose dictionaries cannot be made of documents."""
    check_draws(options.draws)
    check_cosine(options.cosine)
    check_index_batch(options.batch_size)
    check_elsewhere(options)
    if run.record["settings"]["mode"] == "reference":
        raise SettingError(
            "mode reference goes through a model batch by batch: train in mode best or paper to replicate"
        )


def check_text(text: str) -> None:
    """Raises `SettingError` for a text that is empty or all white space."""
    if not text.strip():
        raise SettingError("there is no text: give one in quotes")


def check_steer(options: settings.Steer, run: RunRecord) -> None:
    """Raises `SettingError` for atoms that a run has not, nothing to steer by, and numbers out of range."""
    site = chosen_site(run, options.layer)
    atoms = run.summaries()[site].atoms
    for atom in (*options.atom, *options.ablate):
        if atom >= atoms:
            raise SettingError(f"no atom {atom}: {site} of {options.run} has {atoms}, use 0 to {atoms - 1}")
    if options.top < 1:
        raise SettingError(f"--top is {options.top}: show at least 1")
    if options.find is not None:
        if options.atom or options.ablate:
            raise SettingError("--find proposes atoms: leave out --atom and --ablate, or --find")
        check_text(options.find)
        return
    check_text(options.prompt)
    if not options.atom and not options.ablate:
        raise SettingError("there is nothing to steer by: add --atom 17, --ablate 17, or --find TEXT to propose atoms")
    if options.tokens < 1:
        raise SettingError(f"--tokens is {options.tokens}: write at least 1")
    if options.controls < 1:
        raise SettingError(f"--controls is {options.controls}: compare with at least 1")
    for place in options.at:
        if place not in ("all", "prompt", "reply") and not place.removeprefix("-").isdecimal():
            raise SettingError(f"no tokens {place!r} to steer at: use all, prompt, reply, or numbers of tokens")
    if options.seed is not None and options.seed < 0:
        raise SettingError(f"--seed is {options.seed}: give a number from 0")


def check_here() -> None:
    """Raises `SettingError` if the current folder's name is not UTF-8: records of a run contain it."""
    with suppress(OSError):  # it may have been removed
        here = Path.cwd()
        if not is_text(here):
            shown = ascii(os.fsencode(here)).removeprefix("b")
            raise SettingError(f"the name of this folder, {shown}, is not UTF-8: run itda in another one")


def check_some(runs: Sequence[Path], verb: str) -> None:
    """Raises `SettingError` if no run was named."""
    if not runs:
        raise SettingError(f"no run to {verb}: name one or more run folders")


def check_export(options: settings.Explore) -> None:
    """Raises `StoreError` if the page cannot be written, `SettingError` if it would have no atom."""
    target = options.export
    if target is None:
        return
    check_page(target)
    if options.top < 1:
        raise SettingError(f"--top is {options.top}: carry at least 1 atom")
    diffs = [path for path in options.runs if is_diff(path)]
    if diffs and len(diffs) < len(options.runs):
        other = next(path for path in options.runs if path not in diffs)
        raise SettingError(f"{diffs[0]} is a diff and {other} is not: export each to a page of its own")
    for path in options.runs:
        if path not in diffs and are_fingerprints([path]):
            raise SettingError(f"{path} is a fingerprint, and --export writes runs alone: leave --export out")


def export_folder(options: settings.Export) -> Path:
    """Return the folder that an export makes."""
    return options.out or options.run.parent / f"{options.run.resolve().name}-{options.to}"


def check_exportable(options: settings.Export) -> None:
    """Raises `SettingError` for an unknown format, or settings of another one; `StoreError` for what cannot be written.

    Among the latter are a run without an index, where the format wants one, and a folder that has something in it.
    """
    formats = ", ".join(EXPORTED)
    if options.to not in EXPORTED:
        raise SettingError(f"no format {options.to!r}: give --to with one of {formats}")
    if options.both_signs and options.to != "delphi":
        raise SettingError(f"--both-signs is for --to delphi: leave it out of --to {options.to}")
    if options.to == "neuronpedia":
        check_neuronpedia(options.model, options.set)
    elif options.model is not None or options.set is not None:
        raise SettingError(f"--model and --set are for --to neuronpedia: leave them out of --to {options.to}")
    run = _readable(options.run)
    for site in options.layer:
        chosen_site(run, site)
    if EXPORTED[options.to]:
        check_indexed(options.run)
    folder = export_folder(options)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is not empty: name another folder after the run, or remove this one")


def check_indexed(run: Path) -> None:
    """Raises `StoreError` for a run folder without an index."""
    if not (run / "index" / "index.json").exists():
        raise StoreError(f"{run} has no index: make one with `itda index {run}`")


EXPORTED = {"json": True, "parquet": True, "delphi": True, "neuronpedia": True, "saelens": False}
"""The formats of `itda export`, and whether each wants the index of the run."""

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}[a-z0-9]")
SET_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")


def check_neuronpedia(model: str | None, name: str | None) -> None:
    """Raises `SettingError` for a model's id or a name of a set of sources that Neuronpedia would refuse."""
    if model is None:
        raise SettingError("no model: give its id on Neuronpedia with --model, such as --model gpt2-small")
    if not MODEL_ID.fullmatch(model):
        raise SettingError(f"{model[:80]!r} is no model of Neuronpedia: its ids are such as gpt2-small or gemma-2-2b")
    if name is not None and (not SET_NAME.fullmatch(name) or "--" in name or name == "neurons"):
        raise SettingError(f"{name[:80]!r} is no name for --set: use lower-case letters, digits and single hyphens")


def check_plan(options: settings.Plan) -> None:
    """Raises `SettingError` for numbers out of range, such as a window of 0 tokens."""
    for name in ("window", "batch_size", "k"):
        if getattr(options, name) < 1:
            raise SettingError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("tflops", "cpu_tflops", "disk_gbps"):
        given = getattr(options, name)
        if given is not None and not 0 < given < math.inf:
            raise SettingError(f"--{name.replace('_', '-')} must be more than 0")
    planned(options)
    if options.grow_on not in ("auto", "cpu", "gpu"):
        raise SettingError(f"no place {options.grow_on!r} for dictionaries to grow on: use auto, cpu or gpu")
    if options.measure and options.assumed:
        raise SettingError("--measure and --assumed exclude each other: give one of them")


def check_free(folder: Path) -> None:
    """Raises `StoreError` if the folder of a new run exists already."""
    if (folder / UNFINISHED).exists() and not (folder / "run.json").exists():
        raise StoreError(f"{folder} is there, unfinished: go on with itda train --resume {folder}, or remove it")
    if folder.exists():
        raise StoreError(f"{folder} exists already: name another folder, or remove it")


def check_resumable(folder: Path) -> None:
    """Raises `StoreError` if the folder holds no run, whole or unfinished, to resume."""
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}: check the path, or begin the run with `itda train --out {folder}`")
    if (folder / "run.json").exists():
        return
    if not (folder / UNFINISHED).exists():
        raise StoreError(f"{folder} has no {UNFINISHED}: name a folder written by itda")


def _train(options: settings.Train) -> None:
    if options.resume is not None:
        check_resumable(options.resume)
        with locked(options.resume, "made"):  # raises at once if another process is training the run
            return
    options = resolved(options)
    if options.out is not None:
        check_free(options.out)
    if options.activations is None:
        _local(options.model, options.corpus, options)
    else:
        check_activations(options.activations)


def _readable(folder: Path) -> RunRecord:
    run = open_record(folder)
    run.summaries()
    return run


def _local(model: str | None, corpus: str | None, options: settings.CorpusOptions) -> None:
    """Check a model and a corpus that are paths on this machine; others can only be checked over the network."""
    if model is not None:
        gguf_of(model)
    if corpus is not None and (corpus.startswith((".", "~", os.sep)) or Path(corpus).expanduser().exists()):
        open_corpus(corpus, text_field=options.text_field)
