"""`itda index`: the code index of a run, that is the codes of a corpus by token and by atom.

Since all activations pass by, the nearest ones of each atom are kept too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.checks import check_index_batch
from itda.core.arithmetic import ARITHMETIC
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.nearest import NEAREST
from itda.errors import CorpusError, StoreError
from itda.explorer.code_index import FOLDER, INDEX_FORMAT, CodeIndex, sample
from itda.explorer.code_index_writer import (
    PARTIAL,
    PartRecord,
    emptied,
    merge,
    parts_of,
    publish,
)
from itda.explorer.indexing import PartWriter, most_in_flight
from itda.files import (
    DICTIONARY_FORMAT,
    FORMAT_VERSION,
    explained,
    finish_replacing,
    locked,
    read_json,
    sha256_of,
    write_json,
)
from itda.recipes.activation_source import closing_of, cluster_of, open_model
from itda.recipes.run_in_progress import versions
from itda.recipes.run_model import find_model
from itda.recipes.runs import Bar, Progress, Run, Say, corpus_of, limits_of, no_bar, now_and_then, open_run, unsaid
from itda.resolving import check_elsewhere
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.source import ModelSource
from itda.sources.tokenizing.partial_characters import partial_bytes
from itda.store.nearest import FILE as NEAREST_FILE
from itda.store.nearest import write_nearest
from itda.store.records import chosen_site

SETTINGS_FORMAT = "itda-index-settings"
PARTS = 3
"""The version of the format of parts: parts of another version, left by an older itda, are made anew."""


@dataclass(frozen=True)
class SiteIndex:
    """A summary of the code index of one site."""

    atoms: int
    """Number of atoms."""
    unused: int
    """Number of atoms that no indexed token uses."""
    codes: int
    """Number of entries of all codes together, those of massive tokens left out."""
    explained: float
    """Share of a token's energy that its code explains, 1 - error: the mean over tokens that are not massive."""
    massive: int = 0
    """Number of massive tokens; their codes do not count as uses of atoms."""


@dataclass(frozen=True)
class Indexing:
    """The code index of a run, whole on disk."""

    folder: Path
    record: Mapping[str, Any]
    """The contents of index.json."""
    sites: Mapping[Site, SiteIndex]
    new: bool
    """False if the index was on disk already."""


def index_run(options: settings.Index, bar: Bar = no_bar, say: Say = unsaid) -> Indexing:
    """`itda index`: encode a corpus with a run's dictionaries and keep the codes in RUN/index.

    Goes on where a killed process with the same settings was; does nothing if the index is there already. Another
    index is replaced, once the new one is whole. `say` is told what the user should know. Raises an `ItdaError` for bad
    input.
    """
    run = open_run(options.run)
    sites = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    sites = [site for site in run.sites if site in sites]
    check_elsewhere(options)
    check_index_batch(options.batch_size)
    corpus = corpus_of(run, options.corpus, options, "read", say)
    asked = _asked(run, options, corpus, sites)
    where = find_model(run.folder, run.record, options, say)
    with locked(run.folder, "indexed"):
        finish_replacing(run.folder / FOLDER)
        record = _existing(run, asked, sites, where.options.dtype, where.changed)
        if record is not None:
            return Indexing(run.folder / FOLDER, record, _summaries(run, sites), new=False)
        with (
            cluster_of(options) as cluster,
            closing_of(open_model(where.name, where.options, where.revision, cluster)) as model,
        ):
            dictionaries = run.dictionaries(limits_of(options), sites)
            source = partial(
                ModelSource,
                model,
                corpus,
                sites,
                window=asked["window"],
                batch_size=asked["batch_size"],
                tokens=asked["tokens_asked"],
                bos=run.bos,
                most_in_flight=most_in_flight(dictionaries),
            )
            about = {**asked, **_made_by(run, model, where.changed)}
            record = write_index(run.folder, dictionaries, source, about, bar)
    return Indexing(run.folder / FOLDER, record, _summaries(run, sites), new=True)


def write_index(
    run: Path,
    dictionaries: Mapping[Site, ITDA],
    source: Callable[..., ModelSource],
    about: Mapping[str, Any],
    bar: Bar = no_bar,
) -> dict[str, Any]:
    """Encode the activations of a source, and replace the index in the folder `run` by that of their codes.

    The nearest activations of each atom are written into the folders of the dictionaries.

    `source` is called with the number of activations to `skip`: those that a killed process has encoded, whose
    `about`, JSON values, was the same. Returns what index.json says. Raises `CorpusError` if there is no token,
    `StoreError` if something cannot be written.
    """
    parts_folder, tokens = run / PARTIAL, int(about["tokens_asked"])
    _prepare(parts_folder, about)
    with bar("index", tokens) as progress:
        reading, writer = _encoded(parts_folder, dictionaries, source, progress)
    parts = parts_of(parts_folder)
    found = sum(part.tokens for part in parts)
    if found == 0:
        raise CorpusError(f"{about['corpus']} has no token to index: name another corpus with --corpus")
    started, whole = time.monotonic(), parts_folder / "whole"
    merge(parts, whole, {site: (len(each), each.k) for site, each in dictionaries.items()})
    seconds = sum(part.seconds for part in parts) + time.monotonic() - started
    in_bytes = partial_bytes(reading.windower.tokenizer)
    kind = {"format": INDEX_FORMAT, "format_version": FORMAT_VERSION}
    record = {**kind, **about, "tokens": found, "seconds": round(seconds, 3)}
    record["nearest"] = NEAREST
    record["pieces"] = {str(token): each.hex(" ").upper() for token, each in in_bytes.items()}
    write_json(whole / "index.json", record)
    with explained(f"write in {run}", "free some space, or make the folder writable"):
        for site, nearest in writer.nearest(parts).items():
            write_nearest(nearest, run / str(site), synced=True)
    publish(run, whole)
    return record


