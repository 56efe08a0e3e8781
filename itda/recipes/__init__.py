"""What the commands do: the only place where sources, core and store meet. Nothing here prints."""

from __future__ import annotations

import itertools
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from itda import config as settings
from itda.core.batch import STREAMS, ActivationSource, Site
from itda.core.build import Builder
from itda.core.code import SparseCode
from itda.core.labels import Label
from itda.core.levels import two_levels
from itda.core.memory import available
from itda.core.model import ITDA
from itda.core.reference import ReferenceTrainer
from itda.core.refine import PASS_TOKENS
from itda.errors import CorpusError, SettingError, StoreError
from itda.evaluation import Evaluation, evaluate
from itda.sources.corpus import Corpus, Document, open_corpus
from itda.sources.huggingface import HuggingFaceSource, LanguageModel
from itda.sources.windows import Group
from itda.store import (
    FORMAT_VERSION,
    METRICS_FORMAT,
    RUN_FORMAT,
    dictionaries,
    load_dictionary,
    new_folder,
    read_json,
    write_dictionary,
    write_json,
)

LOG_EVERY_S = 1.0


@runtime_checkable
class Progress(Protocol):
    """A progress bar: tqdm has this shape."""

    def update(self, n: int, /) -> Any:
        """Count n more tokens."""
        ...

    def set_postfix_str(self, s: str, /) -> Any:
        """Show a remark."""
        ...


Bar = Callable[[str, int], AbstractContextManager[Progress]]
"""A progress bar for a task with a name and a number of tokens."""


class _Silent:
    def update(self, n: int, /) -> None:
        pass

    def set_postfix_str(self, s: str, /) -> None:
        pass


def no_bar(_name: str, _tokens: int) -> AbstractContextManager[Progress]:
    """The progress of somebody who does not want any."""
    return nullcontext(_Silent())


def train(options: settings.Train, bar: Bar = no_bar) -> Run:
    """`itda train`: one pass over the corpus, one dictionary per site, written to a new run folder.

    Raises an `ItdaError` for bad input; nothing is written then.
    """
    options = settings.resolved(options)
    tokens = settings.parse_count(options.tokens)
    sites = _sites(options.layers, options.streams)
    _trainer(options, 1, None)  # bad settings are to be known before the model is loaded
    if options.batch_size < 1 or options.window < 1:
        raise SettingError("--batch-size and --window must be at least 1")
    out = options.out or _free_folder(options.model)
    with new_folder(out) as folder:
        corpus = _open(options.corpus, options).split(options.part)
        corpus = corpus.shuffled(options.seed) if options.order == "shuffled" else corpus
        model = _load(options.model, options, options.revision)
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
            seconds = _run(source, trainers, progress, log.write)
        seen = next(iter(trainers.values())).tokens
        if seen == 0:
            raise CorpusError(f"{options.corpus} has no token to train on: name another corpus with --corpus")
        provenance = {
            "model": options.model,
            "revision": model.revision,
            "corpus": options.corpus,
            "corpus_part": corpus.part,
            "corpus_revision": corpus.revision,
            "fingerprint": corpus.fingerprint,
            "window": options.window,
            "batch_size": options.batch_size,
            "dtype": str(model.model.dtype).removeprefix("torch."),
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
            "device": str(model.model.device),
            "seconds": round(seconds, 3),
            "gram_rows": {str(site): t.gram_rows for site, t in trainers.items() if isinstance(t, Builder)},
            # Atoms before the crop to --atoms.
            "found": {str(site): t.found for site, t in trainers.items() if isinstance(t, Builder)},
            "versions": {name: version(name) for name in ("itda", "torch", "transformers", "tokenizers", "numpy")}
            | {"python": platform.python_version()},
        }
        write_json(folder / "run.json", record)
    return open_run(out)


def _run(
    source: ActivationSource,
    trainers: Mapping[Site, Builder | ReferenceTrainer],
    progress: Progress,
    log: Callable[[str], Any],
) -> float:
    started = logged = time.monotonic()
    progress.set_postfix_str("starting; the first run of all compiles for some seconds")
    for batches in source:
        for site, trainer in trainers.items():
            trainer.offer(batches[site])
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
    return time.monotonic() - started


def _errors(trainer: Builder | ReferenceTrainer, activations: Tensor) -> Tensor:
    if isinstance(trainer, Builder):
        return trainer.error(activations)
    return trainer.finish().decompose(activations)[1]


