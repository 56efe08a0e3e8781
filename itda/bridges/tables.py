"""JSON and Parquet: a dictionary's atoms with their labels, and the codes of a corpus token by token, as two tables.

    OUT/export.json            what made it, and what each column means
        layer_3/atoms.parquet  a row for each atom      (or .jsonl: one JSON object on each line)
                tokens.parquet a row for each token, with its code

Both are written in blocks, so that memory does not depend on the length of the corpus.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from torch import Tensor

from itda.bridges.indexed import Done, Indexed
from itda.bridges.json_lines import json_lines
from itda.core.labels import Labels
from itda.core.nearest import Nearest
from itda.files import FORMAT_VERSION, write_json

EXPORT_FORMAT = "itda-export"
TOKENS, ATOMS = 2**15, 2**10
"""Rows that are in memory at once."""

ATOM_COLUMNS = {
    "atom": "number of the atom, from 0",
    "document": "document of the token that the atom's label names",
    "position": "number of that token in its document, from 0",
    "char_start": "where it starts in the document, in characters",
    "char_end": "where it ends",
    "token_id": "its number in the tokenizer's vocabulary, -1 for none",
    "before": "the text before it that the model read with it",
    "token": "its own text",
    "after": "the text after it",
    "uses": "indexed tokens whose codes have the atom",
    "negative": "of these, how many with a negative coefficient",
    "strongest": "the largest coefficient; 0 without a use",
    "fidelity": "cosine of the atom to the activation that its label names; null if atoms were not refined",
    "novelty": "share of that activation's energy that the atoms before it left over; null if not known",
    "replication": "share of draws in which the atom came back from other documents; null before `itda replicate`",
    "nearest": "the nearest activations of other documents: cosine, document, position, before, token, after; null of "
    "an index that did not look for them",
    "vector": "the atom: d_model numbers, of norm 1",
    "detector": "the detector of its feature: d_model numbers; null before `itda features`",
}
"""The columns of the table of atoms."""

TOKEN_COLUMNS = {
    "token": "number of the token in the index, from 0",
    "document": "the document that it is in",
    "window": "number of the window that the model read it in",
    "position": "number of the token in its document, from 0",
    "token_id": "its number in the tokenizer's vocabulary",
    "text": "its text",
    "bytes": "its bytes in hexadecimal if it is not whole characters, else null",
    "atoms": "the atoms of its code, in the order in which the pursuit picked them",
    "coefficients": "their coefficients, which have either sign",
    "error": "share of the activation's energy that the code leaves over",
    "massive": "norm in medians if the activation is massive, else null",
}
"""The columns of the table of tokens."""


@contextmanager
def _writing(path: Path, schema: pyarrow.Schema) -> Iterator[Callable[[pyarrow.RecordBatch], object]]:
    """Open a file; give the function that writes rows to it, as the suffix says."""
    if path.suffix == ".jsonl":
        with path.open("wb") as file:
            yield lambda rows: file.write(json_lines(rows))
        return
    # Numbers that seldom repeat would make a dictionary that is as large as they are.
    texts: Any = [name for name in schema.names if pyarrow.types.is_string(schema.field(name).type)]
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts) as writer:
        yield writer.write


def export(sources: Sequence[Indexed], folder: Path, suffix: str, done: Done) -> None:
    """Write the tables of each dictionary into a folder; `suffix` is `.parquet` or `.jsonl`. Raises `OSError`."""
    for source in sources:
        own = folder / str(source.site)
        own.mkdir()
        _write(own / f"atoms{suffix}", atom_rows(source), lambda _rows: None)
        _write(own / f"tokens{suffix}", token_rows(source), done)
    write_json(folder / "export.json", _about(sources))


def _write(path: Path, batches: Iterator[pyarrow.RecordBatch], done: Done) -> None:
    first = next(batches)
    with _writing(path, first.schema) as write:
        for rows in itertools.chain([first], batches):
            write(rows)
            done(len(rows))


def atom_rows(source: Indexed) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows of all atoms, `ATOMS` at a time: `ATOM_COLUMNS`."""
    for first in range(0, len(source.dictionary), ATOMS):
        yield _atoms(source, first, min(first + ATOMS, len(source.dictionary)))


def _atoms(source: Indexed, first: int, last: int) -> pyarrow.RecordBatch:
    made, index, number = source.dictionary, source.index, last - first
    labels, detectors = made.labels[first:last], made.feature_encoder
    starts, _, coefficients = index.uses_between(first, last)
    rows = np.repeat(np.arange(number), np.diff(starts))
    share = made.replication.share[first:last] if made.replication is not None else None
    columns = {
        "atom": pyarrow.array(np.arange(first, last, dtype=np.int32)),
        **label_columns(labels),
        "uses": pyarrow.array(np.diff(starts)),
        "negative": pyarrow.array(np.bincount(rows, coefficients < 0, minlength=number).astype(np.int64)),
        "strongest": pyarrow.array(index.strongest[first:last]),
        "fidelity": _numbers(made.fidelity, first, last),
        "novelty": _numbers(made.novelty, first, last),
        "replication": pyarrow.array(share, pyarrow.float32()) if share is not None else _nulls(number),
        "nearest": _nearest(made.nearest, first, last),
        "vector": _vectors(made.atoms, first, last),
        "detector": _vectors(detectors.detectors if detectors is not None else None, first, last),
    }
    return pyarrow.RecordBatch.from_pydict({name: columns[name] for name in ATOM_COLUMNS})


