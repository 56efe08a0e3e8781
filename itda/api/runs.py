"""Runs from Python: train, open, evaluate, index, explore and compare them, each in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.api.models import any_model
from itda.api.results import Comparison, Evaluations, Uses
from itda.api.settings import layers_of, made, path_of, site_of, streams_of
from itda.checks import are_fingerprints
from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.errors import SettingError
from itda.evaluation.evaluate import cost_of, spliceable
from itda.evaluation.measures import Massive
from itda.progress import bars, remarks
from itda.recipes.compare import Side, compare_sides
from itda.recipes.compare_fingerprints import compare_several
from itda.recipes.decompose import Decomposition, Readout, decompose_text, top_uses
from itda.recipes.evaluate import evaluate_on, still_growing
from itda.recipes.runs import Run, corpus_of, limits_of
from itda.recipes.runs import open_run as open_folder
from itda.recipes.train import train as train_to_folder
from itda.recipes.train import train_in_memory
from itda.resolving import crossed
from itda.sources.corpora.any_corpus import AnyCorpus, any_corpus
from itda.sources.corpora.corpus import Part
from itda.sources.models.base import ActivationModel
from itda.sources.passes import tokens_as_long
from itda.sources.source import ModelSource
from itda.sources.tokenizing.special import Bos
from itda.store.fingerprints import Fingerprint
from itda.store.records import chosen_site

AnyModel = ActivationModel | str | Path
AnyRun = Run | str | Path

DECOMPOSED_WINDOW = 128
"""Tokens that a model reads at once, for a dictionary that does not say how many it was made with."""


def train(
    model: AnyModel,
    corpus: AnyCorpus,
    *,
    layers: int | Sequence[int],
    k: int = 40,
    atoms: int | None = None,
    threshold: float | None = None,
    tokens: int | None = None,
    streams: str | Sequence[str] = "resid_post",
    mode: settings.Mode = "best",
    out: str | Path | None = None,
    progress: bool = True,
    **given: Any,
) -> Run:
    """Build a dictionary for each of some layers of a model, in one pass over a corpus: `itda train`.

    `model` is what `load_model` returns, or a name that it takes. `corpus` is `python-docs`, a path, a Hub data set, a
    list of texts, or a `Corpus`; one document in ten is left out, for `evaluate`. Give at most one of `atoms`, the
    number of atoms at the end, and `threshold`, the share of an activation's energy that may stay unexplained. The
    other settings of `itda train` are taken under their own names: `pursuit`, `offset`, `refine`, `window`, ...

    With `out`, the run is written to that folder, with checkpoints. Without, nothing is written; `run.save(folder)` can
    write it later. Either way `run["layer_4"]` is the dictionary of a site. The same settings give the same bits as the
    command. Raises an `ItdaError` for bad input.

    >>> import itda
    >>> texts = ["for line in open(path):", "import os", "def read(file):", "return [x for x in y]"] * 8
    >>> run = itda.train("tiny", texts, layers=4, k=4, atoms=8, window=16, progress=False)
    >>> run["layer_4"].atoms.shape
    torch.Size([8, 192])
    """
    lm = in_memory(model, given)
    documents = None if isinstance(corpus, str | Path) else any_corpus(corpus)
    options = made(
        settings.Train,
        model=lm.name if lm is not None else str(model),
        corpus=documents.name if documents is not None else str(corpus),
        layers=layers_of(layers),
        streams=streams_of(streams),
        k=k,
        atoms=atoms,
        threshold=threshold,
        tokens=tokens,
        mode=mode,
        out=path_of(out) if out is not None else None,
        **given,
    )
    making = train_in_memory if out is None else train_to_folder
    return making(options, bars(not progress), remarks(not progress), model=lm, corpus=documents)


def open_run(folder: str | Path) -> Run:
    """Open a run folder: `run["layer_4"]` is the dictionary of a site. Raises `StoreError`.

    >>> import itda
    >>> itda.open_run("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    return open_folder(path_of(folder))


def evaluate(
    run: AnyRun,
    *,
    model: AnyModel | None = None,
    corpus: AnyCorpus | None = None,
    tokens: int | None = None,
    batch_size: int = 8,
    massive: Massive = "clean",
    progress: bool = True,
    **given: Any,
) -> Evaluations:
    """Splice each dictionary of a run into its model, on documents held out from training: `itda evaluate`.

    `model` and `corpus` replace those of the run; a corpus that is given is read whole. `tokens` is how many
    activations to evaluate on; by default it takes about as long as training did. Other keyword arguments are
    those of `itda evaluate` that say how the run's own model and corpus are found: `device`, `model_path`,
    `corpus_path`, ... Returns, by site, fvu, CE loss score, KL and more. Raises an `ItdaError`.

    >>> import itda
    >>> run = itda.train("tiny", ["import os", "def f(x): return x"] * 8, layers=4, k=2, atoms=8, progress=False)
    >>> found = itda.evaluate(run, corpus=["import sys, os"], tokens=5, progress=False)
    >>> 0 < found["layer_4"].fvu < 2
    True
    """
    run, say = _as_run(run), remarks(not progress)
    options = made(settings.Evaluate, run=run.folder, batch_size=batch_size, massive=massive, **given)
    documents = corpus_of(run, None, options, "unread", say) if corpus is None else any_corpus(corpus)
    lm = spliceable(run.any_model(options, say) if model is None else any_model(model))
    if tokens is None:
        tokens = tokens_as_long(run.record["tokens"], cost_of(lm, list(run.sites)))
    found = evaluate_on(
        lm,
        documents,
        run.dictionaries(limits_of(options)),
        tokens=tokens,
        window=run.record["window"],
        batch_size=batch_size,
        bos=run.bos,
        massive=massive,
        growing=still_growing(run),
        bar=bars(not progress),
    )
    return Evaluations(found)


def decompose(
    model: AnyModel, dictionary: ITDA, text: str, *, top: int = 5, readout: Readout = "code", batch_size: int = 8
) -> Decomposition:
    """Take a text's activations apart, each token into its atoms with the prompts they came from: `itda decompose`.

    The text is read as the dictionary's own activations were (window and BOS), at its site. `readout` is `code`;
    `levels`, for broad atoms first; `similarity`, for the `top` atoms that are nearest by cosine; or `features`, for
    the `top` atoms whose detectors fire most. Notebooks and terminals show the result; `to_pandas` makes a table of it.
    Raises an `ItdaError`.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=4, k=2, atoms=8, progress=False)
    >>> [token.label.token for token in itda.decompose(lm, run["layer_4"], "import os")]
    ['import', ' os']
    """
    if dictionary.site is None:
        raise SettingError(
            "the dictionary does not say of which site of a model it is: "
            "decompose activations of its kind with .decompose(x)"
        )
    about = dictionary.provenance
    return decompose_text(
        any_model(model),
        dictionary,
        dictionary.site,
        text,
        about.get("window", DECOMPOSED_WINDOW),
        batch_size,
        readout,
        top,
        about.get("bos", "auto"),
    )


def uses(
    run: AnyRun,
    atom: int,
    *,
    site: Site | str | int | None = None,
    top: int = 10,
    tokens: int = 20_000,
    model: AnyModel | None = None,
    corpus: AnyCorpus | None = None,
    progress: bool = True,
    **given: Any,
) -> Uses:
    """Find where an atom of a run is used most: the tokens in whose codes it has the largest coefficients.

    It reads the first `tokens` activations of the run's own documents, or of a `corpus`. `site` is the dictionary: a
    layer (3) or a site (`3.mlp_out`), by default the middle one. `top` is how many uses to find. Raises an `ItdaError`.

    >>> import itda
    >>> run = itda.train("tiny", ["import os", "def f(x): return x"] * 8, layers=4, k=2, atoms=8, progress=False)
    >>> found = itda.uses(run, 0, top=3, progress=False)
    >>> len(found), found.atom.label == run["layer_4"].labels[0]
    (3, True)
    """
    run, say = _as_run(run), remarks(not progress)
    chosen = chosen_site(run, site_of(site))
    options = made(settings.Index, run=run.folder, **given)
    dictionary = run.dictionary(chosen, limits_of(options))
    own = dictionary.atom(atom)
    documents = corpus_of(run, None, options, "read", say) if corpus is None else any_corpus(corpus)
    lm = run.any_model(options, say) if model is None else any_model(model)
    record = run.record
    source = ModelSource(
        lm,
        documents,
        [chosen],
        window=record["window"],
        batch_size=options.batch_size or record["batch_size"],
        tokens=tokens,
        bos=run.bos,
    )
    with bars(not progress)("uses", tokens) as bar:
        found = top_uses(_counted(source, bar), dictionary, chosen, [own.index], top)[0]
    return Uses(found, own)


def compare(a: AnyRun | Fingerprint, b: AnyRun | Fingerprint | None = None, *, index: str | None = None) -> Comparison:
    """Compare two fingerprints, or the labels of two runs' dictionaries, layer with layer: `itda compare`.

    One alone is compared with itself. Both must be of one corpus, with one window. Either may be a path. The result is
    a labelled matrix of one similarity `index`: of fingerprints `shared novelty`, `equal sizes`, ...; of runs
    `weighted`, `jaccard`, .... `with_index` gives that of another, `pair` has all that was found, with intervals.
    Raises `SettingError` for what cannot be compared.

    >>> import itda
    >>> texts = ["import os", "def f(x): return x", "for line in open(path): print(line)"] * 8
    >>> a = itda.train("tiny", texts, layers=[2, 4], k=2, atoms=8, progress=False)
    >>> itda.compare(a)["layer_2", "layer_2"]
    1.0
    >>> b = itda.fingerprint("tiny", texts, progress=False)
    >>> itda.compare(b).matrix.shape
    (6, 6)
    """
    given = (a, b) if b is not None else (a,)
    if all(isinstance(each, Fingerprint) or _is_file(each) for each in given):
        several = [_as_fingerprint(name, each) for name, each in zip(("a", "b"), given, strict=False)]
        return Comparison(compare_several(several)[0], index)
    if any(isinstance(each, Fingerprint) for each in given):
        raise SettingError("one of the two is a fingerprint, the other a run: take fingerprints of both")
    sides = [
        Side.of(run, name if not run.folder.exists() else str(run.folder))
        for name, run in zip(("a", "b"), map(_as_run, given), strict=False)  # pyright: ignore[reportArgumentType]
    ]
    return Comparison(compare_sides(sides)[0], index)


def _is_file(given: object) -> bool:
    return isinstance(given, str | Path) and are_fingerprints([path_of(given)])


def _as_fingerprint(name: str, given: Any) -> tuple[str, Fingerprint]:
    return (name, given) if isinstance(given, Fingerprint) else (str(given), Fingerprint.load(given))


@contextmanager
def harvest(
    model: AnyModel,
    corpus: AnyCorpus,
    *,
    layers: int | Sequence[int],
    streams: str | Sequence[str] = "resid_post",
    tokens: int | None = None,
    skip: int = 0,
    part: Part = "all",
    seed: int | None = None,
    window: int = 128,
    batch_size: int = 8,
    bos: Bos = "auto",
) -> Iterator[Iterator[Mapping[Site, ActivationBatch]]]:
    """Read the activations of a corpus: within this, batches [tokens, d_model] by site, with their labels.

    It ends after `tokens` activations, of which the first `skip` are left out. `part` is all
    documents, `train`, or the one in ten that is `heldout`; with a `seed` they come shuffled. To keep activations on
    disk, use the command `itda harvest`. Raises an `ItdaError`.

    >>> import itda
    >>> with itda.harvest("tiny", ["import os"], layers=2, window=16) as batches:
    ...     [len(batch[itda.Site(2)]) for batch in batches]
    [2]
    """
    documents = any_corpus(corpus).split(part)
    documents = documents.shuffled(seed) if seed is not None else documents
    sites = crossed(layers_of(layers), streams_of(streams))
    source = ModelSource(
        any_model(model),
        documents,
        sites,
        window=window,
        batch_size=batch_size,
        tokens=tokens,
        skip=skip,
        bos=bos,
    )
    yield iter(source)


def in_memory(model: AnyModel, given: Mapping[str, Any]) -> ActivationModel | None:
    """Return a model that is in memory; None for a name. Raises `SettingError` for settings of how to load it."""
    if not isinstance(model, ActivationModel):
        return None
    for name in ("stream", "model_memory", "workers", "ray", "remote", "device", "dtype", "revision"):
        if given.get(name):
            raise SettingError(f"{name} says how a model is loaded, and this one is: leave it out, or give a name")
    return model


def _as_run(run: AnyRun) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _counted(source: ModelSource, bar: Any) -> Iterator[Mapping[Site, ActivationBatch]]:
    for batches in source:
        yield batches
        bar.update(len(next(iter(batches.values()))))