def _encoded(
    parts_folder: Path, dictionaries: Mapping[Site, ITDA], source: Callable[..., ModelSource], progress: Progress
) -> tuple[ModelSource, PartWriter]:
    """Write the parts that are not on disk yet; return the source that they were read from, and what wrote them."""
    before = parts_of(parts_folder)
    shown = done = sum(part.tokens for part in before)
    progress.update(done)
    if done:
        progress.set_postfix_str(f"{done:,} from before")
    reading, writer = source(skip=done), PartWriter(parts_folder, dictionaries, before)

    def show(parts: Iterable[PartRecord]) -> None:
        nonlocal shown
        for part in parts:
            progress.set_postfix_str(f"{part.tokens / part.seconds:,.0f} tok/s in {part.file.stem}")
        progress.update(done + writer.tokens - shown)
        shown = done + writer.tokens

    with reading.model.watched(now_and_then(progress.set_postfix_str)):
        for batches in reading:
            show(writer.add(batches))
        show(writer.finish())
    return reading, writer


def _asked(run: Run, options: settings.Index, corpus: Corpus, sites: Sequence[Site]) -> dict[str, Any]:
    """Return what the user asks for, as JSON values: if these differ from those of the old index, it is made anew."""
    return {
        "corpus": corpus.name if options.corpus is not None else run.record["corpus"],
        "corpus_part": corpus.part,
        "order": "corpus" if corpus.seed is None else f"shuffled, seed {corpus.seed}",
        "fingerprint": corpus.fingerprint,
        "tokens_asked": options.tokens if options.tokens is not None else int(run.record["tokens"]),
        "window": int(run.record["window"]),
        "batch_size": options.batch_size or int(run.record["batch_size"]),
        "settings": {"device": options.device, "dtype": options.dtype},
        "sites": {str(site): _site_record(run, site) for site in sites},
    }


def _made_by(run: Run, model: ActivationModel, changed: bool) -> dict[str, Any]:
    """Return what else the bits of the index depend on, as far as the loaded model tells."""
    return {
        "model": run.record["model"],
        "revision": model.revision,
        "changed_model": changed,
        "tokenizer": model.tokenizer_hash,
        "device": model.device,
        "dtype": model.dtype,
        "bos": run.bos,
        "versions": versions(),
        "arithmetic": ARITHMETIC,
    }


def _site_record(run: Run, site: Site) -> dict[str, Any]:
    config = read_json(run.sites[site] / "config.json", DICTIONARY_FORMAT)
    file = run.sites[site] / "atoms.safetensors"
    try:
        made = {"atoms": config["atoms"], "k": config["k"], "dictionary": sha256_of(file), "sample": sample(file)}
        # Absent where no token is massive, as in an index from before there was the rule.
        limit = config.get("massive_norm")
        return made if limit is None else {**made, "massive_norm": limit}
    except (OSError, KeyError) as error:
        raise StoreError(f"{file.parent} is damaged or incomplete: write or download it again") from error


def _existing(
    run: Run, asked: Mapping[str, Any], sites: Sequence[Site], dtype: str, changed: bool
) -> dict[str, Any] | None:
    """Return the record of the index on disk if it is whole and has what is asked for, else None."""
    try:
        record = read_json(run.folder / FOLDER / "index.json", INDEX_FORMAT)
        # An older itda took float32 where it was not said; of a changed model nobody knows which one it was.
        if dtype not in ("auto", record["dtype"]) or changed or record.get("changed_model", False):
            return None
        if any(record.get(name) != value for name, value in asked.items() if name != "sites"):
            return None
        for site in sites:
            if record["sites"].get(str(site)) != asked["sites"][str(site)]:
                return None
            CodeIndex.open(run.folder, site)
            # Not in the record of an index that an older itda made: it is used as it is.
            if "nearest" in record and not (run.sites[site] / NEAREST_FILE).exists():
                return None
    except (StoreError, KeyError, AttributeError):
        return None
    return record


def _prepare(partial: Path, wanted: Mapping[str, Any]) -> None:
    """Keep the parts that a killed process left if they were made with the same settings, else empty the folder."""
    kind = {"format": SETTINGS_FORMAT, "format_version": FORMAT_VERSION, "parts": PARTS}
    try:
        if read_json(partial / "settings.json", SETTINGS_FORMAT) == {**kind, **wanted}:
            return
    except StoreError:  # there is none
        pass
    emptied(partial)
    write_json(partial / "settings.json", {**kind, **wanted})


def _summaries(run: Run, sites: Sequence[Site]) -> dict[Site, SiteIndex]:
    found: dict[Site, SiteIndex] = {}
    for site in sites:
        index = CodeIndex.open(run.folder, site)
        explained = 1 - float(index.ordinary_errors().mean(dtype="float64")) if index.ordinary else float("nan")
        unused, codes = int((index.counts == 0).sum()), int(index.counts.sum())
        found[site] = SiteIndex(index.atoms, unused, codes, explained, len(index.massive))
    return found
