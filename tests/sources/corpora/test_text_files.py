"""Which files of a folder are documents, in which encodings and packings; what is left out is said."""

import csv
import gzip
import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources.corpora.corpus_files import one_line, pairs, write_jsonl, write_parquet

from itda.errors import CorpusError
from itda.sources.corpora import text_files
from itda.sources.corpora.corpus import open_corpus
from itda.sources.corpora.document import Document, LongDocument

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.TXT", "a.txt.gz"])
def test_a_bom_is_no_part_of_a_text(tmp_path, name):
    whole = BOM + "été\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
    assert pairs(open_corpus(str(tmp_path))) == [(name, "été\n")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n'),
        ("a.json", '[{"text": "one"}, {"text": "two"}]'),
        ("a.csv", "text,n\none,1\ntwo,2\n"),
        ("a.JSONL.GZ", '{"text": "one"}\n{"text": "two"}\n'),
    ],
)
def test_a_bom_is_no_part_of_a_table(tmp_path, name, text):
    whole = BOM + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith("GZ") else whole)
    assert pairs(open_corpus(str(tmp_path))) == [(f"{name}:0", "one"), (f"{name}:1", "two")]


def test_suffixes_are_known_in_either_case(tmp_path):
    (tmp_path / "A.TXT").write_text("a")
    (tmp_path / "b.Md").write_text("b")
    write_jsonl(tmp_path / "c.JSONL", [{"text": "c"}])
    write_parquet(tmp_path / "d.Parquet", [{"text": "d"}])
    corpus = open_corpus(str(tmp_path))
    assert [document.text for document in corpus] == ["a", "b", "c", "d"]
    assert corpus.notes == ()


