"""The data sets of sae-probes, out of its installed package, its wheel, or a folder: prompts with two classes.

sae-probes (https://github.com/sae-probes/sae-probes, MIT) brings 113 of them in its wheel, as CSV packed by zstd.
Nothing of its code is run here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from jaxtyping import Int64

from itda.errors import CorpusError, SettingError
from itda.files import first_line

USED = 5000
"""Prompts of a set, the first, of which sae-probes takes its rows."""
INDEX = "probing_datasets_MASTER.csv.zst"
INSIDE = "sae_probes/data/"
REMEDY = "pip install sae-probes, or name with --data its wheel (pip download --no-deps sae-probes) or folder"


@dataclass(frozen=True)
class LabelledSet:
    """Prompts of two classes."""

    name: str
    size: int
    """Prompts in the whole set, of which `prompts` are some."""
    prompts: Sequence[str]
    classes: Int64[np.ndarray, " prompts"]
    """0 or 1 for each prompt, in the order of the classes' names."""


@dataclass(frozen=True)
class ProbeSets:
    """The data sets with two classes in one place, by name."""

    place: str
    names: Sequence[str]
    _read: Callable[[str], bytes]

    def load(self, name: str, rows: int | None, seed: int) -> LabelledSet:
        """Read a set: the first 5,000 prompts in their order, or `rows` of them, as many of either class, by the seed.

        Raises `CorpusError` for a set that is damaged.
        """
        table = _table(self._read(f"cleaned_data/{name}.csv.zst"), f"{name} of {self.place}")
        if not {"prompt", "target"} <= set(table.columns):
            raise CorpusError(f"{name} of {self.place} has no prompt and target: get sae-probes 0.4.2 anew")
        first = table[:USED]
        kinds, classes = np.unique(first["target"].to_numpy(), return_inverse=True)
        if len(kinds) != 2:
            raise CorpusError(f"{name} of {self.place} has {len(kinds)} classes, not 2: leave it out")
        prompts, size = [str(prompt) for prompt in first["prompt"]], len(table)
        if rows is not None and rows < len(prompts):
            chosen = drawn(classes, rows, seed)
            prompts, classes, size = [prompts[row] for row in chosen], classes[chosen], len(chosen)
        return LabelledSet(name, size, prompts, classes.astype(np.int64))


def drawn(classes: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Return numbers of rows, as many of class 0 as of class 1, in a shuffled order.

    >>> sorted(np.array([0, 0, 0, 1, 1])[drawn(np.array([0, 0, 0, 1, 1]), 4, 0)].tolist())
    [0, 0, 1, 1]
    """
    generator = np.random.RandomState(seed)
    each = min(rows // 2, *np.bincount(classes, minlength=2))
    sides = [generator.choice(np.flatnonzero(classes == side), each, replace=False) for side in (0, 1)]
    return generator.permutation(np.concatenate(sides))


def find_sets(data: Path | None) -> ProbeSets:
    """Find the data sets: in `data`, a wheel or a folder, or else in the sae-probes that is installed.

    Raises `SettingError` if they are not there, `CorpusError` if they are damaged.
    """
    place, read = _reader(data)
    try:
        index = _table(read(INDEX), str(place))
    except (KeyError, OSError) as error:
        raise SettingError(f"{place} has no {INDEX}: {REMEDY}") from error
    binary = index[index["Data type"] == "Binary Classification"]["Dataset save name"]
    return ProbeSets(str(place), [Path(name).name.split(".")[0] for name in binary], read)


def _reader(data: Path | None) -> tuple[Path, Callable[[str], bytes]]:
    if data is None:
        spec = find_spec("sae_probes")
        if spec is None or spec.origin is None:
            raise SettingError(f"sae-probes is not installed: {REMEDY}")
        data = Path(spec.origin).parent
    data = data.expanduser()
    if data.is_dir():
        inside = next((each for each in (data / INSIDE, data / "data", data) if (each / INDEX).exists()), data)
        return data, lambda name: (inside / name).read_bytes()
    try:
        packed = zipfile.ZipFile(data)
    except (OSError, zipfile.BadZipFile) as error:
        raise SettingError(f"{data} is no wheel of sae-probes ({first_line(error)}): {REMEDY}") from error
    return data, lambda name: packed.read(INSIDE + name)


def _table(packed: bytes, what: str) -> Any:
    """Read a packed CSV as sae-probes does, by pandas; pyarrow unpacks it. Raises `CorpusError`."""
    import pandas as pd

    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
            return pd.read_csv(io.BytesIO(stream.read()))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{what} is damaged ({first_line(error)}): get sae-probes 0.4.2 anew") from error
