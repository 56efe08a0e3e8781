"""The commands that work on run folders, from Python: plan, probe, index, replicate, effects, features, explore and
export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.api.results import Effects, Probes, Replications
from itda.api.runs import AnyRun
from itda.api.settings import layers_of, made, path_of, site_of, streams_of
from itda.bridges.export import Exported, export_run
from itda.bridges.hub import Pushed, push_run
from itda.bridges.sae_probes import SetScores, probe_sets
from itda.checks import check_probe_sets, check_push
from itda.core.effects import CONTEXTS, STRENGTH
from itda.core.replication import COSINE, DRAWS
from itda.errors import SettingError
from itda.progress import bars, remarks
from itda.recipes.effects import measure_run
from itda.recipes.explore import explore as serve_pages
from itda.recipes.explore import export as export_page
from itda.recipes.features import Fitted, fit_run
from itda.recipes.index import Indexing, index_run
from itda.recipes.plan import Planned
from itda.recipes.plan import plan as planned
from itda.recipes.probe import probe_run
from itda.recipes.replicate import replicate as replicate_run
from itda.recipes.runs import Run
from itda.store.hub import local_run


def plan(
    model: str | Path,
    *,
    layers: int | Sequence[int],
    streams: str | Sequence[str] = "resid_post",
    progress: bool = True,
    **given: Any,
) -> Planned:
    """Estimate what a model that is larger than memory would read, hold and compute: `itda plan`.

    It is computed from the model's config.json alone: nothing is loaded. Sizes are bytes. With `measure=True` this
    machine's rates are measured first, in some seconds, and kept. Raises an `ItdaError`.

    >>> import itda
    >>> itda.plan("tiny", layers=[2, 4]).whole["laptop"]
    True
    """
    options = made(settings.Plan, model=str(model), layers=layers_of(layers), streams=streams_of(streams), **given)
    return planned(options, bars(not progress))


def probe(
    run: AnyRun, *, corpus: str | Path | None = None, tokens: int = 20_000, progress: bool = True, **given: Any
) -> Probes | SetScores:
    """Measure how well a few numbers of each readout tell Python's comments, strings, names ... apart: `itda probe`.

    It reads the held-out documents of the run's corpus, or a `corpus` of Python source; with `sets="sae-probes"` the
    data sets of sae-probes, by its protocol (docs/bridges.md). Raises an `ItdaError`.

    >>> import itda
    >>> itda.probe("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    place = str(corpus) if corpus is not None else None
    options = made(settings.Probe, run=folder_of(run), corpus=place, tokens=tokens, **given)
    if options.sets == "sae-probes":
        check_probe_sets(options)
        return probe_sets(options, bars(not progress), remarks(not progress))
    return Probes(*probe_run(options, bars(not progress), remarks(not progress)))


def index(
    run: AnyRun, *, corpus: str | Path | None = None, tokens: int | None = None, progress: bool = True, **given: Any
) -> Indexing:
    """Keep the codes of a corpus in a run folder, by token and by atom, for the explorer: `itda index`.

    By default these are the run's own documents, and as many tokens as it read. The activations nearest to each atom
    are kept with its dictionary, for `Atom.nearest`. Called again, it goes on where it was stopped. Raises an
    `ItdaError`.

    >>> import itda
    >>> itda.index("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    place = str(corpus) if corpus is not None else None
    options = made(settings.Index, run=folder_of(run), corpus=place, tokens=tokens, **given)
    return index_run(options, bars(not progress), remarks(not progress))


def replicate(
    run: AnyRun, *, draws: int = DRAWS, cosine: float = COSINE, seed: int = 0, progress: bool = True, **given: Any
) -> Replications:
    """Find out which atoms of a run come back in dictionaries made from halves of its documents: `itda replicate`.

    Each of the `draws` splits the run's documents into two halves and makes a dictionary from each, with the run's
    settings. An atom has come back if the half without its own document has an atom with a cosine of at least `cosine`
    to it, of either sign. It reads the run's model once; beside that, it takes up to about twice `draws` times as long
    as training. The results are kept in the run folder, as `replication` of its dictionaries. Called again, it goes on
    where it was stopped. Returns, by site, a `Replication`. Raises an `ItdaError`.

    >>> import itda
    >>> itda.replicate("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    options = made(settings.Replicate, run=folder_of(run), draws=draws, cosine=cosine, seed=seed, **given)
    return Replications(replicate_run(options, bars(not progress), remarks(not progress)))


def effects(
    run: AnyRun,
    *,
    contexts: int = CONTEXTS,
    strength: float = STRENGTH,
    corpus: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
    **given: Any,
) -> Effects:
    """Measure what each atom of a run does to the next token when it is added and ablated: `itda effects`.

    Each atom is added, with `strength` typical coefficients of the dictionary, at the last token of `contexts` texts.
    It is ablated at up to as many tokens whose code has it. Measured are the changes in the log-probability of the
    token that follows the atom's own in its label, and of the tokens that its direction promotes, beside controls. The
    results are kept in the run folder, as `effects` of its dictionaries. Called again, it goes on where it was stopped.
    Returns, by site, an `AtomEffects`. Raises an `ItdaError`.

    >>> import itda
    >>> itda.effects("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    options = made(
        settings.Effects,
        run=folder_of(run),
        contexts=contexts,
        strength=float(strength),
        corpus=str(corpus) if corpus is not None else None,
        seed=seed,
        **given,
    )
    return Effects(measure_run(options, bars(not progress), remarks(not progress)))


def features(
    run: AnyRun, *, corpus: str | Path | None = None, tokens: int | None = None, progress: bool = True, **given: Any
) -> Fitted:
    """Fit detectors of a run's atoms and keep them in its folder, for `ITDA.features`: `itda features`.

    By default they are fitted on the run's own documents, on as many tokens as it read. For a run in memory, or
    activations of your own, there is `itda.fit_features`. Raises an `ItdaError`.

    >>> import itda
    >>> itda.features("nowhere")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    place = str(corpus) if corpus is not None else None
    options = made(settings.Features, run=folder_of(run), corpus=place, tokens=tokens, **given)
    return fit_run(options, bars(not progress), remarks(not progress))


def explore(
    *runs: AnyRun,
    page: str | Path | None = None,
    prompts: Sequence[str] = (),
    site: str | int | None = None,
    ready: Callable[[str], None] = print,
    progress: bool = True,
    **given: Any,
) -> None:
    """Show runs or diffs in a browser, until interrupted; or write one `page` that needs no server: `itda explore`.

    `ready` is called with the address. A `page` is a file that carries the `prompts`, taken apart, and the most used
    atoms of a `site`.
    Raises an `ItdaError`.

    >>> import itda
    >>> itda.explore("nowhere", page="page.html")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    folders, chosen = tuple(map(folder_of, runs)), site_of(site)
    options = made(
        settings.Explore,
        runs=folders,
        export=path_of(page) if page is not None else None,
        prompts=tuple(prompts),
        layer=chosen,
        **given,
    )
    say = remarks(not progress)
    if page is None:
        serve_pages(options, ready, say)
    else:
        export_page(options, bars(not progress), say)


def export(run: AnyRun, *, to: str, out: str | Path | None = None, progress: bool = True, **given: Any) -> Exported:
    """Write a run's dictionaries, and the codes of an indexed corpus, for another tool: `itda export`.

    `to` is the format: json, parquet, delphi, neuronpedia or saelens. `out` is the folder to make, by default one
    beside the run. Raises an `ItdaError`.

    >>> import itda
    >>> itda.export("nowhere", to="parquet")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    folder = path_of(out) if out is not None else None
    options = made(settings.Export, run=folder_of(run), to=to, out=folder, **given)
    return export_run(options, bars(not progress), remarks(not progress))


def push(
    run: AnyRun,
    repository: str,
    *,
    private: bool = False,
    index: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Pushed:
    """Share a run in a repository `user/name` of the Hugging Face Hub: `itda push`.

    Sent are dictionaries, labels, records and a card; with `index` also what `itda index` made. Called again, it sends
    what has changed or was not sent. Returns the files and the address; with `dry_run` nothing is sent. Raises an
    `ItdaError`.

    >>> import itda
    >>> itda.push("nowhere", "user/name")
    Traceback (most recent call last):
    itda.errors.StoreError: no run folder nowhere: check the path, or make one with `itda train`
    """
    options = settings.Push(run=folder_of(run), repository=repository, private=private, index=index, dry_run=dry_run)
    check_push(options)
    return push_run(options, bars(not progress), remarks(not progress))


def folder_of(run: AnyRun) -> Path:
    """Return the folder of a run, a copy of one on the Hub. Raises `SettingError` for one that is in memory."""
    if not isinstance(run, Run):
        return local_run(path_of(run), index=True, or_fingerprint=True)
    if not run.folder.is_dir():
        raise SettingError("the run is in memory, and this needs its folder: run.save(folder) first")
    return run.folder