def label_columns(labels: Labels) -> dict[str, pyarrow.Array]:
    """Return the columns of labels: where each token is, and the text around it."""
    windows = list(zip(labels.window, labels.char_start - labels.window_start, strict=True))
    ends = (labels.char_end - labels.window_start).tolist()
    text = pyarrow.string()
    return {
        "document": pyarrow.array(labels.document.tolist(), text),
        **{name: pyarrow.array(getattr(labels, name)) for name in ("position", "char_start", "char_end", "token_id")},
        "before": pyarrow.array([window[:start] for window, start in windows], text),
        "token": pyarrow.array([w[start:end] for (w, start), end in zip(windows, ends, strict=True)], text),
        "after": pyarrow.array([w[end:] for (w, _), end in zip(windows, ends, strict=True)], text),
    }


def _nulls(number: int, kind: Any = None) -> pyarrow.Array:
    return pyarrow.nulls(number, pyarrow.float32() if kind is None else kind)


def _numbers(values: Tensor | None, first: int, last: int) -> pyarrow.Array:
    return pyarrow.array(values[first:last].numpy()) if values is not None else _nulls(last - first)


def _vectors(values: Tensor | None, first: int, last: int) -> pyarrow.Array:
    if values is None:
        return _nulls(last - first, pyarrow.list_(pyarrow.float32()))
    own = values[first:last].cpu().contiguous()
    return lists(np.arange(last - first + 1) * own.shape[1], own.numpy().ravel())


def lists(starts: np.ndarray, values: np.ndarray | pyarrow.Array) -> pyarrow.Array:
    """Return a column of lists that lie one after the other: where each starts, the last end, and all values.

    >>> lists(np.array([0, 2, 3]), np.array([5, 6, 7])).to_pylist()
    [[5, 6], [7]]
    """
    flat = values if isinstance(values, pyarrow.Array) else pyarrow.array(values)
    return pyarrow.ListArray.from_arrays(pyarrow.array(starts.astype(np.int32)), flat)


def strings(data: np.ndarray, starts: np.ndarray) -> pyarrow.Array:
    """Return a column of texts that lie one after the other in UTF-8: the bytes, and where each starts.

    >>> strings(np.frombuffer(b"tobe", np.uint8), np.array([0, 2, 4])).to_pylist()
    ['to', 'be']
    """
    buffers = pyarrow.py_buffer(np.ascontiguousarray(starts, np.int32)), pyarrow.py_buffer(np.ascontiguousarray(data))
    return pyarrow.StringArray.from_buffers(len(starts) - 1, *buffers)


def _nearest(found: Nearest | None, first: int, last: int) -> pyarrow.Array:
    names = ("document", "position", "before", "token", "after")
    kinds = {"cosine": pyarrow.float32(), "position": pyarrow.int64()}
    kind = pyarrow.struct([(name, kinds.get(name, pyarrow.string())) for name in ("cosine", *names)])
    if found is None:
        return _nulls(last - first, pyarrow.list_(kind))
    count = found.count[first:last]
    own = np.arange(found.cosines.shape[1]) < count[:, None]
    columns = label_columns(found.labels[first:last][own])
    values = [pyarrow.array(found.cosines[first:last][own]), *(columns[name] for name in names)]
    flat = pyarrow.StructArray.from_arrays(values, fields=list(kind))
    return lists(np.concatenate([[0], np.cumsum(count)]), flat)


def token_rows(source: Indexed) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows of all indexed tokens, `TOKENS` at a time: `TOKEN_COLUMNS`."""
    text = source.index.text
    names, documents = pyarrow.array(text.document_names, pyarrow.string()), text.window_documents
    known = max(text.partial_ids, default=-1) + 1
    partial = pyarrow.array([text.partial_ids.get(i) for i in range(known + 1)], pyarrow.string())  # the last is null
    for start in range(0, source.index.tokens, TOKENS):
        stop = min(start + TOKENS, source.index.tokens)
        tokens = np.arange(start, stop)
        starts, atoms, coefficients = source.index.codes_between(start, stop)
        windows, ids = text.windows_of(tokens), text.token_id[start:stop].copy()
        massive = np.full(stop - start, np.nan, np.float32)
        for token, medians in source.index.medians(start, stop).items():
            massive[token - start] = medians
        columns = {
            "token": pyarrow.array(tokens),
            "document": names.take(pyarrow.array(documents[windows])),
            "window": pyarrow.array(windows),
            "position": pyarrow.array(text.positions(start, stop)),
            "token_id": pyarrow.array(ids),
            "text": strings(*text.packed_strings(tokens)),
            "bytes": partial.take(pyarrow.array(np.where((ids >= 0) & (ids < known), ids, known))),
            "atoms": lists(starts, atoms),
            "coefficients": lists(starts, coefficients),
            "error": pyarrow.array(source.index.errors(start, stop)),
            "massive": pyarrow.array(massive, from_pandas=True),  # NaN is null
        }
        yield pyarrow.RecordBatch.from_pydict({name: columns[name] for name in TOKEN_COLUMNS})


def _about(sources: Sequence[Indexed]) -> dict[str, Any]:
    def one(source: Indexed) -> dict[str, Any]:
        made, features = source.dictionary, source.dictionary.feature_encoder
        found: dict[str, Any] = {"atoms": len(made), "d_model": made.d_model, "k": made.k, "pursuit": made.pursuit}
        found["offset"] = made.offset.tolist() if made.offset is not None else None
        if features is not None:
            found["features"] = {"mean": features.mean.tolist(), "scale": features.scale, "tokens": features.tokens}
            found["features"]["broad"] = features.broad.tolist()
        return found

    record = sources[0].index.record
    return {
        "format": EXPORT_FORMAT,
        "format_version": FORMAT_VERSION,
        **{name: record[name] for name in ("model", "revision", "corpus", "corpus_part", "tokens", "window")},
        "sites": {str(source.site): one(source) for source in sources},
        "columns": {"atoms": ATOM_COLUMNS, "tokens": TOKEN_COLUMNS},
    }
