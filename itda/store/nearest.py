"""The nearest activations of each atom on disk: `nearest.parquet`, in the dictionary's folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from itda.core.labels import Labels
from itda.core.nearest import Nearest
from itda.errors import SettingError, StoreError
from itda.files import FORMAT_VERSION, NEAREST_FORMAT, check_format_version, first_line, whole_file

FILE = "nearest.parquet"
"""The name of the file."""
BEFORE, AFTER = 160, 60
"""Characters of text that are kept before and after a token."""
KEY = b"itda"
"""The key of the header in the file's metadata."""
NUMBERS = ("position", "char_start", "char_end", "token_id", "window_start")


def write_nearest(found: Nearest, folder: Path, *, synced: bool = False) -> None:
    """Write the nearest activations of a dictionary's atoms into its folder, in place of others. Raises `OSError`.

    Of each label's text a part around its token is kept.
    """
    used = np.arange(found.cosines.shape[1]) < found.count[:, None]
    labels = _shortened(found.labels[used])
    columns = {
        "atom": pyarrow.array(np.nonzero(used)[0].astype(np.int32)),
        "cosine": pyarrow.array(found.cosines[used]),
        "document": pyarrow.array(labels.document.tolist(), pyarrow.string()),
        "window": pyarrow.array(labels.window.tolist(), pyarrow.string()),
        **{name: pyarrow.array(getattr(labels, name)) for name in NUMBERS},
    }
    header = {"format": NEAREST_FORMAT, "format_version": FORMAT_VERSION}
    header |= {"atoms": len(found), "most": found.cosines.shape[1]}
    table = pyarrow.table(columns).replace_schema_metadata({KEY: json.dumps(header)})
    with whole_file(folder / FILE, alone=True, synced=synced) as partial:
        pyarrow.parquet.write_table(table, partial, compression="zstd")


def read_nearest(folder: Path, atoms: int) -> Nearest | None:
    """Read the nearest activations of a dictionary of so many atoms from its folder; None if there are none.

    Raises `StoreError` if the file is damaged, foreign, of another version or of another dictionary.
    """
    path = folder / FILE
    if not path.exists():
        return None
    remedy = "remove it, and run `itda index` again"
    try:
        table = pyarrow.parquet.read_table(path, memory_map=False)
        header = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
        if header.get("format") != NEAREST_FORMAT:
            raise StoreError(f"{path} is not an {NEAREST_FORMAT} file: {remedy}")
        check_format_version(path, header)
        if header["atoms"] != atoms:
            raise StoreError(f"{path} is of {header['atoms']} atoms, and the dictionary has {atoms}: {remedy}")
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return _nearest(columns, atoms, header["most"])
    except (OSError, pyarrow.ArrowException, SettingError, KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}): {remedy}") from error


def _nearest(columns: dict[str, np.ndarray], atoms: int, most: int) -> Nearest:
    atom = columns["atom"].astype(np.int64)
    count = np.bincount(atom, minlength=atoms)
    place = np.arange(len(atom)) - (count.cumsum() - count)[atom]
    # Rows beyond the count point to one more row, which is empty.
    rows = np.full((atoms, most), len(atom))
    rows[atom, place] = np.arange(len(atom))
    text = {name: np.append(columns[name].astype(object), "") for name in ("document", "window")}
    numbers = {name: np.append(columns[name].astype(np.int64), 0) for name in NUMBERS}
    labels = Labels(**text, **numbers)[rows]
    cosines = np.append(columns["cosine"].astype(np.float32), np.float32(0))[rows]
    return Nearest(labels, cosines, count)


def _shortened(labels: Labels) -> Labels:
    """Return labels with a part of their windows' text: that around the token."""
    start = np.maximum(labels.char_start - BEFORE, labels.window_start)
    windows = np.empty(len(labels), dtype=object)
    parts = zip(labels.window, start - labels.window_start, labels.char_end + AFTER - labels.window_start, strict=True)
    windows[:] = [window[first:end] for window, first, end in parts]
    columns = {name: getattr(labels, name) for name in ("document", "position", "char_start", "char_end", "token_id")}
    return Labels(**columns, window=windows, window_start=start)
