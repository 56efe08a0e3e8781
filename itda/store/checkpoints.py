"""Checkpoints: states of training on disk, of which the newest two whole ones stay.

    FOLDER/checkpoint-000012/
      record.json                  what the run says of itself; of each state its values, size and SHA-256; its own hash
      layer_3.safetensors          one file per state: its tensors, and the columns of its labels

A checkpoint is written under a temporary name and synced to the disk file by file before it gets its own, so a process
killed at any moment leaves the one before; what was damaged since is found by its hash. Nothing is ever unpickled. One
process writes to a folder at a time.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from itda.core.labels import Labels
from itda.core.training.state import TrainingState
from itda.errors import StoreError
from itda.files import (
    damage_of,
    explained,
    make_folder,
    reason_of,
    remove_folder,
    sync,
    whole_folder,
    write_whole,
)

FORMAT, FORMAT_VERSION = "itda-checkpoint", 1

KEPT = 2
"""Number of checkpoints that stay: one more than needed, in case the disk damages the newest."""

PREFIX = "checkpoint-"
TEXTS = ("document", "window")
"""The columns of labels that hold text."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names of the dtypes in the header of a safetensors file."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read, every byte of it verified."""

    path: Path
    """The checkpoint's own folder."""
    record: dict[str, Any]
    """The JSON values that were given to `write_checkpoint`."""
    training_states: dict[str, TrainingState]
    """The state of training under each name; tensors are mapped from the files, and read when they are used."""
    skipped: list[str]
    """The name of each newer checkpoint that is not whole, and why, newest first."""


class _DamageError(Exception):
    """Raised with the reason why a checkpoint is not whole."""


