"""Corpora have the same documents with the same ids everywhere, and say in one line what cannot be read."""

import os
from functools import partial
from pathlib import Path

import pytest
from sources.corpora.corpus_files import one_line, pairs, write_jsonl, write_parquet

from itda.errors import CorpusError
from itda.sources.corpora.corpus import Corpus, Document, is_held_out, open_corpus, python_docs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.md").write_text("# z", encoding="utf-8")
    (tmp_path / "a.txt").write_text("été 🙂", encoding="utf-8")
    (tmp_path / "c.py").write_text("x = 1", encoding="utf-8")
    write_jsonl(tmp_path / "d.jsonl", [{"text": "one"}, {"text": "two"}])
    write_parquet(tmp_path / "e.parquet", [{"text": "three"}, {"text": "four"}])
    (tmp_path / "ignored.csv").write_text("text", encoding="utf-8")
    return tmp_path


def test_a_folder_yields_every_known_file_sorted_with_ids_relative_to_it(folder):
    assert pairs(open_corpus(str(folder))) == [
        ("a.txt", "été 🙂"),
        ("b/z.md", "# z"),
        ("c.py", "x = 1"),
        ("d.jsonl:0", "one"),
        ("d.jsonl:1", "two"),
        ("e.parquet:0", "three"),
        ("e.parquet:1", "four"),
    ]


def test_the_order_does_not_depend_on_the_order_of_writing(tmp_path):
    for part, names in (("x", "cab"), ("y", "bca")):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.txt").write_text(name)
    assert pairs(open_corpus(str(tmp_path / "x"))) == pairs(open_corpus(str(tmp_path / "y")))
    assert [document.id for document in open_corpus(str(tmp_path / "x"))] == ["a.txt", "b.txt", "c.txt"]


def test_iterating_twice_reads_the_same_documents(folder):
    corpus = open_corpus(str(folder))
    assert pairs(corpus) == pairs(corpus)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("a.txt", ["a.txt"]),
        ("b/z.md", ["z.md"]),
        ("c.py", ["c.py"]),
        ("d.jsonl", ["d.jsonl:0", "d.jsonl:1"]),
        ("e.parquet", ["e.parquet:0", "e.parquet:1"]),
    ],
)
def test_one_file_is_a_corpus_with_ids_that_start_with_its_name(folder, name, ids):
    assert [document.id for document in open_corpus(str(folder / name))] == ids


def test_hidden_files_and_folders_are_skipped(folder):
    before = pairs(open_corpus(str(folder)))
    (folder / ".secret.txt").write_text("no")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("no")
    assert pairs(open_corpus(str(folder))) == before


def test_finding_the_files_of_a_folder_compares_no_path_with_every_hidden_one(tmp_path, monkeypatch):
    (tmp_path / ".venv").mkdir()
    for i in range(60):
        (tmp_path / f"{i}.txt").write_text("x")
        (tmp_path / ".venv" / f"{i}.txt").write_text("x")
    compared, equal = [], Path.__eq__
    monkeypatch.setattr(Path, "__eq__", lambda self, other: compared.append(0) or equal(self, other))
    monkeypatch.setattr(Path, "__hash__", Path.__hash__)
    open_corpus(str(tmp_path))
    assert len(compared) < 120


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.txt").write_text("yes")
    assert pairs(open_corpus(str(tmp_path / ".cache"))) == [("a.txt", "yes")]


def test_a_folder_whose_name_ends_like_a_file_is_not_read_as_one(tmp_path):
    (tmp_path / "notes.txt").mkdir()
    (tmp_path / "notes.txt" / "a.md").write_text("yes")
    assert pairs(open_corpus(str(tmp_path))) == [("notes.txt/a.md", "yes")]


def test_an_empty_folder_raises_and_names_what_is_read(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no \.txt, \.md, .* \.json, \.csv file: name one") as error:
        open_corpus(str(tmp_path))
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize("spec", ["missing.txt", "./missing", "/no/such/folder", "~/no-such-folder-here", "a/b/c", ""])
def test_a_missing_path_raises_with_a_remedy(spec, tmp_path, monkeypatch):
    (tmp_path / "here.txt").write_text("not asked for")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="check the path, or use --corpus python-docs") as error:
        open_corpus(spec)
    assert repr(spec) in one_line(error)


