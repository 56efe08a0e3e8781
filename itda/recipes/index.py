"""`itda index`: the codes of a corpus, kept with the run by token and by atom."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from itda import config as settings
from itda.checks import check_index_batch
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.massive import massive_medians
from itda.errors import CorpusError, StoreError
from itda.explorer.code_index import FOLDER, INDEX_FORMAT, CodeIndex, sample
from itda.explorer.code_index_writer import (
    PARTIAL,
    CodePart,
    PartRecord,
    TextPart,
    emptied,
    merge,
    one_at_a_time,
    parts_of,
    publish,
    recover,
    write_part,
)
from itda.files import DICTIONARY_FORMAT, FORMAT_VERSION, read_json, write_json
from itda.recipes.run_in_progress import versions
from itda.recipes.run_model import find_model
from itda.recipes.runs import Bar, Run, Say, corpus_of, load_model, no_bar, open_run, unsaid
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.partial_characters import partial_pieces
from itda.sources.tokenizing.windows import Group, Windower, within_budget
from itda.store.records import chosen_site

BLOCK = 4096
"""Tokens, at least, that are encoded together and are a part on disk: pursuits of fewer rows are slower."""

SETTINGS_FORMAT = "itda-index-settings"
PARTS = 2
"""What is in a part: those that an older itda left are not gone on with."""

Masked = tuple[Group, Bool[Tensor, "windows tokens"]]
"""A group with those of its activations that are within the budget of tokens."""


@dataclass(frozen=True)
class SiteIndex:
    """What the index of a site says in short."""

    atoms: int
    unused: int
    """Atoms that no indexed token uses."""
    codes: int
    """Entries of all codes together, of massive tokens apart."""
    explained: float
    """The mean over tokens of 1 - error, massive ones left out."""
    massive: int = 0
    """Massive tokens, which use no atom here."""


@dataclass(frozen=True)
class Indexing:
    """An index that is there."""

    folder: Path
    record: Mapping[str, Any]
    """What index.json says."""
    sites: Mapping[Site, SiteIndex]
    new: bool
    """False if it had been there before."""


def index_run(options: settings.Index, bar: Bar = no_bar, say: Say = unsaid) -> Indexing:
    """`itda index`: encode a corpus with a run's dictionaries and keep the codes in RUN/index.

    Goes on where a killed process with the same settings was; does nothing if the index is there already. Another
    index is replaced, once the new one is whole. `say` is told what the user should know. Raises an `ItdaError` for bad
    input.
    """
    run = open_run(options.run)
    sites = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    sites = [site for site in run.sites if site in sites]
    tokens = options.tokens if options.tokens is not None else int(run.record["tokens"])
    check_index_batch(options.batch_size)
    size, window = options.batch_size or int(run.record["batch_size"]), int(run.record["window"])
    corpus = corpus_of(run, options.corpus, options, "read", say)
    asked = {
        "corpus": corpus.name if options.corpus is not None else run.record["corpus"],
        "corpus_part": corpus.part,
        "order": "corpus" if corpus.seed is None else f"shuffled, seed {corpus.seed}",
        "fingerprint": corpus.fingerprint,
        "tokens_asked": tokens,
        "window": window,
        "batch_size": size,
        "settings": {"device": options.device, "dtype": options.dtype},
        "sites": {str(site): _site_record(run, site) for site in sites},
    }
    where = find_model(run.folder, run.record, options, say)
    with one_at_a_time(run.folder):
        recover(run.folder)
        record = _existing(run, asked, sites, where.options.dtype, where.changed)
        if record is not None:
            return Indexing(run.folder / FOLDER, record, _summaries(run, sites), new=False)
        model = load_model(where.name, where.options, where.revision)
        made_by = {
            "model": run.record["model"],
            "revision": model.revision,
            "changed_model": where.changed,
            "tokenizer": model.tokenizer_hash,
            "device": str(model.model.device),
            "dtype": str(model.model.dtype).removeprefix("torch."),
            "bos": run.bos,
            "versions": versions(),
        }
        partial = run.folder / PARTIAL
        _prepare(partial, {**asked, **made_by})
        groups = _groups(model.windower(window, run.bos), corpus, size, tokens)
        with bar("index", tokens) as progress:
            parts = parts_of(partial)
            _skip(groups, parts, partial)
            done = sum(part.tokens for part in parts)
            progress.update(done)
            if done:
                progress.set_postfix_str(f"{done:,} from before")
            for number, seconds, count in _encoded(run, model, sites, groups, partial, len(parts)):
                progress.set_postfix_str(f"{count / seconds:,.0f} tok/s in part {number}")
                progress.update(count)
        parts = parts_of(partial)
        found = sum(part.tokens for part in parts)
        if found == 0:
            raise CorpusError(f"{asked['corpus']} has no token to index: name another corpus with --corpus")
        started = time.monotonic()
        whole = partial / "whole"
        merge(parts, whole, {site: (made["atoms"], made["k"]) for site, made in _by_site(asked).items()})
        seconds = sum(part.seconds for part in parts) + time.monotonic() - started
        pieces = {str(token): piece.hex(" ").upper() for token, piece in partial_pieces(model.tokenizer).items()}
        kind = {"format": INDEX_FORMAT, "format_version": FORMAT_VERSION}
        record = {**kind, **asked, **made_by, "tokens": found, "seconds": round(seconds, 3), "pieces": pieces}
        write_json(whole / "index.json", record)
        publish(run.folder, whole)
    return Indexing(run.folder / FOLDER, record, _summaries(run, sites), new=True)


def _site_record(run: Run, site: Site) -> dict[str, Any]:
    config = read_json(run.sites[site] / "config.json", DICTIONARY_FORMAT)
    file = run.sites[site] / "atoms.safetensors"
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        made = {"atoms": config["atoms"], "k": config["k"], "dictionary": digest, "sample": sample(file)}
        # Absent where no token is massive, as in an index from before there was the rule.
        limit = config.get("massive_norm")
        return made if limit is None else {**made, "massive_norm": limit}
    except (OSError, KeyError) as error:
        raise StoreError(f"{file.parent} is damaged or not whole: write or download it anew") from error


def _by_site(asked: Mapping[str, Any]) -> dict[Site, Mapping[str, Any]]:
    return {Site.parse(name): made for name, made in asked["sites"].items()}


def _existing(
    run: Run, asked: Mapping[str, Any], sites: Sequence[Site], dtype: str, changed: bool
) -> dict[str, Any] | None:
    """The record of the index that is there, if it is whole and has what is asked for."""
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
    except (StoreError, KeyError, AttributeError):
        return None
    return record


def _prepare(partial: Path, wanted: Mapping[str, Any]) -> None:
    """Keep the parts that a killed process left if they were made in the same way, else begin with an empty folder."""
    kind = {"format": SETTINGS_FORMAT, "format_version": FORMAT_VERSION, "parts": PARTS}
    try:
        if read_json(partial / "settings.json", SETTINGS_FORMAT) == {**kind, **wanted}:
            return
    except StoreError:  # there is none
        pass
    emptied(partial)
    write_json(partial / "settings.json", {**kind, **wanted})


def _groups(windower: Windower, corpus: Corpus, size: int, tokens: int) -> Iterator[Masked]:
    """The groups of `ModelSource`, one by one, with the activations that it would yield."""
    return ((group, group.is_activation) for group in within_budget(windower.groups(corpus, size), tokens))


def _skip(groups: Iterator[Masked], parts: Sequence[PartRecord], partial: Path) -> None:
    """Pass over the groups that are in parts already. Raises `StoreError` if they are others."""
    for part in parts:
        passed = [int(mask.sum()) for _, (_, mask) in zip(range(part.groups), groups, strict=False)]
        if len(passed) != part.groups or sum(passed) != part.tokens:
            raise StoreError(f"{part.file} has other tokens than the corpus: remove {partial}, and run it again")


def _encoded(
    run: Run, model: LanguageModel, sites: Sequence[Site], groups: Iterator[Masked], partial: Path, number: int
) -> Iterator[tuple[int, float, int]]:
    """Encode the groups and write the parts from `number` on; yields the number, seconds and tokens of each.

    One thing after the other: with the model or the tokenizer ahead in a thread of its own it is not faster, since
    both the model and the pursuit have work for all cores.
    """
    dictionaries = {site: run.dictionary(site).to(model.model.device) for site in sites}
    while True:
        started = time.monotonic()
        block: list[Masked] = []
        found: dict[Site, list[Tensor]] = {site: [] for site in sites}
        count = 0
        while count < BLOCK and (following := next(groups, None)) is not None:
            group, mask = following
            for site, x in model.activations(group, sites).items():
                found[site].append(x[mask.to(x.device)])
            block.append(following)
            count += int(mask.sum())
        if not block:
            return
        codes = {site: _codes(dictionaries[site], torch.cat(parts)) for site, parts in found.items()}
        text = TextPart.of(block)
        seconds = time.monotonic() - started
        write_part(partial, number, len(block), seconds, text, codes)
        yield number, seconds, count
        number += 1


def _codes(dictionary: ITDA, x: Tensor) -> CodePart:
    return CodePart.of(*dictionary.decompose(x), massive_medians(x, dictionary.massive_norm))


def _summaries(run: Run, sites: Sequence[Site]) -> dict[Site, SiteIndex]:
    found: dict[Site, SiteIndex] = {}
    for site in sites:
        index = CodeIndex.open(run.folder, site)
        explained = 1 - float(index.ordinary_errors().mean(dtype="float64")) if index.ordinary else float("nan")
        unused, codes = int((index.counts == 0).sum()), int(index.counts.sum())
        found[site] = SiteIndex(index.atoms, unused, codes, explained, len(index.massive))
    return found
