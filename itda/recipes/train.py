"""`itda train`: one pass over a corpus, one dictionary per site."""

from __future__ import annotations

import itertools
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from itda import config as settings
from itda.core.batch import ActivationSource, Site
from itda.core.build import Builder
from itda.core.memory import available
from itda.core.reference import ReferenceTrainer
from itda.core.refine import PASS_TOKENS
from itda.core.tokens import TokenLog, Tokens
from itda.errors import CorpusError, SettingError, StoreError
from itda.recipes.runs import Bar, Progress, Run, load_model, no_bar, open_run, open_spec, parse_sites
from itda.sources.huggingface import HuggingFaceSource
from itda.store import (
    FORMAT_VERSION,
    RUN_FORMAT,
    new_folder,
    read_json,
    write_dictionary,
    write_json,
    write_tokens,
)

LOG_EVERY_S = 1.0


def train(options: settings.Train, bar: Bar = no_bar) -> Run:
    """`itda train`: one pass over the corpus, one dictionary per site, written to a new run folder.

    Raises an `ItdaError` for bad input; nothing is written then.
    """
    options = settings.resolved(options)
    tokens = settings.parse_count(options.tokens)
    sites = parse_sites(options.layers, options.streams)
    _trainer(options, 1, None)  # bad settings are to be known before the model is loaded
    if options.batch_size < 1 or options.window < 1:
        raise SettingError("--batch-size and --window must be at least 1")
    out = options.out or _free_folder(options.model)
    with new_folder(out) as folder:
        corpus = open_spec(options.corpus, options).split(options.part)
        corpus = corpus.shuffled(options.seed) if options.order == "shuffled" else corpus
        model = load_model(options.model, options, options.revision)
        source = HuggingFaceSource(
            model,
            corpus,
            sites,
            window=options.window,
            batch_size=options.batch_size,
            tokens=tokens,
            every_position=options.mode == "reference",
        )
        trainers = {site: _trainer(options, model.d_model, available() // len(sites)) for site in sites}
        with bar("train", tokens) as progress, (folder / "log.jsonl").open("w", encoding="utf-8") as log:
            seconds, read = _run(source, trainers, progress, log.write)
        seen = next(iter(trainers.values())).tokens
        if seen == 0:
            raise CorpusError(f"{options.corpus} has no token to train on: name another corpus with --corpus")
        provenance = {
            "model": options.model,
            "revision": model.revision,
            "tokenizer": model.tokenizer_hash,
            "corpus": options.corpus,
            "corpus_part": corpus.part,
            "corpus_revision": corpus.revision,
            "fingerprint": corpus.fingerprint,
            "window": options.window,
            "batch_size": options.batch_size,
            "dtype": model.dtype,
            "tokens": seen,
            "order": f"shuffled, seed {options.seed}" if options.order == "shuffled" else "corpus",
        }
        if options.refine:
            provenance["refinement"] = {"passes": options.refine, "min_fidelity": options.min_fidelity}
        started = time.monotonic()
        with bar("refine", (options.refine or 0) * PASS_TOKENS * len(sites)) as progress:
            for site, trainer in trainers.items():
                (folder / str(site)).mkdir()
                parts = {"mode": options.mode, "site": site, "provenance": provenance}
                if isinstance(trainer, Builder):
                    dictionary = trainer.finish(progress.update, **parts)
                else:
                    dictionary = trainer.finish(**parts)
                write_dictionary(dictionary, folder / str(site))
        seconds += time.monotonic() - started
        record = {
            "format": RUN_FORMAT,
            "format_version": FORMAT_VERSION,
            "sites": [str(site) for site in sites],
            **provenance,
            "settings": _settings(options),
            "device": model.device,
            "seconds": round(seconds, 3),
            "gram_rows": {str(site): t.gram_rows for site, t in trainers.items() if isinstance(t, Builder)},
            # Atoms before the crop to --atoms.
            "found": {str(site): t.found for site, t in trainers.items() if isinstance(t, Builder)},
            "versions": {name: version(name) for name in ("itda", "torch", "transformers", "tokenizers", "numpy")}
            | {"python": platform.python_version()},
        }
        write_tokens(read, folder / "tokens.parquet")
        write_json(folder / "run.json", record)
    return open_run(out)


def _run(
    source: ActivationSource,
    trainers: Mapping[Site, Builder | ReferenceTrainer],
    progress: Progress,
    log: Callable[[str], Any],
) -> tuple[float, Tokens]:
    """Seconds, and the tokens that were read."""
    read = TokenLog()
    started = logged = time.monotonic()
    progress.set_postfix_str("starting; the first run of all compiles for some seconds")
    for batches in source:
        for site, trainer in trainers.items():
            trainer.offer(batches[site])
        read.add(next(iter(batches.values())).labels)
        first = next(iter(trainers.values()))
        progress.update(len(next(iter(batches.values()))))
        progress.set_postfix_str(" ".join(f"{site.layer}:{len(t)}" for site, t in trainers.items()) + " atoms")
        now = time.monotonic()
        if now - logged >= LOG_EVERY_S:
            logged = now
            line = {
                "tokens": first.tokens,
                "tokens_per_s": round(first.tokens / (now - started), 1),
                "atoms": {str(site): len(t) for site, t in trainers.items()},
                # Of this batch's first activations: enough to see where it goes.
                "mean_error": {
                    str(site): _errors(t, batches[site].activations[:64]).mean().item() for site, t in trainers.items()
                },
                # Rows of the Gram matrix in memory: all, or the number of those that fit.
                "gram_rows": {str(site): t.gram_rows for site, t in trainers.items() if isinstance(t, Builder)},
            }
            log(json.dumps(line) + "\n")
    return time.monotonic() - started, read.table()


def _errors(trainer: Builder | ReferenceTrainer, activations: Tensor) -> Tensor:
    if isinstance(trainer, Builder):
        return trainer.error(activations)
    return trainer.finish().decompose(activations)[1]


def _trainer(options: settings.Train, d_model: int, memory: int | None) -> Builder | ReferenceTrainer:
    """What makes a dictionary of one site, from resolved settings."""
    if options.mode == "reference":
        assert options.threshold is not None
        return ReferenceTrainer(d_model, k=options.k, threshold=options.threshold)
    return Builder(
        d_model,
        tokens=settings.parse_count(options.tokens),
        k=options.k,
        threshold=options.threshold,
        atoms=settings.parse_count(options.atoms) if options.atoms is not None else None,
        pursuit=options.pursuit or "mp",
        offset_tokens=options.offset or 0,
        passes=options.refine or 0,
        min_fidelity=options.min_fidelity or 0.0,
        memory=memory,
    )


def _free_folder(model: str) -> Path:
    name = Path(model).name or "run"
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())


def make_room(folder: Path, options: settings.Train) -> None:
    """Remove what an earlier run with these very settings left. Raises `StoreError` if something else is there."""
    if folder.exists():
        shown = ("quiet", "json", "memory", "fast")
        made = read_json(folder / "run.json", RUN_FORMAT).get("settings", {})
        asked = _settings(settings.resolved(options))
        if {k: v for k, v in made.items() if k not in shown} != {k: v for k, v in asked.items() if k not in shown}:
            raise StoreError(f"{folder} is not a run of the demo: name another folder with --out")
        shutil.rmtree(folder)


def _settings(options: settings.Train) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