def test_empty_documents_are_skipped_and_keep_the_numbers_of_the_others(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, {"text": "one"}])
    (tmp_path / "b.txt").write_text("")
    assert pairs(open_corpus(str(tmp_path))) == [("a.jsonl:1", "one")]


def test_blank_lines_of_jsonl_are_not_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n  \n{"text": "two"}')
    assert pairs(open_corpus(str(tmp_path))) == [("a.jsonl:0", "one"), ("a.jsonl:1", "two")]


def test_text_field_names_the_key(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"body": "one", "text": "no"}])
    write_parquet(tmp_path / "b.parquet", [{"body": "two", "text": "no"}])
    assert [document.text for document in open_corpus(str(tmp_path), text_field="body")] == ["one", "two"]


@pytest.mark.parametrize("suffix", ["txt", "md", "py", "jsonl"])
def test_invalid_utf8_raises_and_names_the_file_and_the_remedy(tmp_path, suffix):
    file = tmp_path / f"bad.{suffix}"
    file.write_bytes(b"caf\xe9 \xff")
    with pytest.raises(CorpusError, match="mend it or leave it out") as error:
        list(open_corpus(str(tmp_path)))
    assert str(file) in one_line(error)


def test_broken_jsonl_raises_and_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(CorpusError, match="mend it or leave it out") as error:
        list(open_corpus(str(tmp_path)))
    assert str(tmp_path / "bad.jsonl") in one_line(error)


@pytest.mark.parametrize("keep", [0, 3, 0.5])
def test_truncated_parquet_raises_and_names_the_file_and_the_remedy(tmp_path, keep):
    file = tmp_path / "bad.parquet"
    write_parquet(file, [{"text": "some text " * 20}] * 50)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep) if keep < 1 else keep])
    with pytest.raises(CorpusError, match="mend it or leave it out") as error:
        list(open_corpus(str(tmp_path)))
    assert str(file) in one_line(error)


def test_parquet_with_damaged_pages_raises_and_names_the_file(tmp_path):
    file = tmp_path / "bad.parquet"
    write_parquet(file, [{"text": f"some text {i}"} for i in range(50)])
    whole = bytearray(file.read_bytes())
    whole[4:60] = b"\xff" * 56
    file.write_bytes(bytes(whole))
    with pytest.raises(CorpusError) as error:
        list(open_corpus(str(file)))
    assert str(file) in one_line(error)


@pytest.mark.parametrize(("row", "found"), [({"body": "one"}, "'body'"), ({"text": 3}, "'text'"), ([1], "list")])
def test_a_row_without_its_text_raises_and_names_file_row_and_remedy(tmp_path, row, found):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, row])
    with pytest.raises(CorpusError, match="name the key with --text-field") as error:
        list(open_corpus(str(tmp_path)))
    text = one_line(error)
    assert str(tmp_path / "a.jsonl") in text
    assert "row 1" in text
    assert found in text


def test_parquet_without_the_column_raises_and_names_the_columns(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"body": "one", "url": "x"}])
    with pytest.raises(CorpusError, match=r"no text under 'text' \(found: 'body', 'url'\)") as error:
        list(open_corpus(str(tmp_path)))
    assert "a.parquet, row 0" in one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_raises_and_names_it(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(CorpusError, match=r"a\.txt"):
        list(open_corpus(str(tmp_path)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_link_to_nowhere_is_no_file(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "b.txt").write_text("b")
    assert pairs(open_corpus(str(tmp_path))) == [("b.txt", "b")]


# Splits.

MANY = Corpus.from_texts([f"text number {i}" for i in range(200)])


def test_train_and_heldout_are_all_the_documents_and_disjoint():
    train, heldout = pairs(MANY.split("train")), pairs(MANY.split("heldout"))
    assert set(train).isdisjoint(heldout)
    assert sorted(train + heldout) == sorted(pairs(MANY.split("all"))) == sorted(pairs(MANY))


def test_about_one_document_in_ten_is_held_out():
    assert 10 <= len(pairs(MANY.split("heldout"))) <= 30


def test_splits_keep_the_order_of_the_corpus():
    order = [document.id for document in MANY]
    train = [document.id for document in MANY.split("train")]
    assert train == sorted(train, key=order.index)


def test_a_split_depends_on_the_id_alone():
    other = Corpus.from_texts([f"another text {i}" for i in range(300)])
    ids = {document.id for document in other.split("heldout")}
    assert {document.id for document in MANY.split("heldout")} == {id_ for id_ in ids if int(id_[5:]) < 200}


def test_which_ids_are_held_out_never_changes():
    assert [i for i in range(60) if is_held_out(f"text:{i}")] == HELD_OUT_IDS


HELD_OUT_IDS = [37, 42, 51]


@pytest.mark.parametrize("count", [1, 9])
def test_fewer_than_ten_documents_hold_nothing_out(count):
    corpus = Corpus.from_texts([f"t{i}" for i in range(count)])
    assert pairs(corpus.split("train")) == pairs(corpus)
    assert pairs(corpus)
    with pytest.raises(CorpusError, match="fewer than 10 documents, so none is held out: name another corpus") as error:
        corpus.split("heldout")
    one_line(error)


def test_ten_documents_may_be_split():
    assert Corpus.from_texts([f"t{i}" for i in range(10)]).split("heldout").part == "heldout"


@pytest.mark.parametrize(("files", "rows", "holds_out"), [(9, 0, False), (10, 0, True), (1, 8, False), (1, 9, True)])
def test_files_and_rows_both_count_as_documents(tmp_path, files, rows, holds_out):
    for i in range(files):
        (tmp_path / f"{i}.txt").write_text("x")
    if rows:
        write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}] * rows)
    assert open_corpus(str(tmp_path)).holds_out is holds_out


