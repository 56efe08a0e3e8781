"""The records of a run folder: its JSON and the headers of its files, read at once, since no tensors are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from itda.core.arithmetic import FIRST
from itda.core.effects import AtomEffects
from itda.core.replication import Replication
from itda.core.site import Site
from itda.errors import SettingError, StoreError
from itda.files import DICTIONARY_FORMAT, METRICS_FORMAT, RUN_FORMAT, first_line, read_json
from itda.store.effects import read_effects
from itda.store.notes import Notes, read_notes
from itda.store.replication import read_replication

UNFINISHED = "unfinished.json"
"""The name of the file that marks a run that is being made: see `itda.recipes.run_in_progress`."""

PARQUET = b"PAR1"
"""The bytes that a whole .parquet file begins and ends with."""


@dataclass(frozen=True)
class DictionaryRecord:
    """A dictionary's shape, settings and measures, without its tensors."""

    folder: Path
    config: Mapping[str, Any]
    """The contents of its config.json."""
    fidelity: np.ndarray | None
    """[atoms], sorted: the cosine of each atom to the activation that its label names; None if it is not refined."""
    metrics: Mapping[str, Any] | None
    """The measures by `itda evaluate`; None if it was not evaluated."""
    replication: Replication | None = None
    """How often each atom came back from other documents; None if `itda replicate` was not run."""
    effects: AtomEffects | None = None
    """What each atom does to the next token; None if `itda effects` was not run."""

    def __repr__(self) -> str:
        return f"<DictionaryRecord {self.folder}: {self.atoms:,} atoms of width {self.config['d_model']}>"

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return self.config["atoms"]

    @property
    def arithmetic(self) -> list[int]:
        """The versions of the order of summation that made it, which say what bits it has."""
        return self.config.get("arithmetic", [FIRST])

    @property
    def massive(self) -> Mapping[str, Any] | None:
        """Counts of massive activations in training; None where the rule was off, or in older dictionaries."""
        return self.config.get("provenance", {}).get("massive")

    @property
    def values(self) -> dict[str, Any]:
        """The JSON values that `itda info --json` prints for it."""
        found = {name: self.config[name] for name in ("atoms", "d_model", "k")}
        found["arithmetic"] = self.arithmetic
        if self.massive is not None:
            found["massive"] = dict(self.massive)
        if self.fidelity is not None and len(self.fidelity):
            middle = self.fidelity[(len(self.fidelity) - 1) // 2]
            found["fidelity"] = {"median": float(middle), "least": float(self.fidelity[0])}
        if self.replication is not None:
            found["replication"] = self.replication.summary()
        if self.effects is not None:
            found["effects"] = self.effects.summary()
        return found | ({"metrics": dict(self.metrics)} if self.metrics is not None else {})

    @staticmethod
    def read(folder: Path) -> DictionaryRecord:
        """Read the record of a dictionary's folder. Raises `StoreError` if headers show that it is damaged."""
        config = read_json(folder / "config.json", DICTIONARY_FORMAT)
        metrics = folder / "metrics.json"
        try:
            with safe_open(folder / "atoms.safetensors", "numpy") as file:
                shape = tuple(file.get_slice("atoms").get_shape())
                fidelity = np.sort(file.get_tensor("fidelity")) if config.get("refined", False) else None
            wanted = config["atoms"], config["d_model"]
            if shape != wanted:
                raise StoreError(f"{folder} holds atoms of shape {shape}, not those of its config: download it again")
            with (folder / "labels.parquet").open("rb") as labels:
                start = labels.read(4)
                labels.seek(-4, 2)
                if not start == labels.read(4) == PARQUET:
                    raise StoreError(
                        f"{folder} is damaged or incomplete (labels.parquet is cut short): write or download it again"
                    )
            for name in ("k", "pursuit", "threshold"):
                config[name]  # a KeyError for a config without it: every reader asks for these
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise StoreError(
                f"{folder} is damaged or incomplete ({first_line(error)}): write or download it again"
            ) from error
        found = read_json(metrics, METRICS_FORMAT) if metrics.exists() else None
        replication = read_replication(folder, config["atoms"])
        effects = read_effects(folder, config["atoms"])
        return DictionaryRecord(folder, config, fidelity, found, replication, effects)


@dataclass(frozen=True)
class RunRecord:
    """A run folder that was read: its settings, and the folder of each site's dictionary."""

    folder: Path
    record: Mapping[str, Any]
    """The contents of run.json."""
    sites: Mapping[Site, Path]

    def __repr__(self) -> str:
        # A dataclass's own would have every setting and version.
        return f"<{type(self).__name__} {self.folder}: {'; '.join(self._facts.values())}>"

    def _repr_html_(self) -> str:
        from itda.core.display.summaries import facts_html

        return facts_html(f"{type(self).__name__} {self.folder}", self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        made, known = self.record, self.record.get("settings", {})
        of = f"{made.get('model')} on {made.get('corpus')}"
        found = {"of": " ".join(of.split())[:100]}
        if "tokens" in made:
            found["tokens"] = f"{made['tokens']:,} tokens"
        if "mode" in known:
            found["mode"] = f"mode {known['mode']}"
        return found | {"sites": ", ".join(map(str, self.sites))}

    def summaries(self) -> dict[Site, DictionaryRecord]:
        """Read the record of each dictionary. Raises `StoreError`."""
        return {site: DictionaryRecord.read(folder) for site, folder in self.sites.items()}

    def values(self, summaries: Mapping[Site, DictionaryRecord]) -> dict[str, Any]:
        """Return the JSON values that `itda info --json` prints."""
        found = {**self.record, "dictionaries": {str(site): made.values for site, made in summaries.items()}}
        notes = self.notes.summary
        return found | ({"notes": notes} if notes["atoms"] else {})

    @property
    def notes(self) -> Notes:
        """What a reader wrote of the run's atoms in the explorer."""
        return read_notes(self.folder)


def open_record(folder: Path) -> RunRecord:
    """Open a run folder. Raises `StoreError` if it is missing, foreign or not whole."""
    if (folder / UNFINISHED).exists() and not (folder / "run.json").exists():
        raise StoreError(f"{folder} is unfinished: go on with itda train --resume {folder}")
    sites = dictionaries(folder)
    return RunRecord(folder, read_json(folder / "run.json", RUN_FORMAT), sites)


def chosen_site(run: RunRecord, site: Site | None) -> Site:
    """Return the site that the user names, or the middle one. Raises `SettingError` if the run lacks it."""
    sites = list(run.sites)
    if site is None:
        return sites[len(sites) // 2]
    if site not in run.sites:
        names = ", ".join(s.short for s in sites)
        raise SettingError(f"the run has no layer {site.short}: use one of {names}")
    return site


def dictionaries(run: Path) -> dict[Site, Path]:
    """Return the folder of each site's dictionary in a run. Raises `StoreError` if the folder is not a run."""
    if not run.is_dir():
        raise StoreError(f"no run folder {run}: check the path, or make one with `itda train`")
    sites = read_json(run / "run.json", RUN_FORMAT).get("sites", [])
    found = {Site.parse(name): run / name for name in sites}
    for folder in found.values():
        if not folder.is_dir():
            raise StoreError(f"{run} lacks its {folder.name}: the run is incomplete, train or copy it again")
    return found
