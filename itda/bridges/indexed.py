"""What an exporter reads: a dictionary of a run, and the codes of a corpus that `itda index` has kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.errors import StoreError
from itda.explorer.code_index import CodeIndex
from itda.store.dictionaries import load_dictionary
from itda.store.records import RunRecord

Done = Callable[[int], Any]
"""A function that is told how many more rows are written."""

Say = Callable[[str], object]
"""A function that is told one line that the user should know."""


@dataclass(frozen=True, eq=False)
class Indexed:
    """A dictionary of a run with its code index."""

    folder: Path
    """The run folder."""
    record: Mapping[str, Any]
    """The contents of run.json."""
    site: Site
    dictionary: ITDA
    index: CodeIndex

    @staticmethod
    def open(run: RunRecord, site: Site) -> Indexed:
        """Read one dictionary of a run and map its index.

        Raises `StoreError` if the run has no index of the site, or atoms without labels.
        """
        index = CodeIndex.open(run.folder, site)
        dictionary = load_dictionary(run.sites[site])
        if len(dictionary) == 0:
            raise StoreError(f"{run.sites[site]} has no atoms: train it on some activations")
        return Indexed(run.folder, run.record, site, dictionary, index)

    @property
    def corpus(self) -> str | None:
        """The name of the indexed corpus; None if it is a path, which says something of this machine."""
        name = str(self.index.record["corpus"])
        return None if Path(name).is_absolute() else name

    @property
    def model(self) -> str | None:
        """The name of the language model; None if it is a path."""
        name = str(self.record["model"])
        return None if Path(name).is_absolute() else name
