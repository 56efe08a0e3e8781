"""Where activations come from: a model in memory, streamed, in Ray workers or at NDIF, or shards on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from itda import config as settings
from itda.core.batch import ActivationSource, Site
from itda.errors import ItdaError, SettingError
from itda.machine import free_device_memory, free_memory
from itda.recipes.run_model import MODEL
from itda.recipes.runs import Say, open_spec, unsaid
from itda.resolving import sites_of
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.named import NamedModel
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel

PROVENANCE = ("model", "revision", MODEL, "quantisation", "tokenizer", "corpus", "corpus_part", "corpus_revision")
PROVENANCE += ("fingerprint", "window", "batch_size", "dtype", "order", "bos", "prefix", "corpus_rules")
"""Names of what a dictionary records of where its activations come from."""

MADE_BY = ("revision", MODEL, "quantisation", "tokenizer", "dtype", "prefix")
"""Those of `PROVENANCE` that are known once the model is loaded."""

INHERITED = ("revision", "text_field", "dataset_config", "dataset_split", "dataset_revision", "part", "order", "seed")
INHERITED += ("window", "batch_size", "trust_remote_code", "bos")
"""Settings of a harvest that a run from its activations has too."""


@dataclass(frozen=True, eq=False)
class RecordedSource:
    """Activations with all that a run records of them."""

    d_model: int
    sites: Sequence[Site]
    source: Callable[[int], ActivationSource]
    """Given a number n, the stream of activations without its first n."""
    provenance: Mapping[str, Any]
    """The record of where the activations come from, for the dictionaries; without the number of tokens."""
    about: Mapping[str, Any]
    """Values that the bits depend on: if one of them changes, a run cannot go on."""
    device: str
    model: ActivationModel | None = None
    settings: Mapping[str, Any] | None = None
    """Settings that the activations brought with them."""


def open_source(
    options: settings.Train,
    cluster: Any = None,
    say: Say = unsaid,
    *,
    model: ActivationModel | None = None,
    corpus: Corpus | None = None,
) -> RecordedSource:
    """What the settings name. Raises an `ItdaError`.

    `cluster` is a `RayCluster` if there are workers; `say` is told what the user should know. A `model` or a `corpus`
    that is given is used in place of the one that is named.
    """
    if options.activations is not None:
        return _from_shards(options, options.activations)
    sites = sites_of(options)
    corpus = open_corpus_of(options, say) if corpus is None else chosen_documents(corpus, options)
    if model is None:
        model = open_model(options.model, options, options.revision, cluster)
    source = partial(
        ModelSource,
        model,
        corpus,
        sites,
        window=options.window,
        batch_size=options.batch_size,
        tokens=tokens_of(options),
        every_position=options.mode == "reference",
        bos=options.bos,
    )
    source(skip=0)  # a site that the model lacks, or a window too long, is to be known now
    about = {**about_of(options, model, corpus), "prefix": prefix_of(options, model)}
    provenance = {**asked_of(options, corpus), **{name: about[name] for name in MADE_BY}}
    provenance["corpus_rules"] = corpus.rules
    return RecordedSource(
        d_model=model.d_model,
        sites=sites,
        source=lambda skip: source(skip=skip),
        provenance=provenance,
        about=about,
        device=model.device,
        model=model,
    )


def asked_of(options: settings.Train | settings.Harvest, corpus: Corpus) -> dict[str, Any]:
    """Return the part of the record of where activations come from that is known before the model is loaded."""
    return {
        "model": options.model,
        "corpus": options.corpus,
        "corpus_part": corpus.part,
        "corpus_revision": corpus.revision,
        "fingerprint": corpus.fingerprint,
        "order": f"shuffled, seed {options.seed}" if options.order == "shuffled" else "corpus",
        "window": options.window,
        "batch_size": options.batch_size,
        "bos": options.bos,
    }


def prefix_of(options: settings.Train | settings.Harvest, model: ActivationModel) -> list[str]:
    """The special tokens in front of each window, which `--bos` and the tokenizer decide together."""
    windower = model.windower(options.window, options.bos)
    return [str(token) for token in windower.tokenizer.convert_ids_to_tokens(windower.prefix)]


def about_of(options: settings.Train | settings.Harvest, model: ActivationModel, corpus: Corpus) -> dict[str, Any]:
    """Return what the bits of a model's activations depend on, besides the settings."""
    # What NDIF runs is not known here.
    known = not options.remote and getattr(model, "found_by_name", True)
    made = NamedModel.named(options.model, revision=model.revision) if known else None
    return {
        MODEL: made.fingerprint() if made is not None else None,
        "quantisation": made.quantisation() if made is not None else None,
        "revision": model.revision,
        "tokenizer": model.tokenizer_hash,
        "fingerprint": corpus.fingerprint,
        "corpus_revision": corpus.revision,
        "dtype": model.dtype,
        "device": torch.device(model.device).type if model.device else "",
    }


