"""`itda replicate`: which atoms of a run come back when its dictionaries are made anew from other documents.

Since all activations pass by, it also keeps the nearest ones of each atom, if `itda index` has not found them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from itda import config as settings
from itda.checks import check_replicable
from itda.core.labels import Labels
from itda.core.nearest import Nearest
from itda.core.replication import NOT_FOUND_AGAIN, Replication, half_of
from itda.core.site import Site
from itda.core.tokens import TokenLog, Tokens
from itda.errors import StoreError
from itda.files import FORMAT_VERSION, empty_folder, explained, locked, read_json, sha256_of, write_json, write_whole
from itda.recipes.activation_source import closing_of, cluster_of, open_model
from itda.recipes.harvest import fill_gaps
from itda.recipes.replication_draws import SiteDraws
from itda.recipes.run_model import find_model
from itda.recipes.runs import Bar, Run, Say, corpus_of, limits_of, no_bar, open_run, unsaid
from itda.resolving import from_record
from itda.sources.shards.files import MANIFEST, Manifest
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter
from itda.sources.source import ModelSource
from itda.store.dictionaries import model_card
from itda.store.nearest import FILE as NEAREST_FILE
from itda.store.nearest import write_nearest
from itda.store.replication import write_replication

PARTIAL = ".replication.partial"
"""The folder in the run of the activations and of the draws so far; it goes when all is done."""
SETTINGS_FORMAT = "itda-replication-settings"
RECORD, RECORD_FORMAT = "replication.json", "itda-replication-record"
"""The file in the run that says how its replication was found."""


@dataclass(frozen=True)
class Replicated:
    """The replication of each dictionary of a run, with the labels of its atoms."""

    folder: Path
    sites: Mapping[Site, Replication]
    labels: Mapping[Site, Labels]
    documents: int
    """Number of documents that the run read."""
    tokens: int
    new: bool
    """False if it was on disk already."""


def replicate(options: settings.Replicate, bar: Bar = no_bar, say: Say = unsaid) -> Replicated:
    """`itda replicate`: find out which atoms come back over dictionaries of halves of the documents.

    The model is read once; its activations are kept in a hidden folder of the run until the end. Goes on where a killed
    process with the same settings was; does nothing if all is there already. `say` is told what the user should know.
    Raises an `ItdaError` for bad input.
    """
    run = open_run(options.run)
    check_replicable(run, options)
    asked = _asked(run, options)
    with locked(run.folder, "replicated"):
        if (found := _existing(run, asked)) is not None:
            return found
        tokens = run.tokens()
        _check_halves(run, tokens, options)
        folder = run.folder / PARTIAL
        with explained(f"write in {run.folder}", "free some space, or make the folder writable"):
            source = _activations(run, options, folder, asked, bar, say)
            _check_same_tokens(run, source, tokens)
            found = _draws(run, options, source, tokens, folder, bar)
            for site, (replication, nearest) in found.items():
                _keep(run, site, replication, nearest)
            write_json(run.folder / RECORD, {"format": RECORD_FORMAT, "format_version": FORMAT_VERSION, **asked})
            shutil.rmtree(folder, ignore_errors=True)
    return _result(run, {site: replication for site, (replication, _) in found.items()}, new=True)


def _asked(run: Run, options: settings.Replicate) -> dict[str, Any]:
    """Return what the result depends on, as JSON values: if these differ from those on disk, it is made anew."""
    return {
        "draws": options.draws,
        "cosine": options.cosine,
        "seed": options.seed,
        "batch_size": options.batch_size or int(run.record["batch_size"]),
        "settings": {"device": options.device, "dtype": options.dtype},
        "sites": {str(site): sha256_of(folder / "atoms.safetensors") for site, folder in run.sites.items()},
    }


def _existing(run: Run, asked: Mapping[str, Any]) -> Replicated | None:
    """Return what is on disk if it was made with these settings of these dictionaries, else None."""
    try:
        record = read_json(run.folder / RECORD, RECORD_FORMAT)
        if any(record.get(name) != value for name, value in asked.items()):
            return None
        made = {site: run.dictionary(site) for site in run.sites}
        found = {site: each.replication for site, each in made.items() if each.nearest is not None}
    except StoreError:
        return None
    whole = {site: each for site, each in found.items() if each is not None}
    return _result(run, whole, new=False) if len(whole) == len(run.sites) else None


def _result(run: Run, found: Mapping[Site, Replication], *, new: bool) -> Replicated:
    labels = {site: run.dictionary(site).labels for site in found}
    tokens = run.tokens()
    return Replicated(run.folder, found, labels, len(tokens.documents), len(tokens), new)


def _check_halves(run: Run, tokens: Tokens, options: settings.Replicate) -> None:
    """Raises `StoreError` for a run whose documents have no halves that its dictionaries could be made of."""
    documents, counts = tokens.documents, tokens.per_document
    if len(documents) < 2:
        raise StoreError(f"{run.folder} read one document, which cannot be split: train it on more documents")
    atoms = int(run.record["settings"].get("atoms") or 0)
    for draw in range(options.draws):
        first = half_of(documents, counts, seed=options.seed, draw=draw)
        least = min(int(counts[first].sum()), int(counts[~first].sum()))
        if least < atoms:
            has = f"half of the documents of {run.folder} have {least:,} tokens"
            raise StoreError(f"{has}, fewer than its {atoms:,} atoms: train it on more text")


def _is_begun(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Return True if a process that was killed has left something in the folder that was asked for the same."""
    try:
        kind = {"format": SETTINGS_FORMAT, "format_version": FORMAT_VERSION}
        return read_json(folder / "settings.json", SETTINGS_FORMAT) == {**kind, **asked}
    except StoreError:  # there is none
        return False