@dataclass(frozen=True)
class Run:
    """A run folder, opened."""

    folder: Path
    record: Mapping[str, Any]
    """What run.json says."""
    sites: Mapping[Site, Path]

    def dictionary(self, site: Site) -> ITDA:
        """The dictionary of one site. Raises `StoreError`."""
        return load_dictionary(self.sites[site])

    def model(self, options: settings.ModelOptions) -> LanguageModel:
        """The language model that the run was made from. Raises `ModelError`."""
        return _load(self.record["model"], options, self.record["settings"]["revision"])


def open_run(folder: Path) -> Run:
    """Open a run folder. Raises `StoreError` if it is missing, foreign or not whole."""
    sites = dictionaries(folder)
    return Run(folder, read_json(folder / "run.json", RUN_FORMAT), sites)


@dataclass(frozen=True)
class AtomUse:
    """One atom in the decomposition of one token."""

    atom: int
    coefficient: float
    """Or the cosine, where the readout is the similarity."""
    label: Label
    fidelity: float | None = None
    """The cosine of a refined atom to the activation that its label names."""


@dataclass(frozen=True)
class TokenDecomposition:
    """One token taken apart."""

    label: Label
    explained: float
    """Share of the activation's energy that the atoms explain, 1 - ||z - z_hat||^2 / ||z||^2."""
    atoms: list[AtomUse]
    """In pick order."""


def decompose(options: settings.Decompose) -> tuple[Site, list[TokenDecomposition]]:
    """`itda decompose`: the tokens of a text with their atoms. Raises an `ItdaError` for bad input."""
    run = open_run(options.run)
    site = _chosen_site(run, options.layer)
    if not options.text.strip():
        raise SettingError("there is no text: give one in quotes")
    dictionary, model = run.dictionary(site), run.model(options)
    window, readout = run.record["window"], options.readout
    tokens = decompose_text(model, dictionary, site, options.text, window, options.batch_size, readout, options.top)
    if options.token is None:
        return site, tokens
    if not -len(tokens) <= options.token < len(tokens):
        raise SettingError(f"no token {options.token}: the text has {len(tokens)}, use 0 to {len(tokens) - 1} or -1")
    return site, [tokens[options.token]]


def decompose_text(
    model: LanguageModel,
    dictionary: ITDA,
    site: Site,
    text: str,
    window: int,
    batch_size: int = 1,
    readout: Literal["code", "levels", "similarity"] = "code",
    top: int = 5,
) -> list[TokenDecomposition]:
    """Every token of a text that the model reads at once. Raises `SettingError` if it is longer than that.

    The model runs in the shape it was trained in where the text fits, so that a prompt of the training corpus gives
    the very activations that were its atoms. The atoms are those of the code, of the code on two
    levels, or the `top` closest ones.
    """
    document = Document("prompt", text)
    windower = model.windower(window)
    windows = windower.windows(document)
    if len(windows) > 1:
        length, room = sum(len(w.token_ids) for w in windows), (model.context or window) - windower.window
        if length > windower.content + room:
            raise SettingError(
                f"the text has {length} tokens and the model reads at most {windower.content + room}: shorten it"
            )
        windower = model.windower(windower.window - windower.content + length)
        windows = windower.windows(document)
    group = windower.group(windows, batch_size)
    activations = model.activations(group, [site])[site]
    x = activations[group.is_activation.to(activations.device)].cpu()
    code, error = dictionary.decompose(x)
    if readout == "similarity":
        found = dictionary.similarity(x, top=top)
        assert isinstance(found, SparseCode)
        code = found
    if readout == "levels":
        code = two_levels(dictionary).encode(x)
        error = dictionary.error(x, code)
    explained = (1 - error).tolist()
    fidelity = dictionary.fidelity.tolist() if dictionary.fidelity is not None else None
    return [
        TokenDecomposition(
            label,
            explained[row],
            [
                AtomUse(
                    atom,
                    code.coefficients[row, place].item(),
                    dictionary.labels[atom],
                    fidelity[atom] if fidelity is not None else None,
                )
                for place, atom in enumerate(code.indices[row, : code.count[row]].tolist())
            ],
        )
        for row, label in enumerate(group.labels())
    ]


def evaluate_run(options: settings.Evaluate, bar: Bar = no_bar) -> dict[Site, Evaluation]:
    """`itda evaluate`: measure a run's dictionaries on held-out documents; the figures are kept in metrics.json.

    Raises an `ItdaError` for bad input.
    """
    tokens = settings.parse_count(options.tokens)
    run = open_run(options.run)
    corpus = corpus_to_measure_on(run, options.corpus, options)
    model = run.model(options)
    loaded = {site: run.dictionary(site).to(model.model.device) for site in run.sites}
    results = evaluate_on(model, corpus, loaded, tokens, run.record["window"], options.batch_size, bar)
    for site, result in results.items():
        on = {"corpus": corpus.name, "part": corpus.part, "fingerprint": corpus.fingerprint}
        kind = {"format": METRICS_FORMAT, "format_version": FORMAT_VERSION}
        write_json(run.sites[site] / "metrics.json", {**kind, **finite(asdict(result)), **on})
    return results


