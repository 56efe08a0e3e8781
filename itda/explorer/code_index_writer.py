"""Writing of a code index: parts as they are encoded, then one index merged from them that replaces the old one.

A killed process leaves the parts that it has finished, and the next process goes on after them. The merged index does
not depend on how the tokens were cut into parts.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from itda.core.batch import Site
from itda.core.code import SparseCode
from itda.core.labels import Labels
from itda.explorer.code_index import FOLDER, INDEX_FORMAT, TEXT
from itda.files import empty_folder, explained, replace_folder, whole_file

PARTIAL = ".index.partial"
"""The folder of parts, in the run."""
PART_FORMAT = "itda-index-part"


@dataclass(frozen=True, eq=False)
class TextPart:
    """The tokens of a part and their windows of text."""

    documents: Sequence[str]
    text: UInt8[np.ndarray, " bytes"]
    window_bytes: Int64[np.ndarray, " windows"]
    window_tokens: Int64[np.ndarray, " windows"]
    window_document: Int32[np.ndarray, " windows"]
    """A row of `documents`."""
    window_start: Int64[np.ndarray, " windows"]
    """Where a window's text starts in its document, in characters; in parts alone, not in the index."""
    position: Int32[np.ndarray, " tokens"]
    begin: Int32[np.ndarray, " tokens"]
    """Where a token begins in its window's text, in bytes."""
    end: Int32[np.ndarray, " tokens"]
    token_id: Int32[np.ndarray, " tokens"]

    @staticmethod
    def of(labels: Labels) -> TextPart:
        """Make a part of the tokens of some labels, in their order; those of one window must follow each other."""
        numbers: dict[str, int] = {}
        texts, rows, tokens = [], [], [np.empty((4, 0), np.int64)]
        for own in _windows(labels):
            text, document = str(own.window[0]), str(own.document[0])
            in_bytes = _bytes_before(text)[np.stack([own.char_start, own.char_end]) - own.window_start]
            texts.append(text.encode())
            rows.append((len(texts[-1]), len(own), numbers.setdefault(document, len(numbers)), own.window_start[0]))
            tokens.append(np.stack([own.position, *in_bytes, own.token_id]))
        lengths, counts, document, start = np.array(rows, np.int64).reshape(-1, 4).T
        columns = np.concatenate(tokens, axis=1).astype(np.int32)
        text = np.frombuffer(b"".join(texts), np.uint8)
        return TextPart(list(numbers), text, lengths, counts, document.astype(np.int32), start, *columns)


@dataclass(frozen=True, eq=False)
class CodePart:
    """The codes of a part at one site, token by token."""

    count: Int32[np.ndarray, " tokens"]
    atom: Int32[np.ndarray, " codes"]
    coefficient: Float32[np.ndarray, " codes"]
    """In pick order."""
    error: Float32[np.ndarray, " tokens"]
    medians: Float32[np.ndarray, " tokens"]
    """The norms of massive activations in medians, 0 for others."""

    @staticmethod
    def of(
        code: SparseCode, error: Float64[Tensor, " tokens"], medians: Sequence[float | None] | None = None
    ) -> CodePart:
        """Make a part of codes, without padding; `medians` is from `massive_medians`, None if no token is massive."""
        own = torch.arange(code.k, device=code.count.device) < code.count[:, None]  # tokens k
        columns = code.count.int(), code.indices[own].int(), code.coefficients[own].float(), error.float()
        massive = np.array([each or 0 for each in medians or [0] * len(error)], np.float32)
        return CodePart(*(column.cpu().numpy() for column in [*columns, torch.from_numpy(massive)]))


@dataclass(frozen=True)
class PartRecord:
    """A part on disk: its file, its number of tokens, and the seconds that it took."""

    file: Path
    tokens: int
    seconds: float


