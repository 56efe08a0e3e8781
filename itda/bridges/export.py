"""`itda export`: a run's dictionaries in the format of another tool, one format a file of this room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.bridges.indexed import Done, Indexed, Say
from itda.checks import check_exportable, export_folder
from itda.core.site import Site
from itda.files import explained, whole_folder
from itda.recipes.run_model import find_model
from itda.recipes.runs import Bar, Run, no_bar, open_run, unsaid
from itda.store.records import chosen_site


@dataclass(frozen=True)
class Exported:
    """What `itda export` has written."""

    folder: Path
    to: str
    """The format."""
    sites: Sequence[Site]
    bytes: int


def export_run(options: settings.Export, bar: Bar = no_bar, say: Say = unsaid) -> Exported:
    """`itda export`: write a run's dictionaries in the format of another tool, into a new folder.

    The folder is there in full or not at all. `say` is told what the user should know. Raises an `ItdaError` for bad
    input.
    """
    check_exportable(options)
    run, target = open_run(options.run), export_folder(options)
    wanted = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    sites = [site for site in run.sites if site in wanted]
    write, rows = FORMATS[options.to](run, sites, options, say)
    remedy = "name a folder that can be written, with more space"
    with explained(f"write {target}", remedy):
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(target, alone=True) as partial, bar(options.to, rows) as progress:
            write(partial, progress.update)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return Exported(target, options.to, sites, size)


Writing = tuple[Callable[[Path, Done], object], int]
"""A function that writes into a folder, and how many rows it will count."""


def _opened(run: Run, sites: Sequence[Site]) -> list[Indexed]:
    return [Indexed.open(run, site) for site in sites]


def _tables(suffix: str) -> Callable[..., Writing]:
    def prepared(run: Run, sites: Sequence[Site], options: settings.Export, say: Say) -> Writing:  # noqa: ARG001
        from itda.bridges import tables

        sources = _opened(run, sites)
        return lambda folder, done: tables.export(sources, folder, suffix, done), _tokens(sources)

    return prepared


def _tokens(sources: Sequence[Indexed]) -> int:
    return sum(source.index.tokens for source in sources)


def _atoms(sources: Sequence[Indexed]) -> int:
    return sum(len(source.dictionary) for source in sources)


def _delphi(run: Run, sites: Sequence[Site], options: settings.Export, say: Say) -> Writing:
    from itda.bridges import delphi
    from itda.sources.models.named import NamedModel
    from itda.sources.tokenizing.windows import Windower

    sources = _opened(run, sites)
    where = find_model(run.folder, run.record, settings.RunOptions(model_path=options.model_path), say)
    named = NamedModel.named(where.name, revision=where.revision)
    tokenizer = named.tokenizer()
    windower = Windower(tokenizer, int(run.record["window"]), bos=run.bos)
    dressing = delphi.Dressing(windower.prefix, windower.pad)
    own = export_folder(options).resolve() / "tokenizer"
    of_the_hub = run.record.get("model_fingerprint") is None and where.name != "tiny"

    def write(folder: Path, done: Done) -> None:
        name = where.name
        if not of_the_hub:  # what Delphi could not find by its name
            tokenizer.save_pretrained(folder / "tokenizer")
            name = str(own)
        delphi.export(sources, folder, dressing, name, done, say, both_signs=options.both_signs)

    return write, _atoms(sources) * (2 if options.both_signs else 1)


def _neuronpedia(run: Run, sites: Sequence[Site], options: settings.Export, say: Say) -> Writing:
    from itda.bridges import neuronpedia

    sources = _opened(run, sites)
    places = neuronpedia.places(run, sites, str(options.model), options.set)
    return lambda folder, done: neuronpedia.export(sources, folder, places, done, say), _atoms(sources)


def _saelens(run: Run, sites: Sequence[Site], options: settings.Export, say: Say) -> Writing:  # noqa: ARG001
    from itda.bridges import saelens_files

    dictionaries = {site: run.dictionary(site) for site in sites}
    atoms = sum(len(dictionary) for dictionary in dictionaries.values())
    return lambda folder, done: saelens_files.export(dictionaries, folder, done, say), atoms


FORMATS: Mapping[str, Callable[..., Any]] = {
    "json": _tables(".jsonl"),
    "parquet": _tables(".parquet"),
    "delphi": _delphi,
    "neuronpedia": _neuronpedia,
    "saelens": _saelens,
}
"""For each format a function that prepares the writing: it reads what is needed and refuses what cannot be written."""
