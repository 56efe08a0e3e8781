"""The replication of a dictionary on disk: `replication.safetensors`, in the dictionary's folder.

Read without tensors of torch, so that `itda info` shows it at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from itda.core.replication import Replication
from itda.errors import SettingError, StoreError
from itda.files import FORMAT_VERSION, REPLICATION_FORMAT, check_format_version, first_line, whole_file

REPLICATION = "replication.safetensors"
"""The name of the file."""
COLUMNS = ("cosines", "kept", "tokens", "halves")
VALUES = ("chance", "cosine", "seed")


def write_replication(found: Replication, folder: Path, *, synced: bool = False) -> None:
    """Write the replication of a dictionary into its folder, in place of another. Raises `OSError`."""
    about = {"format": REPLICATION_FORMAT, "format_version": FORMAT_VERSION}
    about |= {name: getattr(found, name) for name in VALUES}
    tensors = {name: np.ascontiguousarray(getattr(found, name)) for name in COLUMNS}
    with whole_file(folder / REPLICATION, alone=True, synced=synced) as partial:
        save_file(tensors, partial, {"about": json.dumps(about)})  # one key: the order of several is not fixed


def read_replication(folder: Path, atoms: int) -> Replication | None:
    """Read the replication of a dictionary of so many atoms from its folder; None if there is none.

    Raises `StoreError` if the file is damaged, foreign, of another version or of another dictionary.
    """
    path = folder / REPLICATION
    if not path.exists():
        return None
    remedy = "remove it, and run `itda replicate` again"
    try:
        with safe_open(path, "numpy") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("about", "{}"))
            if about.get("format") != REPLICATION_FORMAT:
                raise StoreError(f"{path} is not an {REPLICATION_FORMAT} file: {remedy}")
            check_format_version(path, about)
            columns = {name: file.get_tensor(name) for name in COLUMNS}
            found = Replication(**columns, **{name: about[name] for name in VALUES})
    except (OSError, SafetensorError, SettingError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}): {remedy}") from error
    if len(found) != atoms:
        raise StoreError(f"{path} is of {len(found)} atoms, and the dictionary has {atoms}: {remedy}")
    return found
