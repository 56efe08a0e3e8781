"""`itda effects`: what the atoms of a run do to the next token when they are added and ablated, beside controls."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from itda import config as settings
from itda.core.dictionary import ITDA
from itda.core.effects import AtomEffects, EffectSettings
from itda.core.labels import Labels
from itda.core.site import Site
from itda.errors import StoreError
from itda.files import explained, locked, sha256_of, write_whole
from itda.recipes.runs import Bar, Run, Say, corpus_of, limits_of, no_bar, open_run, unsaid
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.steering.atom_effects import Measuring
from itda.store.dictionaries import model_card
from itda.store.effects import write_effects
from itda.store.records import chosen_site

PARTIAL = ".effects.partial.npz"
"""The file, in a dictionary's folder, that a killed process goes on from."""
SAVE_EVERY_S = 30.0


@dataclass(frozen=True)
class Measured:
    """The effects of the atoms of some dictionaries of a run, with the labels of the atoms."""

    folder: Path
    sites: Mapping[Site, AtomEffects]
    labels: Mapping[Site, Labels]
    new: bool
    """False if all was on disk already."""


def measure_run(options: settings.Effects, bar: Bar = no_bar, say: Say = unsaid) -> Measured:
    """`itda effects`: measure the effects of all atoms of a run's dictionaries, and write them beside these.

    Goes on where a killed process with the same settings was; what is there already is not measured again. `say` is
    told what the user should know. Raises an `ItdaError` for bad input.
    """
    asked = EffectSettings(options.contexts, options.strength, options.tokens, options.seed)
    run = open_run(options.run)
    wanted = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    sites = [site for site in run.sites if site in wanted]
    with locked(run.folder, "changed"):
        dictionaries = {site: run.dictionary(site, limits_of(options)) for site in sites}
        corpus = corpus_of(run, options.corpus, options, "read", say)
        source = {"corpus": corpus.fingerprint, "part": corpus.part}
        found = {site: _kept(dictionaries[site], asked, source) for site in sites}
        missing = [site for site in sites if found[site] is None]
        lm = run.model(options, say) if missing else None
        for site in missing:
            assert lm is not None
            found[site] = _measured(run, lm, dictionaries[site], site, corpus, asked, source, bar)
    whole = {site: each for site, each in found.items() if each is not None}
    return Measured(run.folder, whole, {site: dictionaries[site].labels for site in whole}, bool(missing))


def _kept(dictionary: ITDA, asked: EffectSettings, source: Mapping[str, Any]) -> AtomEffects | None:
    """Return the effects on disk, if they were measured in this way."""
    found = dictionary.effects
    if found is None:
        return None
    return found if found.about.get("asked") == {**asdict(asked), **source} else None


def _measured(
    run: Run,
    lm: LanguageModel,
    dictionary: ITDA,
    site: Site,
    corpus: Corpus,
    asked: EffectSettings,
    source: Mapping[str, Any],
    bar: Bar,
) -> AtomEffects:
    folder = run.sites[site]
    settled = {**asdict(asked), **source}
    own = json.dumps({**settled, "atoms": sha256_of(folder / "atoms.safetensors"), "model": lm.dtype}, sort_keys=True)
    with bar(f"read {site}", asked.tokens) as progress:
        measuring = Measuring(lm, dictionary, site, corpus, asked, progress.update)
    with explained(f"write in {folder}", "free some space, or make the folder writable"):
        with bar(f"effects {site}", measuring.passes) as progress:
            _resume(measuring, folder / PARTIAL, own)
            progress.update(measuring.made)
            saved = time.monotonic()
            for made in measuring.run():
                progress.update(made)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    _save(measuring, folder / PARTIAL, own)
                    saved = time.monotonic()
        found = measuring.found({"asked": settled})
        write_effects(found, folder, synced=True)
        write_whole(folder / "README.md", model_card(replace(dictionary, effects=found)))
        (folder / PARTIAL).unlink(missing_ok=True)
    return found


def _save(measuring: Measuring, path: Path, own: str) -> None:
    arrays: Any = {"own": np.array(own), **measuring.state()}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    write_whole(path, packed.getvalue(), alone=True)


def _resume(measuring: Measuring, path: Path, own: str) -> None:
    """Go on from the file, if it is whole and of the same measurement."""
    if not path.exists():
        return
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["own"]) == own:
                measuring.resume({name: kept[name] for name in kept.files if name != "own"})
    except (OSError, ValueError, KeyError, EOFError, StoreError):
        return  # written by a process that was killed, or by something else: it is begun anew


def effect_values(made: Measured) -> dict[str, Any]:
    """Return what was found as JSON values: of each site the summary, and of each atom its effects and label."""
    sites = {}
    for site, found in made.sites.items():
        labels = made.labels[site]
        atoms = [
            {
                "atom": atom,
                **found.values(atom),
                "document": labels[atom].document,
                "position": labels[atom].position,
                "token": labels[atom].token,
            }
            for atom in range(len(found))
        ]
        sites[str(site)] = {**found.summary(), "atoms": atoms}
    return {"run": str(made.folder), "new": made.new, "sites": sites}
