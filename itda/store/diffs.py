"""Diffs on disk: what `itda diff` found between a base and a changed model.

```
DIFF/
    diff.json             all that a report shows, as JSON values: models, corpus, and the atoms of each site with text
    tokens.parquet        the tokens that were read, in reading order, and KL(changed || base) after each
    layer_3/              the difference dictionary of a site with a shared basis: an ITDA like any other
    layer_3.parquet       the site's tokens: the energy of each difference, its code, errors and margins
```

A dictionary's activations are `changed / scales[1] - base / scales[0]`, with `scales`, two numbers, in its provenance;
its offset is the mean difference. A folder is written under another name and renamed when it is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Shaped

from itda.core.dictionary import ITDA
from itda.core.display.summaries import facts_html
from itda.core.site import Site
from itda.errors import SettingError, StoreError
from itda.files import DIFF_FORMAT, FORMAT_VERSION, explained, first_line, new_folder, write_json
from itda.store.dictionaries import load_dictionary, write_dictionary
from itda.store.diff_records import RECORD, read_diff_values

TOKENS = "tokens.parquet"
"""The name of the table of tokens; the files of a site are called by its name."""

Columns = Mapping[str, Shaped[np.ndarray, " rows"]]
"""The columns of a table, by name."""


@dataclass(frozen=True, eq=False, repr=False)
class Diff:
    """What changed between a base and a changed model: what `itda diff` makes.

    >>> import itda
    >>> texts = [f"import os; x = {i}; print(os.path.join('a', str(x)))" * 20 for i in range(16)]
    >>> found = itda.diff("tiny", "tiny", texts, layers=[2], tokens=3000, window=64, noise=0, progress=False)
    >>> found
    <Diff of tiny and tiny on text: 3,000 tokens, layer_2>
    >>> found.same, found["layer_2"]["unchanged"], found.dictionaries
    (True, True, {})
    """

    values: Mapping[str, Any]
    """All that a report shows, as JSON values: the contents of diff.json."""
    dictionaries: Mapping[Site, ITDA]
    """The difference dictionary of each site that has a shared basis and differs."""
    tokens: Columns
    """The tokens that were read, a row for each: document, position, char_start, char_end, token_id, role, kl, and
    kl of each control."""
    rows: Mapping[Site, Columns]
    """The tokens of each site, without those that are massive there: token (its row in `tokens`), energy, and so on."""

    @property
    def sites(self) -> list[Site]:
        """The sites that were read."""
        return [Site.parse(name) for name in self.values["sites"]]

    @property
    def same(self) -> bool:
        """True if the changed model is the base."""
        return bool(self.values["same"])

    def __getitem__(self, site: Site | str | int) -> dict[str, Any]:
        """Return what was found at a site, as JSON values. Raises `SettingError` if it was not read."""
        wanted = str(Site.of(site))
        if wanted not in self.values["sites"]:
            raise SettingError(f"no {wanted}: use one of {', '.join(self.values['sites'])}")
        return self.values["sites"][wanted]

    def save(self, folder: str | Path) -> None:
        """Write it to a new folder. Raises `StoreError`."""
        write_diff(self, Path(folder).expanduser())

    @staticmethod
    def load(folder: str | Path) -> Diff:
        """Read one from a folder. Raises `StoreError`."""
        return read_diff(Path(folder).expanduser())

    @property
    def _facts(self) -> dict[str, str]:
        of = f"{self.values['base']['name']} and {self.values['changed']['name']} on {self.values['corpus']}"
        return {"of": of, "tokens": f"{self.values['tokens']:,} tokens, {', '.join(self.values['sites'])}"}

    def __repr__(self) -> str:
        return f"<Diff of {': '.join(self._facts.values())}>"

    def _repr_html_(self) -> str:
        return facts_html("Diff", self._facts)


def write_diff(diff: Diff, folder: Path) -> None:
    """Write a diff to a new folder, in full or not at all. Raises `StoreError`."""
    with explained(f"write {folder}", "name a folder that can be written"), new_folder(folder) as partial:
        write_json(partial / RECORD, {"format": DIFF_FORMAT, "format_version": FORMAT_VERSION, **diff.values})
        _write_table(diff.tokens, partial / TOKENS)
        for site, columns in diff.rows.items():
            _write_table(columns, partial / f"{site}.parquet")
        for site, dictionary in diff.dictionaries.items():
            (partial / str(site)).mkdir()
            write_dictionary(dictionary, partial / str(site))


def read_diff(folder: Path) -> Diff:
    """Read a diff. Raises `StoreError` if it is missing, damaged, foreign or of another version."""
    values = read_diff_values(folder)
    try:
        sites = [Site.parse(name) for name in values["sites"]]
        tokens = _read_table(folder / TOKENS)
        rows = {site: _read_table(folder / f"{site}.parquet") for site in sites}
    except (OSError, pyarrow.ArrowException, SettingError, KeyError, TypeError) as error:
        raise StoreError(f"{folder} is damaged ({first_line(error)}): make or copy it again") from error
    dictionaries = {site: load_dictionary(folder / str(site)) for site in sites if (folder / str(site)).is_dir()}
    return Diff(values, dictionaries, tokens, rows)


def _write_table(columns: Columns, path: Path) -> None:
    arrays = {name: pyarrow.array(values, from_pandas=False) for name, values in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(arrays), path, compression="zstd")


def _read_table(path: Path) -> dict[str, np.ndarray]:
    table = pyarrow.parquet.read_table(path, memory_map=False)
    return {name: np.array(table[name].combine_chunks()) for name in table.column_names}  # copies, to be written to
