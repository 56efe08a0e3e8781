"""Arrow tables as JSON: what json.loads reads is what was written."""

import json
import math

import numpy as np
import pyarrow
from hypothesis import given
from hypothesis import strategies as st

from itda.bridges.json_lines import json_lines

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
FLOATS = st.floats(width=32)
KINDS = {
    "flag": (pyarrow.bool_(), st.booleans()),
    "count": (pyarrow.int64(), st.integers(-(2**63), 2**63 - 1)),
    "half": (pyarrow.float32(), FLOATS),
    "whole": (pyarrow.float64(), st.floats()),
    "text": (pyarrow.string(), TEXTS),
    "numbers": (pyarrow.list_(pyarrow.float32()), st.lists(FLOATS, max_size=3)),
    "texts": (pyarrow.list_(pyarrow.string()), st.lists(st.none() | TEXTS, max_size=3)),
    "pair": (pyarrow.list_(pyarrow.int32(), 2), st.lists(st.integers(-9, 9), min_size=2, max_size=2)),
    "parts": (
        pyarrow.list_(pyarrow.struct([("a", pyarrow.int32()), ("b", pyarrow.string())])),
        st.lists(st.none() | st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": TEXTS}), max_size=3),
    ),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, (_, values) in KINDS.items()}), max_size=5)


def plain(value):
    """What JSON has of a value: no NaN, and no infinity."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(ROWS, st.integers(0, 3))
def test_lines_are_the_rows(rows, skipped):
    schema = pyarrow.schema([(name, kind) for name, (kind, _) in KINDS.items()])
    batch = pyarrow.RecordBatch.from_pylist(rows, schema=schema).slice(skipped)
    found = [json.loads(line) for line in json_lines(batch).split(b"\n")[:-1]]
    expected = [{name: plain(value) for name, value in row.items()} for row in batch.to_pylist()]
    for name in ("half", "numbers"):  # a float32 is written with the fewest digits that give it again
        for row in (*found, *expected):
            values = row[name]
            several = [values] if not isinstance(values, list) else values
            row[name] = [None if value is None else float(np.float32(value)) for value in several]
    assert found == expected
    assert all("\n" not in line.decode() for line in json_lines(batch).split(b"\n"))


def test_a_float_has_the_fewest_digits_that_give_it_again():
    batch = pyarrow.RecordBatch.from_pydict({"x": pyarrow.array(np.array([0.1, 1e-7, 3e38, -0.0], np.float32))})
    assert [json.loads(line)["x"] for line in json_lines(batch).splitlines()] == [0.1, 1e-7, 3e38, 0.0]