def test_what_is_left_out_is_said_in_one_line_with_numbers(tmp_path):
    for name in ("a.txt", "b.pdf", "c.PDF", "d.docx", "e", ".hidden.pdf", "f.zip", "g.tar", "h.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "broken.json").write_text("{")
    (note,) = open_corpus(str(tmp_path)).notes
    assert note.startswith(f"{tmp_path}: files left out: 9 (2 .pdf, ")
    assert "2 others" in note
    assert note.endswith("2 .json or .csv without a 'text' in the first row)")
    assert "\n" not in note


def test_tables_of_a_folder_are_read_where_their_first_row_has_a_text(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one"}]')
    (tmp_path / "b.csv").write_text("text\ntwo\n")
    (tmp_path / "c.csv").write_text("body\nthree\n")
    assert [document.text for document in open_corpus(str(tmp_path))] == ["one", "two"]
    assert [document.text for document in open_corpus(str(tmp_path), text_field="body")] == ["three"]


def test_a_table_that_is_named_must_have_the_text(tmp_path):
    (tmp_path / "c.csv").write_text("body\nthree\n")
    with pytest.raises(CorpusError, match=r"no text under 'text' \(found: 'body'\): name the key with --text-field"):
        open_corpus(str(tmp_path / "c.csv"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_a_null_row_is_named_as_null(tmp_path, kind):
    file, rows = tmp_path / f"a.{kind}", [{"text": "one"}, {"text": None}]
    if kind == "json":
        file.write_text(json.dumps(rows))
    else:
        (write_jsonl if kind == "jsonl" else write_parquet)(file, rows)
    with pytest.raises(CorpusError, match=r"row 1 is null under 'text': give it a text, or leave the row out") as error:
        list(open_corpus(str(tmp_path)))
    assert str(file) in one_line(error)


@given(rows=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=6))
def test_any_texts_come_back_from_json_csv_and_gz(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tables")
    several = [{"n": i, "text": text} for i, text in enumerate(rows)]
    (folder / "a.json").write_text(json.dumps(several), encoding="utf-8")
    (folder / "b.json").write_text("\n".join(json.dumps(row, indent=1, ensure_ascii=False) for row in several))
    (folder / "c.json").write_text(json.dumps(rows))
    with (folder / "d.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["n", "text"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(several)
    for name in "abc":
        (folder / f"{name}2.json.gz").write_bytes(gzip.compress((folder / f"{name}.json").read_bytes()))
    for file in folder.iterdir():
        found = [document.text for document in open_corpus(str(file))]
        assert found == rows, file.name


def test_rows_of_json_longer_than_what_is_read_at_once_and_more_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "PART", 7)
    rows = [{"text": "x" * i, "more": [{"a": "]},["}]} for i in range(1, 40)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [len(document.text) for document in open_corpus(str(tmp_path))] == list(range(1, 40))


def test_fields_of_csv_longer_than_pythons_own_limit(tmp_path):
    (tmp_path / "a.csv").write_text(f'text\n"{"long " * 50_000}"\n')
    (document,) = open_corpus(str(tmp_path))
    assert len(document.text) == 250_000


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a.json", b'[{"text": "one"}, {"text": "tw'),
        ("a.json", b'[{"text": "one"} '),
        ("a.csv", b'text\none\n"two'),
        ("a.txt.gz", gzip.compress(b"some text " * 99, mtime=0)[:-20]),
        ("a.jsonl.gz", b"not packed"),
        ("a.txt.gz", gzip.compress(b"caf\xe9", mtime=0)),
    ],
)
def test_a_damaged_file_raises_and_names_it_and_the_remedy(tmp_path, name, whole):
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(CorpusError, match="mend it or leave it out") as error:
        list(open_corpus(str(tmp_path / name)))
    assert str(tmp_path / name) in one_line(error)


def test_linked_folders_are_read_once_and_loops_are_not_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "corpus"
    (outside / "deep").mkdir(parents=True)
    (inside / "own").mkdir(parents=True)
    (outside / "deep" / "o.txt").write_text("outside")
    (inside / "own" / "i.txt").write_text("inside")
    (inside / "link").symlink_to(outside)
    (inside / "again").symlink_to(outside / "deep")
    (inside / "loop").symlink_to(tmp_path)
    (inside / "latest").symlink_to("own")
    (outside / "back").symlink_to(inside)
    assert pairs(open_corpus(str(inside))) == [("again/o.txt", "outside"), ("own/i.txt", "inside")]
    (inside / "again").unlink()
    assert pairs(open_corpus(str(inside))) == [("link/deep/o.txt", "outside"), ("own/i.txt", "inside")]


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_name_that_is_not_utf8_is_shown_by_its_bytes(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    corpus = open_corpus(str(tmp_path))
    assert pairs(corpus) == [("caf\\xe9.txt", "text")]
    assert corpus.fingerprint
    (tmp_path / "caf\\xe9.txt").write_text("other")
    with pytest.raises(CorpusError, match=r"two files that are both called caf\\xe9.txt: rename one"):
        open_corpus(str(tmp_path))


def test_a_damaged_file_with_a_name_that_is_not_utf8_is_named_by_its_bytes(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"\xff")
    with pytest.raises(CorpusError, match="mend it or leave it out") as error:
        list(open_corpus(str(tmp_path)))
    assert "caf\\xe9.txt" in one_line(error).encode().decode()


def test_corpora_of_runs_from_before_are_read_as_they_were(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"a")
    (tmp_path / "B.TXT").write_text("b")
    (tmp_path / "c.csv").write_text("text\nc\n")
    (tmp_path / "d.json").write_text('[{"text": "d"}]')
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"e"))
    assert pairs(open_corpus(str(tmp_path), rules=1)) == [("a.txt", "\ufeffa")]
    assert [document.text for document in open_corpus(str(tmp_path))] == ["b", "a", "c", "d", "e"]


def test_a_long_file_is_read_in_parts_and_is_the_same_document(tmp_path, monkeypatch):
    text = "one\r\ntwo\rthree\n" + "é🙂日" * 300
    (tmp_path / "a.txt").write_text(text, newline="")
    (whole,) = open_corpus(str(tmp_path))
    before = open_corpus(str(tmp_path)).fingerprint
    monkeypatch.setattr(text_files, "IN_MEMORY", 100)
    monkeypatch.setattr(text_files, "PART", 7)
    (parts,) = open_corpus(str(tmp_path))
    assert isinstance(parts, LongDocument)
    assert not isinstance(whole, LongDocument)
    assert (parts.id, parts.text) == (whole.id, whole.text) == ("a.txt", text.replace("\r\n", "\n").replace("\r", "\n"))
    assert [parts.beginning(n) for n in (0, 5, 99)] == [whole.text[:n] for n in (0, 5, 99)]
    assert open_corpus(str(tmp_path)).fingerprint == before
    inner = [hashlib.sha256(part.encode()).digest() for part in ("a.txt", whole.text)]
    assert before == hashlib.sha256(b"".join(inner)).hexdigest()


def test_a_long_file_that_is_damaged_further_on_raises_when_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "IN_MEMORY", 100)
    monkeypatch.setattr(text_files, "PART", 64)
    (tmp_path / "a.txt").write_bytes(b"x" * 100_000 + b"\xff")
    (document,) = open_corpus(str(tmp_path))
    assert document.beginning(9) == "x" * 9
    with pytest.raises(CorpusError, match="mend it or leave it out"):
        _ = document.text


def test_shuffling_keeps_no_long_file_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "IN_MEMORY", 100)
    for i in range(12):
        (tmp_path / f"{i}.txt").write_text(f"{i} " * 200)
    found = list(open_corpus(str(tmp_path)).shuffled(3))
    assert all(isinstance(document, LongDocument) for document in found)
    assert sorted(document.id for document in found) == sorted(f"{i}.txt" for i in range(12))


def test_a_folder_called_as_the_bundled_corpus_is_not_read_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_corpus("python-docs").notes == ()
    (tmp_path / "python-docs").mkdir()
    (tmp_path / "python-docs" / "a.txt").write_text("mine")
    (note,) = open_corpus("python-docs").notes
    assert "the folder of that name here is ./python-docs" in note
    assert pairs(open_corpus("./python-docs")) == [("a.txt", "mine")]


def test_an_empty_document_is_one_without_a_text_in_any_part():
    assert Document("a", "").is_empty
    assert LongDocument("a", lambda: iter(["", ""])).is_empty
    assert not LongDocument("a", lambda: iter(["", "x"])).is_empty