def open_corpus_of(options: settings.Train | settings.Harvest, say: Say = unsaid) -> Corpus:
    """The documents to read, in their order; `say` is told what the user should know. Raises `CorpusError`."""
    if options.model == "tiny" and Path("tiny").is_dir():
        say("tiny is the bundled model; the folder of that name here is ./tiny")
    return chosen_documents(open_spec(options.corpus, options, say), options)


def chosen_documents(corpus: Corpus, options: settings.Train | settings.Harvest) -> Corpus:
    """Return the part of a corpus that the settings name, in their order."""
    part = corpus.split(options.part)
    return part.shuffled(options.seed) if options.order == "shuffled" else part


def open_model(
    name: str,
    options: settings.Train | settings.Harvest | settings.Index | settings.Replicate,
    revision: str | None,
    cluster: Any = None,
) -> ActivationModel:
    """A model wherever the settings want it to run. Raises `ModelError`, `SettingError`."""
    if options.remote:
        from itda.sources.models.ndif import RemoteModel

        return RemoteModel.load(name, revision=revision, remote=True, trust_remote_code=options.trust_remote_code)
    loader = model_loader(name, options, revision)
    if cluster is not None:
        from itda.workers.model import RayModel

        gpus, machines = int(cluster.ray.cluster_resources().get("GPU", 0)), len(cluster.ray.nodes())
        on_cpu = options.device == "cpu" or gpus == 0
        workers = options.workers or (machines if on_cpu else gpus)
        return RayModel(cluster, loader, workers=workers, gpus=0 if on_cpu else 1)
    return loader()


@contextmanager
def closing_of(model: ActivationModel) -> Iterator[ActivationModel]:
    """A model whose workers, if it has any, are ended after use."""
    with model if isinstance(model, AbstractContextManager) else nullcontext():
        yield model


def model_loader(
    name: str,
    options: settings.ModelOptions,
    revision: str | None,
    *,
    head: bool = False,
    read_ahead: bool = True,
) -> Callable[[], LanguageModel | StreamedModel]:
    """How to load a model in some process: streamed if the settings say so, or it needs more memory than it may have.

    `head` if its predictions are wanted. `read_ahead` as `StreamedModel.load` takes it.
    """
    named = {
        "revision": revision,
        "device": options.device,
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code,
    }
    if not isinstance(options, settings.LargeOptions):
        return partial(LanguageModel.load, name, **named)
    budget = options.model_memory
    if options.scratch is not None and not options.scratch.is_dir():
        raise SettingError(f"no folder {options.scratch} for --scratch: make it, or name another")
    if options.stream or _is_too_large(name, named, budget):
        if budget is None:
            budget = free_memory() // 2
        placed = {"budget": budget, "scratch": options.scratch, "read_ahead": read_ahead}
        return partial(_streamed, name, head=head, **placed, **named)
    return partial(LanguageModel.load, name, **named)


def _streamed(name: str, **given: Any) -> StreamedModel:
    from itda.sources.streamed.weights import give_back_freed

    give_back_freed()
    return StreamedModel.load(name, **given)


def _is_too_large(name: str, named: Mapping[str, Any], budget: int | None) -> bool:
    try:
        found = NamedModel.named(name, **named)
        if budget is None:
            device = torch.device(found.device)
            budget = int(0.9 * free_device_memory(device)) if device.type == "cuda" else free_memory()
        return found.bytes() > budget
    except ItdaError:
        raise
    except Exception:
        return False


def tokens_of(options: settings.Train) -> int:
    """How many activations of each site are to be read, from resolved settings."""
    assert options.tokens is not None
    return options.tokens


def with_tokens(options: settings.Train) -> settings.Train:
    """The settings with all that a folder of activations has, unless they say how many. Raises `StoreError`."""
    if options.tokens is not None or options.activations is None:
        return options
    from itda.sources.shards.source import ShardSource

    return replace(options, tokens=ShardSource(options.activations, verify=False).tokens)


@contextmanager
def cluster_of(options: settings.ElsewhereOptions) -> Iterator[Any]:
    """The Ray cluster that the settings name, or None. Raises `SettingError`."""
    if not options.workers and options.ray is None:
        yield None
        return
    from itda.workers.cluster import RayCluster

    # More workers than processors are slower, but they are what was asked for.
    with RayCluster.connect(options.ray, cpus=max(options.workers, os.cpu_count() or 1)) as cluster:
        yield cluster


def _from_shards(options: settings.Train, folder: Path) -> RecordedSource:
    from itda.sources.shards.source import ShardSource

    sites = sites_of(options) if options.layers else None
    tokens = tokens_of(options)
    found = ShardSource(folder, sites, tokens=tokens)
    made = found.about
    if options.mode == "reference":
        raise SettingError("mode reference reads every position, and in its own batches: it needs a model")
    stored = made.get("settings", {})
    provenance = {name: value for name, value in made.items() if name in PROVENANCE}
    return RecordedSource(
        d_model=found.d_model,
        sites=list(found.sites),
        source=lambda skip: ShardSource(folder, found.sites, tokens=tokens, skip=skip),
        provenance=provenance,
        about={"activations": found.fingerprint},
        device=str(made.get("device", "cpu")),
        settings={name: stored[name] for name in INHERITED if name in stored},
    )