def corpus_to_measure_on(run: Run, spec: str | None, options: settings.CorpusOptions) -> Corpus:
    """The corpus that the user names, or the documents of the run's own that it was not trained on."""
    if spec is not None:
        return _open(spec, options)
    stored = run.record["settings"]
    names = ("text_field", "dataset_config", "dataset_split", "dataset_revision")
    again = replace(options, **{name: stored[name] for name in names})
    again = replace(again, dataset_revision=run.record["corpus_revision"] or again.dataset_revision)
    corpus = _open(run.record["corpus"], again)
    if stored["part"] == "all":
        raise SettingError("the run was trained on all of its corpus: name another one with --corpus")
    if corpus.fingerprint != run.record["fingerprint"]:
        raise CorpusError(
            f"{run.record['corpus']} is not what it was when the run was made (another Python, or changed files): "
            "name a corpus with --corpus"
        )
    return corpus.split("heldout")


def evaluate_on(
    model: LanguageModel,
    corpus: Corpus,
    loaded: Mapping[Site, ITDA],
    tokens: int,
    window: int,
    batch_size: int,
    bar: Bar = no_bar,
) -> dict[Site, Evaluation]:
    """Measure dictionaries on the first `tokens` tokens of a corpus."""
    windower = model.windower(window)

    def groups() -> Iterator[Group]:
        left = tokens
        for group in windower.groups(corpus, batch_size):
            # The tokens past the budget stay in the window, unspliced and unscored.
            allowed = group.is_activation & (
                group.is_activation.flatten().cumsum(0).view_as(group.is_activation) <= left
            )
            left -= int(allowed.sum())
            yield replace(group, is_activation=allowed)
            if left == 0:
                return

    with bar("evaluate", tokens) as progress:
        return evaluate(model, groups, loaded, progress=progress.update)


def top_uses(
    source: ActivationSource, dictionary: ITDA, site: Site, atoms: list[int], most: int
) -> list[list[AtomUse]]:
    """For each of some atoms, the `most` activations of a source that have it with the largest coefficient.

    Each `AtomUse` has the label of the activation. Equal coefficients stay in stream order.
    """
    found: list[list[AtomUse]] = [[] for _ in atoms]
    for batches in source:
        code = dictionary.encode(batches[site].activations.cpu())
        for uses, atom in zip(found, atoms, strict=True):
            coefficient = torch.where(code.indices == atom, code.coefficients, 0).sum(dim=1)
            for row in coefficient.topk(min(most, len(coefficient))).indices.tolist():
                if coefficient[row] > 0:
                    uses.append(AtomUse(atom, coefficient[row].item(), batches[site].labels[row]))
            uses.sort(key=lambda use: -use.coefficient)
            del uses[most:]
    return found


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


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a measure that is not a number is null, as are the ends of an interval."""

    def one(value: Any) -> Any:
        if isinstance(value, float) and value != value:
            return None
        if isinstance(value, dict):
            return finite(value)
        return [one(each) for each in value] if isinstance(value, list | tuple) else value

    return {name: one(value) for name, value in values.items()}


def _sites(layers: str, streams: str) -> list[Site]:
    names = [name.strip() for name in streams.split(",")]
    for name in names:
        if name not in STREAMS:
            raise SettingError(f"no stream {name!r}: use {', '.join(STREAMS)}")
    return [Site(layer, name) for layer in settings.parse_layers(layers) for name in STREAMS if name in names]


def _free_folder(model: str) -> Path:
    name = Path(model).name or "run"
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())


def _chosen_site(run: Run, layer: str | None) -> Site:
    sites = list(run.sites)
    if layer is None:
        return sites[len(sites) // 2]
    site = Site.parse(layer)
    if site not in run.sites:
        names = ", ".join(str(s).removeprefix("layer_") for s in sites)
        raise SettingError(f"the run has no layer {layer}: it has {names}")
    return site


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


def _open(spec: str, options: settings.CorpusOptions) -> Corpus:
    return open_corpus(
        spec,
        text_field=options.text_field,
        config=options.dataset_config,
        split=options.dataset_split,
        revision=options.dataset_revision,
    )


def _load(name: str, options: settings.ModelOptions, revision: str | None) -> LanguageModel:
    return LanguageModel.load(
        name,
        revision=revision,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
