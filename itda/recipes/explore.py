"""`itda explore`: runs, fingerprints and diffs shown in a browser; runs or a diff exported as one HTML file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from itda import config as settings
from itda.checks import are_fingerprints, check_export
from itda.core.batch import Site
from itda.errors import SettingError
from itda.explorer import PORT
from itda.explorer.diffs import DiffPages
from itda.explorer.export import Contents, chosen_atoms, page
from itda.explorer.export_diff import diff_page
from itda.explorer.pages import Explorer
from itda.files import explained, write_whole
from itda.recipes.compare import compare_runs, comparison_values
from itda.recipes.explore_diffs import diff_pages
from itda.recipes.explore_fingerprints import fingerprint_pages
from itda.recipes.runs import Bar, finite, limits_of, no_bar, open_run
from itda.sources.models.transformers import LanguageModel
from itda.store.diff_records import is_diff
from itda.store.records import chosen_site

READ_AFTER_S = 1.0
"""Seconds from the start of the server until it reads ahead for the first atom and search."""
WARM_AFTER_S = 2.0
"""Seconds after the start when the model is loaded, if no prompt came before."""


def explorer_of(options: settings.Explore, say: Callable[[str], object] = lambda _line: None) -> Explorer:
    """Make the explorer of some runs, fingerprints and diffs. `say` is told of models that have changed.

    Raises an `ItdaError` for what is none of these, and for fingerprints that cannot be compared.
    """

    def load(folder: Path) -> LanguageModel:
        return open_run(folder).model(options, say)

    diffs = [path for path in options.runs if is_diff(path)]
    found = tuple(path for path in options.runs if path not in diffs and are_fingerprints([path]))
    return Explorer(
        [path for path in options.runs if path not in found and path not in diffs],
        loader=load if options.model else None,
        compare=_compared,
        batch_size=options.batch_size,
        limits=limits_of(options),
        fingerprints=fingerprint_pages(found, options.corpus_path) if found else None,
        diffs=diff_pages(diffs, models=options.model) if diffs else None,
    )


def _compared(a: Path, b: Path) -> Mapping[str, Any]:
    """Compare two runs, or one with itself; return JSON values."""
    runs = (a,) if a == b else (a, b)
    values = finite(comparison_values(compare_runs(settings.Compare(runs=runs))))
    return values["pairs"][0]


def prompt_address(run: Path, site: Site, text: str, token: int | None = None) -> str:
    """Return the address at which the explorer, started with this run, shows a text with one token chosen."""
    values = {"run": run.resolve().name, "site": str(site), "text": text}
    if token is not None and token >= 0:
        values["t"] = str(token)
    return f"http://127.0.0.1:{PORT}/#/prompt?{urlencode(values, quote_via=quote, errors='surrogateescape')}"


def explore(
    options: settings.Explore, on_ready: Callable[[str], None], say: Callable[[str], object] = lambda _line: None
) -> None:
    """`itda explore`: serve until Ctrl-C; `on_ready` is called with the address, `say` with remarks for the user.

    Raises an `ItdaError` for bad input.
    """
    from itda.explorer.server import serve

    explorer = explorer_of(options, say)
    explorer.prepare()
    if explorer.fingerprints is not None:
        threading.Thread(target=explorer.fingerprints.prepare, daemon=True).start()
    if explorer.runs.folders:
        # Once the first page is likely there, as it would slow it.
        reading = threading.Timer(READ_AFTER_S, explorer.read_ahead)
        reading.daemon = True
        reading.start()
    if options.model and explorer.runs.folders:
        # Later, as it would slow the first page; a prompt that comes earlier loads the model itself.
        warming = threading.Timer(WARM_AFTER_S, explorer.warm)
        warming.daemon = True
        warming.start()
    serve(explorer, port=options.port, on_ready=on_ready)


def export(options: settings.Explore, bar: Bar = no_bar, say: Callable[[str], object] = lambda _line: None) -> int:
    """Write one self-contained page to `options.export`; return its size in bytes. Raises an `ItdaError`."""
    assert options.export is not None
    target = options.export
    check_export(options)
    if is_diff(options.runs[0]):
        return export_diffs(diff_pages(options.runs, models=False), target)
    explorer = explorer_of(options, say)
    prompts = tuple(text for text in options.prompts if text.strip())
    sites: dict[str, str] = {}
    atoms: dict[str, list[int]] = {}
    for run, folder in explorer.runs.folders.items():
        sites[run] = str(chosen_site(open_run(folder), options.layer))
        if options.atoms is None:
            atoms[run] = chosen_atoms(explorer, run, sites[run], prompts, options.top)
        else:
            atoms[run] = _within(options.atoms, len(explorer.runs.dictionary(run, sites[run]).itda))
    with bar("export", sum(len(each) for each in atoms.values())) as progress:
        text = page(explorer, Contents(sites, atoms, prompts), progress.update)
    return _written(text, target)


def export_diffs(pages: DiffPages, target: Path) -> int:
    """Write one self-contained page of some diffs; return its size in bytes. Raises `StoreError`."""
    return _written(diff_page(Explorer([], loader=None, compare=_compared, diffs=pages)), target)


def _written(text: str, target: Path) -> int:
    with explained(f"write {target}", "name another file"):
        write_whole(target, text)
    return target.stat().st_size


def _within(atoms: tuple[int, ...], number: int) -> list[int]:
    """Return the atoms sorted, each once. Raises `SettingError` for one that a dictionary of `number` atoms lacks."""
    wrong = [atom for atom in atoms if atom >= number]
    if wrong:
        raise SettingError(f"no atom {wrong[0]}: the dictionary has {number:,}, use 0 to {number - 1:,}")
    return sorted(set(atoms))