def _begin(folder: Path, asked: Mapping[str, Any]) -> None:
    """Empty the folder, and note what it is for."""
    empty_folder(folder)
    write_json(folder / "settings.json", {"format": SETTINGS_FORMAT, "format_version": FORMAT_VERSION, **asked})


def _activations(
    run: Run, options: settings.Replicate, partial_folder: Path, asked: Mapping[str, Any], bar: Bar, say: Say
) -> ShardSource:
    """Return the activations that the run was made from: those on disk if they are still there, else the model's."""
    sites, tokens, folder = list(run.sites), int(run.record["tokens"]), partial_folder / "activations"
    begun, kept = _is_begun(partial_folder, asked), run.record["settings"].get("activations")
    if kept is not None and (Path(kept) / MANIFEST).exists():
        source = ShardSource(kept, sites, tokens=tokens)
        if not begun:
            _begin(partial_folder, asked)
        return source
    if begun and (folder / MANIFEST).exists() and Manifest.read(folder).complete:
        return ShardSource(folder)
    corpus = corpus_of(run, None, options, "read", say)
    where = find_model(run.folder, run.record, options, say)
    if not begun:
        _begin(partial_folder, asked)
    with (
        cluster_of(options) as cluster,
        closing_of(open_model(where.name, where.options, where.revision, cluster)) as model,
    ):
        source = partial(
            ModelSource,
            model,
            corpus,
            sites,
            window=int(run.record["window"]),
            batch_size=options.batch_size or int(run.record["batch_size"]),
            bos=run.bos,
        )
        about = {"run": str(run.folder), "revision": model.revision, "dtype": model.dtype, "device": model.device}
        with (
            ShardWriter(folder, about, sites, model.d_model, model.dtype) as writer,
            bar("read", tokens) as progress,
        ):
            progress.update(writer.tokens)
            fill_gaps(writer, source, tokens, progress)
            writer.finish()
    return ShardSource(folder)


def _check_same_tokens(run: Run, source: ShardSource, tokens: Tokens) -> None:
    """Raises `StoreError` unless the activations are of the very tokens that the run read."""
    log = TokenLog()
    for batches in source:  # the files are compared with their hashes on the way
        log.add(batches[source.sites[0]].labels)
    read = log.table()
    columns = ("document", "position", "char_end")
    if read.documents != tokens.documents or not all(
        np.array_equal(getattr(read, name), getattr(tokens, name)) for name in columns
    ):
        raise StoreError(
            f"{source.folder} has other tokens than {run.folder} read: put the model, the corpus and the activations "
            "back as they were"
        )


def _draws(
    run: Run, options: settings.Replicate, source: ShardSource, tokens: Tokens, folder: Path, bar: Bar
) -> dict[Site, tuple[Replication, Nearest | None]]:
    """Make the dictionaries of the halves that are not on disk yet, and join what was found of each site.

    The nearest activations are found only where the site has none yet.
    """
    training = from_record(dict(run.record["settings"]))
    training = replace(training, memory=options.memory)
    found: dict[Site, tuple[Replication, Nearest | None]] = {}
    wanted = [site for site, each in run.sites.items() if not (each / NEAREST_FILE).exists()]
    with bar("replicate", (options.draws * len(run.sites) + len(wanted)) * len(tokens)) as progress:
        for site in run.sites:
            dictionary = run.dictionary(site, limits_of(options))
            one = ShardSource(source.folder, [site], source.tokens, verify=False)
            of_site = SiteDraws(site, dictionary, training, one, tokens, options.cosine, options.seed)
            nearest = of_site.nearest(progress) if site in wanted else None
            found[site] = of_site.replication(options.draws, folder, progress), nearest
    return found


def _keep(run: Run, site: Site, replication: Replication, nearest: Nearest | None) -> None:
    """Write what was found of one dictionary into its folder, and say it on its card."""
    if nearest is not None:
        write_nearest(nearest, run.sites[site], synced=True)
    write_replication(replication, run.sites[site], synced=True)
    write_whole(run.sites[site] / "README.md", model_card(run.dictionary(site)))


def replication_values(made: Replicated) -> dict[str, Any]:
    """Return what was found as JSON values: of each site the summary, and of each atom its numbers and label."""
    sites = {}
    for site, found in made.sites.items():
        labels = made.labels[site]
        atoms = [
            {
                "atom": atom,
                "replication": share,
                "cosines": [float(each) for each in found.cosines[atom]],
                "readout": None if readout != readout else readout,
                "replicates": share >= NOT_FOUND_AGAIN,
                "document": labels[atom].document,
                "position": labels[atom].position,
                "token": labels[atom].token,
            }
            for atom, (share, readout) in enumerate(zip(found.share.tolist(), found.readout.tolist(), strict=True))
        ]
        sites[str(site)] = {**found.summary(), "atoms": atoms}
    about = {"run": str(made.folder), "new": made.new, "documents": made.documents, "tokens": made.tokens}
    return {**about, "sites": sites}
