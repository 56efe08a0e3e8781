"""Files of documents, for the tests of corpora."""

import json

import pyarrow as pa
import pyarrow.parquet as parquet


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, rows):
    parquet.write_table(pa.Table.from_pylist(rows), path)


def pairs(corpus):
    return [(document.id, document.text) for document in corpus]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text