def write_part(
    partial: Path,
    number: int,
    seconds: float,
    text: TextPart,
    codes: Mapping[Site, CodePart],
    more: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> PartRecord:
    """Write part `number`, which took so many seconds to make; `more` are other arrays by name.

    Raises `StoreError` if it cannot be written.
    """
    arrays = {**more, **{name: value for name, value in vars(text).items() if name != "documents"}}
    arrays["document_names"], arrays["document_name"] = _packed(text.documents)
    for site, code in codes.items():
        arrays |= {f"{site}/{name}": value for name, value in vars(code).items()}
    made = PartRecord(partial / f"part-{number:06}.safetensors", len(text.token_id), seconds)
    _save(made.file, arrays, {"format": PART_FORMAT, "tokens": str(made.tokens), "seconds": repr(seconds)})
    return made


def parts_of(partial: Path) -> list[PartRecord]:
    """Return the parts on disk in order; those after one that is missing or damaged are removed."""
    found: list[PartRecord] = []
    for file in sorted(partial.glob("part-*.safetensors")):
        try:
            if file.name != f"part-{len(found):06}.safetensors":
                raise ValueError
            with safe_open(file, "pt") as part:
                about = part.metadata()
            found.append(PartRecord(file, int(about["tokens"]), float(about["seconds"])))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            file.unlink()
    return found


def merge(parts: Sequence[PartRecord], whole: Path, sites: Mapping[Site, tuple[int, int]]) -> None:
    """Merge parts into text.safetensors and a file for each site; `sites` gives each one's number of atoms and k.

    Takes one site after the other; memory is 16 bytes for each of its codes, 8 by token and 8 by atom: 0.64 GB for a
    million tokens of 40 codes. Raises `StoreError` if it cannot be written.
    """
    from itda.core.transpose import by_atom  # not at the top: it loads the compiler

    emptied(whole)
    _save(whole / TEXT, _merged_text(parts), {"format": INDEX_FORMAT})
    for site, (atoms, k) in sites.items():
        columns = {name: _column(parts, f"{site}/{name}") for name in ("atom", "coefficient", "error")}
        count, medians = (_column(parts, f"{site}/{name}") for name in ("count", "medians"))
        start, massive = _starts(count), np.flatnonzero(medians).astype(np.int32)
        # Massive tokens would be the strongest uses of whatever atoms they have.
        counted = np.where(medians > 0, 0, count)
        kept = np.repeat(medians == 0, count) if len(massive) else slice(None)
        uses = by_atom(_starts(counted), columns["atom"][kept], columns["coefficient"][kept], atoms, k)
        strongest, used = np.zeros(atoms, np.float32), np.diff(uses.start) > 0
        strongest[used] = uses.coefficient[uses.start[:-1][used]]
        by_atoms = {"atom_start": uses.start, "token": uses.token, "atom_coefficient": uses.coefficient}
        arrays = {"start": start, **columns, **by_atoms, "strongest": strongest, "steps": uses.steps}
        arrays |= {"massive": massive, "massive_medians": medians[massive]}
        _save(whole / f"{site}.safetensors", arrays, {"format": INDEX_FORMAT})


def emptied(folder: Path) -> None:
    """Remove a folder that we made, and make it again, empty. Raises `StoreError` if it cannot be made."""
    with _writing(folder):
        empty_folder(folder)


def publish(run: Path, whole: Path) -> None:
    """Replace a run's index by a whole new one. A process that has the old one mapped keeps it."""
    replace_folder(whole, run / FOLDER)
    shutil.rmtree(run / PARTIAL, ignore_errors=True)


def _merged_text(parts: Sequence[PartRecord]) -> dict[str, np.ndarray]:
    names: dict[str, int] = {}
    documents = [np.empty(0, np.int32)]
    for part in parts:
        with safe_open(part.file, "pt") as file:
            text, ends = (file.get_tensor(name).numpy() for name in ("document_names", "document_name"))
            own = file.get_tensor("window_document").numpy()
        ids = unpacked(text, ends)
        numbers = np.array([names.setdefault(name, len(names)) for name in ids], np.int32)
        documents.append(numbers[own])
    packed, ends = _packed(list(names))
    return {
        "text": _column(parts, "text"),
        "window_text": _starts(_column(parts, "window_bytes")),
        "window_token": _starts(_column(parts, "window_tokens")),
        "window_document": np.concatenate(documents),
        **{name: _column(parts, name) for name in ("position", "begin", "end", "token_id")},
        "document_names": packed,
        "document_name": ends,
    }


def _windows(labels: Labels) -> Iterator[Labels]:
    """Yield the labels of each window."""
    if len(labels) == 0:
        return
    columns = labels.document, labels.window_start, labels.window
    begins = np.any([(column[1:] != column[:-1]).astype(bool) for column in columns], axis=0)
    for first, last in itertools.pairwise([0, *(np.flatnonzero(begins) + 1), len(labels)]):
        yield labels[slice(int(first), int(last))]


def _column(parts: Sequence[PartRecord], name: str) -> np.ndarray:
    found = []
    for part in parts:
        with safe_open(part.file, "pt") as file:
            found.append(file.get_tensor(name).numpy())  # mapped
    return np.concatenate(found)


def _starts(lengths: np.ndarray) -> Int64[np.ndarray, " rows"]:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _packed(names: Sequence[str]) -> tuple[UInt8[np.ndarray, " bytes"], Int64[np.ndarray, " rows"]]:
    encoded = [name.encode() for name in names]
    return np.frombuffer(b"".join(encoded), np.uint8), _starts(np.array([len(name) for name in encoded], np.int64))


def unpacked(text: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " rows"]) -> list[str]:
    """Return the strings whose bytes follow each other in `text`: each from one of `ends` to the next."""
    return [text[a:b].tobytes().decode() for a, b in itertools.pairwise(ends)]


def _bytes_before(text: str) -> Int64[np.ndarray, " places"]:
    """Return the number of UTF-8 bytes before each character, and at the end those of the whole text."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return _starts(1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000))


def _save(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    tensors = {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}
    with _writing(path), whole_file(path, alone=True) as partial:
        save_file(tensors, partial, metadata)


def _writing(path: Path) -> AbstractContextManager[None]:
    return explained(f"write {path}", "make room for it, and run it again to go on")
