"""The record of a diff: its JSON, read at once, since no tensors are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itda.files import DIFF_FORMAT, read_json

RECORD = "diff.json"
"""The name of the file in the folder of a diff that says what was found."""


def is_diff(folder: Path) -> bool:
    """Return True for a folder that holds a diff."""
    return (folder / RECORD).is_file()


def read_diff_values(folder: Path) -> dict[str, Any]:
    """Read the JSON of a diff. Raises `StoreError` if it is missing, foreign or of another version."""
    found = read_json(folder / RECORD, DIFF_FORMAT)
    return {name: value for name, value in found.items() if name not in ("format", "format_version")}
