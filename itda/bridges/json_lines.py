"""Arrow tables as lines of JSON, column by column in Arrow's own loops: millions of numbers take seconds."""

from __future__ import annotations

import json
from typing import Any

import pyarrow
import pyarrow.compute

compute: Any = pyarrow.compute
"""Its functions are made at import, so type checkers do not know them."""


def json_lines(rows: pyarrow.RecordBatch) -> bytes:
    r"""Return a JSON object for each row, with a line break after it. NaN and infinity, which JSON lacks, are null.

    A float32 has the fewest digits that give the same float32 again.

    >>> json_lines(pyarrow.RecordBatch.from_pydict({"atom": [3], "token": ["\n"], "weights": [[0.5, -1.0]]}))
    b'{"atom":3,"token":"\\n","weights":[0.5,-1]}\n'
    """
    parts: list[Any] = []
    for place, name in enumerate(rows.schema.names):
        parts += [("{" if place == 0 else ",") + json.dumps(name) + ":", _in_json(rows.column(place))]
    lines = compute.binary_join_element_wise(*parts, "}\n", "")
    assert not isinstance(lines, pyarrow.Scalar)
    return _bytes(lines)


def _in_json(column: pyarrow.Array) -> pyarrow.Array:
    """Return each value of a column as JSON text. The columns have no offset of their own, so they are copied first."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        return _in_json(column.dictionary_decode())
    if pyarrow.types.is_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return _list_in_json(column)
    if pyarrow.types.is_struct(kind):
        parts: list[Any] = []
        for place, field in enumerate(kind):
            parts += [("{" if place == 0 else ",") + json.dumps(field.name) + ":", _in_json(column.field(place))]
        return _nulls_named(compute.binary_join_element_wise(*parts, "}", ""), column)
    if pyarrow.types.is_string(kind):
        return _text_in_json(column)
    if pyarrow.types.is_floating(kind):
        column = compute.if_else(compute.is_finite(column), column, None)
    return compute.fill_null(compute.cast(column, pyarrow.string()), "null")


def _text_in_json(column: pyarrow.Array) -> pyarrow.Array:
    """Quote each text; one that occurs often is quoted once."""
    different = column.dictionary_encode()
    quoted = [json.dumps(text, ensure_ascii=False) for text in different.dictionary.to_pylist()]
    return compute.fill_null(pyarrow.array(quoted, pyarrow.string()).take(different.indices), "null")


def _list_in_json(column: Any) -> pyarrow.Array:
    column = compute.cast(column, pyarrow.list_(column.type.value_type))
    inner = _in_json(column.flatten())
    lengths = compute.fill_null(compute.list_value_length(column), 0)
    ends = compute.cumulative_sum(compute.cast(lengths, pyarrow.int32()))
    offsets = pyarrow.concat_arrays([pyarrow.array([0], pyarrow.int32()), ends])
    joined = compute.binary_join(pyarrow.ListArray.from_arrays(offsets, inner), ",")
    return _nulls_named(compute.binary_join_element_wise("[", joined, "]", ""), column)


def _nulls_named(text: Any, column: pyarrow.Array) -> pyarrow.Array:
    return compute.if_else(column.is_valid(), text, "null")


def _bytes(lines: Any) -> bytes:
    """Return all strings of an array one after the other: they lie so in its buffer."""
    lines = pyarrow.concat_arrays([lines]) if lines.offset else lines
    _, offsets, data = lines.buffers()
    if data is None:
        return b""
    ends = memoryview(offsets).cast("i")
    return data.slice(ends[0], ends[len(lines)] - ends[0]).to_pybytes()