def test_train_of_a_small_folder_is_all_of_it(folder):
    corpus = open_corpus(str(folder))
    assert pairs(corpus.split("train")) == pairs(corpus)


# Fingerprints.


def fingerprint(*documents):
    return Corpus("x", partial(iter, [Document(*document) for document in documents])).fingerprint


def test_the_fingerprint_changes_with_any_text_id_or_order():
    base = fingerprint(("a", "one"), ("b", "two"))
    assert base == fingerprint(("a", "one"), ("b", "two"))
    others = [
        fingerprint(("a", "one"), ("b", "twO")),
        fingerprint(("a", "one"), ("c", "two")),
        fingerprint(("b", "two"), ("a", "one")),
        fingerprint(("a", "one")),
        fingerprint(("a", "one"), ("b", "two"), ("c", "")),
        fingerprint(("ao", "ne"), ("b", "two")),
    ]
    assert len({base, *others}) == 7


def test_the_fingerprint_is_that_of_the_whole_corpus_whichever_the_part():
    assert MANY.split("train").fingerprint == MANY.split("heldout").fingerprint == MANY.fingerprint


def test_the_fingerprint_does_not_depend_on_where_the_folder_is(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("same")
    assert open_corpus(str(tmp_path / "x")).fingerprint == open_corpus(str(tmp_path / "y")).fingerprint


def test_an_identity_stands_in_for_the_texts():
    def never():
        raise AssertionError("the texts were read")

    assert Corpus("x", never, identity="a").fingerprint != Corpus("x", never, identity="b").fingerprint


def test_a_lone_surrogate_in_jsonl_raises_a_corpus_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "bad \\ud800 half"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl"):
        _ = list(open_corpus(str(tmp_path))), open_corpus(str(tmp_path)).fingerprint


# python-docs.


@pytest.fixture(scope="module")
def docs():
    return list(open_corpus("python-docs"))


def test_python_docs_have_topics_then_modules(docs):
    ids = [document.id for document in docs]
    assert "python-docs/topics/for" in ids
    assert "python-docs/os.py" in ids
    assert "python-docs/json/decoder.py" in ids
    topics = [id_.startswith("python-docs/topics/") for id_ in ids]
    assert topics == sorted(topics, reverse=True)
    assert len(docs) > 300


def test_python_docs_have_distinct_ids_and_no_empty_text(docs):
    assert len({document.id for document in docs}) == len(docs)
    assert all(document.text for document in docs)


def test_python_docs_are_the_same_at_every_reading(docs):
    assert list(python_docs()) == docs


def test_python_docs_leave_out_tests_and_other_peoples_packages(docs):
    parts = {part for document in docs for part in document.id.split("/")[1:]}
    assert not parts & {"test", "tests", "site-packages", "dist-packages", "__pycache__", "encodings", "idlelib"}


def test_python_docs_hold_out_about_one_in_ten(docs):
    held = sum(is_held_out(document.id) for document in docs)
    assert 0.05 < held / len(docs) < 0.16


def test_python_docs_with_tests_are_the_same_documents_and_more(docs):
    longer = {document.id for document in python_docs(tests=True)}
    assert {document.id for document in docs} <= longer