def write_checkpoint(
    folder: Path,
    record: Mapping[str, Any],
    training_states: Mapping[str, TrainingState],
    *,
    remedy: str = "then resume the run",
) -> Path:
    """Write the next checkpoint of `folder`, and remove those before the newest `KEPT` whole ones.

    `record` has JSON values only. `training_states` are asked for and let go of one after the other, so a lazy mapping
    needs the memory of one. Returns the checkpoint's folder, which is on the disk when this returns. Raises
    `StoreError` if it cannot be written, with `remedy` as the end of the message; the checkpoints before stay as they
    are.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = TrainingState({}, {"atoms": torch.eye(2)}, {})
    ...     path = write_checkpoint(Path(folder), {"tokens": 2}, {"layer_3": state})
    ...     read = latest_checkpoint(Path(folder))
    >>> path.name, read.record, read.skipped
    ('checkpoint-000001', {'tokens': 2}, [])
    """
    full = f"no space for a checkpoint in {folder}: free some, {remedy}"
    with explained(f"write a checkpoint in {folder}", f"see that it can be written, {remedy}", full=full):
        make_folder(folder)
        for leftover in folder.glob(f".{PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        existing = _checkpoints(folder)
        number = _number(existing[0]) + 1 if existing else 1
        path = folder / f"{PREFIX}{number:06d}"
        with whole_folder(path, synced=True) as partial:
            files = {
                name: _write_state(partial / f"{name}.safetensors", training_states[name]) for name in training_states
            }
            _write_record(partial / "record.json", {"record": dict(record), "states": files})
    _prune(existing)
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint of `folder` that is whole; return None if there is none at all, whole or not.

    Raises `StoreError` if there are some and none is whole.
    """
    skipped: list[str] = []
    with explained(f"read {folder}", "see that it can be read"):
        for path in _checkpoints(folder):
            try:
                body = _read_record(path / "record.json")
                files = body["states"].items()
                training_states = {name: _read_state(path / f"{name}.safetensors", about) for name, about in files}
                return Checkpoint(path, body["record"], training_states, skipped)
            except _DamageError as damage:
                skipped.append(f"{path.name}: {damage}")
    if skipped:
        raise StoreError(f"{folder} has no whole checkpoint ({'; '.join(skipped)}): start the run anew")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """List the folders of all checkpoints, whole or not, newest first."""
    if not folder.exists():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(rf"{PREFIX}\d{{6,}}", path.name)]
    return sorted(found, key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _prune(older: list[Path]) -> None:
    """Remove the checkpoints before the one just written (`older`, newest first), but for the newest whole ones."""
    kept = 1
    for path in older:
        if kept < KEPT and _looks_whole(path):
            kept += 1
        elif path.is_dir():
            with contextlib.suppress(OSError):  # the next checkpoint tries again
                remove_folder(path)


def _looks_whole(path: Path) -> bool:
    # Sizes, not hashes: it was whole when it was written, and reading it all would take as long as writing it.
    try:
        files = _read_record(path / "record.json")["states"]
    except _DamageError:
        return False
    return all(damage_of(path / f"{name}.safetensors", about["size"]) is None for name, about in files.items())


def _write_record(path: Path, body: dict[str, Any]) -> None:
    body = {"format": FORMAT, "format_version": FORMAT_VERSION, **body}
    text = json.dumps({**body, "sha256": _hash_of(body)}, allow_nan=False)
    write_whole(path, text + "\n", alone=True, synced=True)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _DamageError("it has no record.json") from error
    except ValueError as error:
        raise _DamageError("record.json is damaged or cut short") from error
    except OSError as error:  # a bad sector, say
        raise _DamageError(f"record.json cannot be read ({reason_of(error)})") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise _DamageError(f"record.json is not an {FORMAT} file")
    if body.pop("sha256", None) != _hash_of(body):
        raise _DamageError("record.json is damaged: its hash is another")
    if body["format_version"] != FORMAT_VERSION:
        raise _DamageError(f"it has format version {body['format_version']}, this itda reads {FORMAT_VERSION}")
    return body


def _hash_of(body: dict[str, Any]) -> str:
    # JSON that was read gives the same text again: floats are written so that they come back to the bit.
    return hashlib.sha256(json.dumps(body, allow_nan=False).encode()).hexdigest()


def _write_state(path: Path, state: TrainingState) -> dict[str, Any]:
    """Write a state's tensors and labels to a safetensors file; return its entry in record.json.

    It is written here and not by the safetensors library, so that it is hashed on its way, without a copy in memory,
    and a full disk is an `OSError`.
    """
    tensors = {f"tensors/{name}": tensor for name, tensor in state.tensors.items()}
    for name, labels in state.labels.items():
        tensors |= {f"labels/{name}/{column}": tensor for column, tensor in _columns_of(labels).items()}
    # The largest elements first, so that each tensor is aligned in the file.
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest, size = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as file:
        for part in (memoryview(len(text).to_bytes(8, "little") + text), *map(_bytes_of, tensors.values())):
            digest.update(part)
            size += len(part)
            while len(part):  # a system call may write less than it is given
                part = part[file.write(part) :]
        sync(file)
    return {"size": size, "sha256": digest.hexdigest(), "values": state.values, "labels": list(state.labels)}


def _bytes_of(tensor: Tensor) -> memoryview:
    if tensor.numel() == 0:
        return memoryview(b"")  # there may be no stride to view it with
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _read_state(path: Path, about: dict[str, Any]) -> TrainingState:
    if not path.exists():
        raise _DamageError(f"it has no {path.name}")
    damage = damage_of(path, about["size"], about["sha256"])
    if damage is not None:
        raise _DamageError(f"{path.name} {damage}")
    read = load_file(path)
    start = "tensors/"
    tensors = {name.removeprefix(start): tensor for name, tensor in read.items() if name.startswith(start)}
    return TrainingState(
        about["values"], tensors, {name: _labels_of(read, f"labels/{name}/") for name in about["labels"]}
    )


def _columns_of(labels: Labels) -> dict[str, Tensor]:
    """Turn labels into tensors: numbers as they are; for text, the distinct texts, joined, and where each ends.

    Each row of a column of text has the number of its text.
    """
    columns = {}
    for field in fields(Labels):
        column = getattr(labels, field.name)
        if field.name in TEXTS:
            number: dict[str, int] = {}
            rows = [number.setdefault(text, len(number)) for text in column.ravel().tolist()]
            # Half a surrogate pair, which JSON corpora can hold, is no UTF-8.
            texts = [text.encode("utf-8", "surrogatepass") for text in number]
            columns[f"{field.name}.text"] = np.frombuffer(bytearray(b"".join(texts)), np.uint8)
            columns[f"{field.name}.ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
            column = np.array(rows, np.int32).reshape(column.shape)
        columns[field.name] = column
    return {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}


def _labels_of(read: Mapping[str, Tensor], start: str) -> Labels:
    """Turn the tensors of `_columns_of` into labels again; rows with the same text share one string."""
    columns = {field.name: read[start + field.name].clone().numpy() for field in fields(Labels)}
    for name in TEXTS:
        whole = read[f"{start}{name}.text"].numpy().tobytes()
        ends = read[f"{start}{name}.ends"].tolist()
        texts = np.empty(len(ends), dtype=object)
        for i, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            texts[i] = whole[begin:end].decode("utf-8", "surrogatepass")
        columns[name] = texts[columns[name]]
    return Labels(**columns)
