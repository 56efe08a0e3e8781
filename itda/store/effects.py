"""The effects of a dictionary's atoms on disk: `effects.parquet`, in the dictionary's folder.

The file names the dictionary that it is of, by a hash of its atoms: beside others it is as if it were not there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from itda.core.effects import FIELDS, MEASURES, AtomEffects, TargetEffects
from itda.errors import SettingError, StoreError
from itda.files import EFFECTS_FORMAT, FORMAT_VERSION, check_format_version, first_line, sha256_of, whole_file

EFFECTS = "effects.parquet"
"""The name of the file."""
KEY = b"itda"
"""The key of the header in the file's metadata."""
COUNTS = ("uses", "added", "ablated")


def write_effects(found: AtomEffects, folder: Path, *, synced: bool = False) -> None:
    """Write effects into the folder of their dictionary, whose atoms are there already. Raises `OSError`."""
    import pyarrow  # not at once: `itda info` imports this module
    import pyarrow.parquet

    columns = {name: pyarrow.array(getattr(found, name)) for name in COUNTS}
    columns |= {f"{name}_{field}": pyarrow.array(getattr(found.measures[name], field)) for name, field in _columns()}
    columns["continuation"] = pyarrow.array(_texts(found.continuation), pyarrow.string())
    promoted = [_texts(each) for each in found.promoted]
    columns["promoted"] = pyarrow.array(promoted, pyarrow.list_(pyarrow.string()))
    header = {"format": EFFECTS_FORMAT, "format_version": FORMAT_VERSION, "atoms_sha256": _hash(folder)}
    header["about"] = dict(found.about)
    table = pyarrow.table({"atom": pyarrow.array(np.arange(len(found), dtype=np.int32)), **columns})
    table = table.replace_schema_metadata({KEY: json.dumps(header)})
    with whole_file(folder / EFFECTS, alone=True, synced=synced) as partial:
        pyarrow.parquet.write_table(table, partial, compression="zstd")


def read_effects(folder: Path, atoms: int) -> AtomEffects | None:
    """Read the effects of the dictionary in a folder; None if there are none, or those of other atoms.

    Raises `StoreError` if the file is damaged, foreign or of another version.
    """
    path = folder / EFFECTS
    if not path.exists():
        return None
    import pyarrow
    import pyarrow.parquet

    remedy = "remove it, and run `itda effects` again"
    try:
        table = pyarrow.parquet.read_table(path, memory_map=False)
        header: dict[str, Any] = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
        if header.get("format") != EFFECTS_FORMAT:
            raise StoreError(f"{path} is not an {EFFECTS_FORMAT} file: {remedy}")
        check_format_version(path, header)
        if len(table) != atoms or header["atoms_sha256"] != _hash(folder):
            return None
        numbers = {name: table[name].to_numpy() for name in (*COUNTS, *(f"{a}_{b}" for a, b in _columns()))}
        measures = {
            name: TargetEffects(**{field: numbers[f"{name}_{field}"].astype(np.float32) for field in FIELDS})
            for name in MEASURES
        }
        return AtomEffects(
            measures,
            continuation=tuple(table["continuation"].to_pylist()),
            promoted=tuple(tuple(each) for each in table["promoted"].to_pylist()),
            about=header["about"],
            **{name: numbers[name].astype(np.int32) for name in COUNTS},
        )
    except (OSError, pyarrow.ArrowException, SettingError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}): {remedy}") from error


def _columns() -> list[tuple[str, str]]:
    return [(name, field) for name in MEASURES for field in FIELDS]


def _hash(folder: Path) -> str:
    return sha256_of(folder / "atoms.safetensors")


def _texts(tokens: tuple[str | None, ...]) -> list[str | None]:
    """Return texts that UTF-8 can hold: half a surrogate pair becomes a question mark."""
    return [each.encode("utf-8", "replace").decode() if each is not None else None for each in tokens]
