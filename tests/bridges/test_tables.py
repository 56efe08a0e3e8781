"""JSON and Parquet: both tables hold what a plain loop over dictionary and index finds, and others read them."""

import json
import re

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from bridges.conftest import SITES
from page_blocks import DOCS, run_blocks

import itda
from itda.bridges import tables
from itda.bridges.indexed import Indexed
from itda.store.records import open_record


@pytest.fixture(scope="module")
def written(sources, tmp_path_factory):
    """The two sites in both formats, in blocks that are smaller than they are."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "TOKENS", 300)
        patch.setattr(tables, "ATOMS", 10)
        for suffix in (".jsonl", ".parquet"):
            folders[suffix] = tmp_path_factory.mktemp("written")
            tables.export(sources, folders[suffix], suffix, lambda _: None)
    return folders


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.mark.parametrize("name", ["atoms", "tokens"])
def test_both_formats_have_the_documented_columns_and_the_same_values(written, name):
    for site in SITES:
        lines = lines_of(written[".jsonl"] / str(site) / f"{name}.jsonl")
        rows = pyarrow.parquet.read_table(written[".parquet"] / str(site) / f"{name}.parquet").to_pylist()
        assert list(rows[0]) == list(lines[0])
        assert [*rows[0]] == [*(tables.ATOM_COLUMNS if name == "atoms" else tables.TOKEN_COLUMNS)]
        assert same(lines) == same(rows)


def same(value):
    """A value whose numbers are float32, as they were before JSON."""
    if isinstance(value, dict):
        return {name: same(each) for name, each in value.items()}
    if isinstance(value, list):
        return [same(each) for each in value]
    return float(np.float32(value)) if isinstance(value, float) else value


def test_tokens_have_their_text_and_their_codes(written, sources):
    for source in sources:
        index, text = source.index, source.index.text
        rows = pyarrow.parquet.read_table(written[".parquet"] / str(source.site) / "tokens.parquet").to_pylist()
        strings, errors, massive = (
            text.token_strings(0, index.tokens),
            index.errors(0, index.tokens),
            index.medians(0, 1000),
        )
        assert len(rows) == index.tokens == 1000
        assert massive
        for token, row in enumerate(rows):
            atoms, coefficients = index.codes(token)
            assert row["token"] == token
            assert (row["document"], row["position"]) == (text.document(token), text.position(token))
            assert (row["text"], row["bytes"]) == (strings[token], text.partial(token))
            assert row["token_id"] == text.token_id[token]
            assert (row["atoms"], row["coefficients"]) == (atoms.tolist(), coefficients.tolist())
            assert (row["error"], row["massive"]) == (errors[token], massive.get(token))
            assert text.window(token)[0] == text.window_starts[row["window"]]
        assert any(row["bytes"] for row in rows)


def test_atoms_have_their_labels_and_all_that_is_known_of_them(written, sources):
    for source in sources:
        made, index = source.dictionary, source.index
        rows = pyarrow.parquet.read_table(written[".parquet"] / str(source.site) / "atoms.parquet").to_pylist()
        assert len(rows) == len(made) == 24
        for atom, row in enumerate(rows):
            label, (tokens, coefficients) = made.labels[atom], index.uses(atom)
            names = ("document", "position", "char_start", "char_end", "token_id", "before", "token", "after")
            assert [row[name] for name in names] == [getattr(label, name) for name in names]
            assert (row["atom"], row["uses"]) == (atom, len(tokens))
            assert row["negative"] == (coefficients < 0).sum()
            assert row["strongest"] == (coefficients[0] if len(tokens) else 0)
            assert (row["fidelity"], row["novelty"]) == (made.fidelity[atom].item(), made.novelty[atom].item())
            assert row["replication"] == pytest.approx(made.replication.share[atom])
            assert row["vector"] == made.atoms[atom].tolist()
            assert row["detector"] == made.feature_encoder.detectors[atom].tolist()
            near = made.nearest.of(atom)
            assert [each["cosine"] for each in row["nearest"]] == [cosine for _, cosine in near]
            names = ("document", "position", "before", "token", "after")
            assert [[e[n] for n in names] for e in row["nearest"]] == [[getattr(x, n) for n in names] for x, _ in near]


def test_what_is_not_known_is_null(bare, tmp_path):
    record = open_record(bare)
    tables.export([Indexed.open(record, site) for site in record.sites], tmp_path, ".jsonl", lambda _: None)
    for row in lines_of(tmp_path / "layer_2" / "atoms.jsonl"):
        assert [row[name] for name in ("fidelity", "novelty", "replication", "nearest", "detector")] == [None] * 5
        assert row["vector"]


def test_the_record_says_what_each_column_means_and_how_to_decode(written, sources):
    for folder in written.values():
        about = json.loads((folder / "export.json").read_text())
        assert about["columns"] == {"atoms": tables.ATOM_COLUMNS, "tokens": tables.TOKEN_COLUMNS}
        assert list(about["sites"]) == [str(site) for site in SITES]
        for source in sources:
            assert about["sites"][str(source.site)]["offset"] == source.dictionary.offset.tolist()


def test_progress_counts_each_token(sources, tmp_path):
    done = []
    tables.export(sources, tmp_path, ".jsonl", done.append)
    assert sum(done) == sum(source.index.tokens for source in sources)


def test_pandas_reads_each_table_in_one_line(written):
    tokens = pandas.read_json(written[".jsonl"] / "layer_1" / "tokens.jsonl", lines=True)
    same_tokens = pandas.read_parquet(written[".parquet"] / "layer_1" / "tokens.parquet")
    assert list(tokens.columns) == list(same_tokens.columns) == list(tables.TOKEN_COLUMNS)
    assert tokens["text"].tolist() == same_tokens["text"].tolist()
    assert [list(each) for each in same_tokens["atoms"]] == tokens["atoms"].tolist()
    atoms = pandas.read_json(written[".jsonl"] / "layer_1" / "atoms.jsonl", lines=True)
    assert (
        atoms["uses"].tolist()
        == pandas.read_parquet(written[".parquet"] / "layer_1" / "atoms.parquet")["uses"].tolist()
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_duckdb_reads_each_table_in_one_line(written, sources, suffix):
    duckdb = pytest.importorskip("duckdb", reason="pip install -e '.[dev]'")
    file = written[suffix] / "layer_1" / f"tokens{suffix}"
    uses = duckdb.sql(
        f"SELECT atom, count(*) FROM (SELECT unnest(atoms) AS atom FROM '{file}' WHERE massive IS NULL) GROUP BY atom"
    )
    assert dict(uses.fetchall()) == {atom: n for atom, n in enumerate(sources[0].index.counts.tolist()) if n}


def test_the_blocks_of_the_page_run(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("duckdb", reason="pip install -e '.[dev]'")
    monkeypatch.chdir(tmp_path)
    for to in ("json", "parquet"):
        itda.export(run, to=to, out=f"run-{to}", progress=False)
    names = run_blocks("bridges.md", "JSON and Parquet", {})
    assert len(names["tokens"]) == 1000
    assert len(names["atoms"]) == 24
    assert "uses" in capsys.readouterr().out


def test_the_page_tells_the_columns():
    rows = re.findall(r"^\| (atoms|tokens) \| (.*) \|$", (DOCS / "bridges.md").read_text(), re.MULTILINE)
    told = {name: re.findall(r"[a-z_]+", re.sub(r"\([^)]*\)", "", columns)) for name, columns in rows}
    assert told == {"atoms": list(tables.ATOM_COLUMNS), "tokens": list(tables.TOKEN_COLUMNS)}
