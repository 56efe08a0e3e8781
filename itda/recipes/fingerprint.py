"""`itda fingerprint`: which tokens are new to each site of a model, in one pass, as one small file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itda import config as settings
from itda.checks import check_fingerprint_source, check_free_file
from itda.core.similarity.fingerprint import DEFAULT, STEPS, FingerprintSettings, TokenNovelty
from itda.errors import CorpusError, SettingError, StoreError
from itda.files import explained, hidden, locked, make_folder
from itda.parsing import listed, parse_any_layers, parse_streams
from itda.recipes.activation_source import RecordedSource, closing_of, cluster_of, open_model, open_source
from itda.recipes.fingerprint_pass import FingerprintPass
from itda.recipes.run_in_progress import THREADS, Keeper, Stopped, versions
from itda.recipes.run_model import located
from itda.recipes.runs import Bar, Say, no_bar, now_and_then, unsaid
from itda.recipes.training_pass import read_ahead
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.store.fingerprints import Fingerprint, read_fingerprint, write_fingerprint

SO_FAR = "so-far.itda"
"""The whole segments of an unfinished fingerprint, in the hidden folder beside it."""


MADE_AGAIN_BY = ("batch_size", "device", "dtype", "trust_remote_code", "text_field", "dataset_config", "dataset_split")
MADE_AGAIN_BY += ("dataset_revision", "order", "seed", "window", "bos", "revision", "part")
"""Settings that a fingerprint keeps, to be made again by."""


def fingerprint(
    options: settings.Fingerprint,
    bar: Bar = no_bar,
    say: Say = unsaid,
    *,
    model: ActivationModel | None = None,
    corpus: Corpus | None = None,
    how: FingerprintSettings | None = None,
) -> Fingerprint:
    """`itda fingerprint`: one pass over the model; nothing is kept of the activations.

    With `options.out` it is written to that file, and what a killed process with the same settings left is gone on
    with. A `model` or a `corpus` that is in memory already is used in place of those that `options` name. `say` is told
    what the user should know. Raises an `ItdaError` for bad input, and `Stopped` on Ctrl-C.
    """
    check_fingerprint_source(options)
    how = how or replace(DEFAULT, segment=options.segment or DEFAULT.segment)
    options = located(options, model=model is None, corpus=corpus is None)
    with ExitStack() as stack:
        place = None
        if options.out is not None:
            check_free_file(options.out)
            place = stack.enter_context(_Unfinished.beside(options.out))
        cluster = stack.enter_context(cluster_of(options))
        recorded = _source(options, cluster, say, model, corpus, stack)
        about = _about(options, recorded)
        made = FingerprintPass(recorded.sites, how, tokens=options.tokens)
        if place is not None and (before := place.found(about, how)) is not None:
            made.restore(before)
            say(f"going on from {made.whole:,} tokens")
        _read(made, recorded, Keeper(options.checkpoint_every), place, about, bar)
        if made.seen == 0:
            raise CorpusError(f"{options.corpus} has no token to read: name another corpus with --corpus")
        found = made.finish(about)
        if place is not None:
            place.finish(found)
    return found


def _source(
    options: settings.Fingerprint,
    cluster: Any,
    say: Say,
    model: ActivationModel | None,
    corpus: Corpus | None,
    stack: ExitStack,
) -> RecordedSource:
    """Open what the settings name: a fingerprint reads what a run with these settings would."""
    names = ("activations", "streams", "tokens", "order", "seed", "window", "bos", "revision", "part", "batch_size")
    names += ("device", "dtype", "trust_remote_code", "text_field", "dataset_config", "dataset_split")
    names += ("dataset_revision", "stream", "model_memory", "scratch", "workers", "ray", "remote")
    chosen = {name: getattr(options, name) for name in names}
    as_run = settings.Train(model=options.model, corpus=options.corpus, layers=options.layers, **chosen)
    if options.activations is not None:
        return open_source(as_run, cluster, say)
    if model is None:
        model = open_model(options.model, as_run, options.revision, cluster)
        stack.enter_context(closing_of(model))
    as_run = replace(as_run, layers=options.layers or tuple(range(model.layers)))
    return open_source(as_run, cluster, say, model=model, corpus=corpus)


def _about(options: settings.Fingerprint, recorded: RecordedSource) -> dict[str, Any]:
    """Return the record of what makes the fingerprint, as JSON values."""
    about = {**recorded.provenance, "tokens_asked": options.tokens, "device": recorded.device, "versions": versions()}
    about |= {name: value for name, value in recorded.about.items() if name == "activations"}
    about |= {"d_model": recorded.d_model, THREADS: torch.get_num_threads()}
    if options.activations is None:
        about["settings"] = {"layers": listed(options.layers), "streams": listed(options.streams)}
        about["settings"] |= {name: getattr(options, name) for name in MADE_AGAIN_BY}
    return json.loads(json.dumps(about))


def made_by(made: Fingerprint) -> settings.Fingerprint:
    """Return the settings with which to take a fingerprint again. Raises `SettingError` if it does not know them."""
    about = made.about
    if "settings" not in about:
        raise SettingError("it was made from activations on disk: name fingerprints that are made from a model")
    known = dict(about["settings"])
    layers, streams = parse_any_layers(known.pop("layers") or "all"), parse_streams(known.pop("streams"))
    known["dataset_revision"] = about["corpus_revision"] or known["dataset_revision"]
    known["revision"] = about["revision"] or known["revision"]
    named = {"model": about["model"], "corpus": about["corpus"], "tokens": about["tokens_asked"]}
    return settings.Fingerprint(layers=layers, streams=streams, **named, **known)


def _read(
    made: FingerprintPass,
    recorded: RecordedSource,
    keeper: Keeper,
    place: _Unfinished | None,
    about: Mapping[str, Any],
    bar: Bar,
) -> None:
    """Read to the end. Raises `Stopped` if the user asks for it."""

    def keep() -> None:
        if place is not None and made.whole:
            keeper.save(partial(place.write, made.so_far(about)))

    before = made.whole
    with bar("fingerprint", made.asked) as progress, keeper.listening():
        progress.update(before)
        show = now_and_then(progress.set_postfix_str)

        def watching(leaving: Callable[[], bool]) -> Callable[[str], object]:
            def watch(block: str) -> None:
                if keeper.stopping or leaving():
                    raise _Asked
                show(block)

            return watch

        try:
            with read_ahead(recorded.model, recorded.source(before), watching) as batches:
                shown = before
                for batch in batches:
                    made.offer(batch)
                    progress.update(made.mean_seen - shown)
                    shown = made.mean_seen
                    if keeper.stopping:
                        raise _Asked
                    if keeper.due:
                        keep()
        except _Asked:
            keep()
            kept = place is not None and made.whole
            then = "the same command goes on from there" if kept else "nothing was written"
            raise Stopped(f"stopped at {made.whole:,} tokens; {then}") from None


def fingerprint_values(made: Fingerprint) -> dict[str, Any]:
    """Return what a fingerprint is, and the atoms of each site at each rung, as JSON values."""
    sites = {
        str(site): {
            "atoms": [int(found.is_atom(rung).sum()) for rung in range(len(made.settings.rungs))],
            "median_novelty": median_novelty(found),
            "massive": int(found.massive.sum()),
        }
        for site, found in made.sites.items()
    }
    return {**made.about, "tokens": len(made), **asdict(made.settings), "arithmetic": made.arithmetic, "sites": sites}


def median_novelty(found: TokenNovelty) -> float:
    """Return the median of the novelty of the tokens that were not left out, from 0 to 1; NaN if there are none."""
    kept = found.novelty[~found.massive]
    return float(np.median(kept)) / STEPS if len(kept) else float("nan")


class _Asked(Exception):  # noqa: N818 - no error
    """The user asked for the end."""


class _Unfinished:
    """The hidden folder beside a fingerprint that is being made: its whole segments, to go on from."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, hidden(path, "unfinished")

    @staticmethod
    @contextmanager
    def beside(path: Path) -> Iterator[_Unfinished]:
        """Open it for one process at a time. It goes if there is nothing in it at the end. Raises `StoreError`."""
        place = _Unfinished(path)
        with explained(f"write {path}", "name a file in a folder that can be written"):
            make_folder(place.folder)
        try:
            with locked(place.folder, "made"):
                if (found := place._read()) is not None and THREADS in found.about:
                    torch.set_num_threads(found.about[THREADS])  # another number may split a product otherwise
                yield place
        finally:
            with suppress(OSError):
                place.folder.rmdir()

    def _read(self) -> Fingerprint | None:
        return read_fingerprint(self.folder / SO_FAR) if (self.folder / SO_FAR).exists() else None

    def found(self, about: Mapping[str, Any], how: FingerprintSettings) -> Fingerprint | None:
        """Return what was made so far; None for nothing. Raises `StoreError` if it was made otherwise."""
        found = self._read()
        if found is None:
            return None
        was, now = ({**made, "settings": str(each)} for made, each in ((found.about, found.settings), (about, how)))
        for name in now:
            if was.get(name) != now[name]:
                raise StoreError(
                    f"{self.path} was begun with another {name.replace('_', ' ')} ({str(was.get(name))[:40]}, not "
                    f"{str(now[name])[:40]}): bring it back, or remove {self.folder}"
                )
        return found

    def write(self, so_far: Fingerprint) -> None:
        """Keep what is made so far."""
        write_fingerprint(so_far, self.folder / SO_FAR)

    def finish(self, fingerprint: Fingerprint) -> None:
        """Write the whole, and remove what was for going on."""
        write_fingerprint(fingerprint, self.path)
        shutil.rmtree(self.folder, ignore_errors=True)
