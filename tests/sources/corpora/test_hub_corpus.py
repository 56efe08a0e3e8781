"""Data sets of the Hub as corpora, with the Hub out of reach: local folders and made-up answers."""

import os
import subprocess
import sys

import pytest
from sources.corpora.corpus_files import one_line, write_jsonl, write_parquet

from itda.errors import CorpusError
from itda.sources.corpora.corpus import open_corpus
from itda.sources.corpora.hub_rows import read_hub_rows

HUB_WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@HUB_WARNINGS
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_hub_rows_are_streamed_with_numbered_ids(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": f"row {i} é", "n": i} for i in range(5)]
    (write_jsonl if kind == "jsonl" else write_parquet)(data / f"train.{kind}", rows)
    documents = list(read_hub_rows(str(data), "text", None, "train", None))
    assert [(d.id, d.text) for d in documents] == [(f"{data}/train:{i}", f"row {i} é") for i in range(5)]


@HUB_WARNINGS
def test_hub_rows_without_the_field_raise_and_name_the_remedy(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"body": "one"}])
    with pytest.raises(
        CorpusError, match=r"row 0 has no text under 'text' .*: name the key with --text-field"
    ) as error:
        list(read_hub_rows(str(tmp_path), "text", None, "train", None))
    one_line(error)


@HUB_WARNINGS
def test_hub_rows_of_an_unknown_split_raise_and_name_the_remedy(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"text": "one"}])
    with pytest.raises(CorpusError, match=r"cannot read the data set .*: check its name, config and split") as error:
        list(read_hub_rows(str(tmp_path), "text", None, "validation", None))
    one_line(error)


@HUB_WARNINGS
def test_hub_rows_of_an_empty_folder_raise_and_name_the_remedy(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot read the data set .*: check its name, config and split") as error:
        list(read_hub_rows(str(tmp_path), "text", None, "train", None))
    one_line(error)


@HUB_WARNINGS
def test_hub_rows_with_a_broken_line_raise_a_corpus_error(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(CorpusError) as error:
        list(read_hub_rows(str(tmp_path), "text", None, "train", None))
    one_line(error)


def test_an_error_without_a_message_while_streaming_is_a_corpus_error(monkeypatch):
    import datasets

    def fail(*_args, **_options):
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(CorpusError, match="cannot read the data set owner/name") as error:
        list(read_hub_rows("owner/name", "text", None, "train", None))
    one_line(error)


def test_hub_errors_that_are_no_oserrors_are_corpus_errors(monkeypatch):
    import datasets
    from huggingface_hub.errors import HTTPError

    def fail(*_args, **_options):
        raise HTTPError("timed out")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(CorpusError, match="cannot read the data set owner/name"):
        list(read_hub_rows("owner/name", "text", None, "train", None))


def hub_answers(monkeypatch, answer):
    from huggingface_hub import HfApi

    def dataset_info(self, repo_id, *, revision=None, **_options):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)


def test_a_hub_id_while_the_hub_cannot_be_reached_raises_with_a_remedy(monkeypatch):
    hub_answers(monkeypatch, OSError("no route to host\nsecond line"))
    with pytest.raises(CorpusError, match="the Hub cannot be reached: check the network, or use python-docs") as error:
        open_corpus("owner/name")
    assert "'owner/name'" in one_line(error)


def test_an_unknown_hub_id_raises_with_a_remedy(monkeypatch):
    from types import SimpleNamespace

    from huggingface_hub.errors import RepositoryNotFoundError

    response = SimpleNamespace(headers={}, request=None)
    hub_answers(monkeypatch, RepositoryNotFoundError("404 Client Error\nnot found", response=response))
    with pytest.raises(CorpusError, match="no file, folder or Hub data set 'owner/nmae': check the spelling") as error:
        open_corpus("owner/nmae")
    one_line(error)


def test_the_fingerprint_of_a_hub_data_set_is_its_revision_and_settings(monkeypatch):
    from types import SimpleNamespace

    def of(sha="abc", **settings):
        hub_answers(monkeypatch, SimpleNamespace(sha=sha))
        return open_corpus("owner/name", **settings).fingerprint

    same = of()
    assert same == of()
    assert len({same, of(sha="def"), of(config="en"), of(split="test"), of(text_field="body")}) == 5


def test_a_hub_id_offline_raises_one_line_in_a_new_process():
    code = (
        "from itda.sources.corpora.corpus import open_corpus\n"
        "try: open_corpus('owner/name')\n"
        "except Exception as error: print(repr(error))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("CorpusError(")
    assert run.stdout.count("\n") == 1
    assert "the Hub cannot be reached" in run.stdout


COMMIT = "0123456789" * 4


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A data set as `datasets` keeps what it has loaded once, with the Hub out of reach."""
    import datasets

    folder = tmp_path / "me___texts" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    rows = datasets.Dataset.from_dict({"text": ["one", "two", "three"]})
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "texts-train.arrow"), features=rows.features) as writer:  # pyright: ignore[reportAttributeAccessIssue]
        for row in rows:
            writer.write(row)
        writer.finalize()
    splits = datasets.SplitDict(dataset_name="texts")
    splits.add(datasets.SplitInfo("train", num_examples=3))
    info = datasets.DatasetInfo(
        features=rows.features, config_name="default", dataset_name="texts", version="0.0.0", splits=splits
    )
    info.write_to_directory(str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))  # pyright: ignore[reportAttributeAccessIssue]
    hub_answers(monkeypatch, OSError("offline mode is enabled"))


@HUB_WARNINGS
def test_a_data_set_that_is_kept_here_is_read_without_the_hub_and_that_is_said(kept, monkeypatch):
    from types import SimpleNamespace

    corpus, texts = open_corpus("me/texts"), ("one", "two", "three")
    assert [(d.id, d.text) for d in corpus] == [(f"me/texts/train:{i}", t) for i, t in enumerate(texts)]
    assert corpus.revision == COMMIT
    (note,) = corpus.notes
    assert note.startswith("the Hub cannot be reached: me/texts is read as it was kept on this machine, at 01234567")
    # It is what the Hub has at that commit.
    hub_answers(monkeypatch, SimpleNamespace(sha=COMMIT))
    assert open_corpus("me/texts").fingerprint == corpus.fingerprint


@HUB_WARNINGS
@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_what_is_kept_is_of_the_commit_that_is_asked_for(kept, revision):
    assert open_corpus("me/texts", revision=revision).revision == COMMIT


@HUB_WARNINGS
@pytest.mark.parametrize("settings", [{"revision": "f" * 40}, {"revision": "v1"}, {"config": "other"}])
def test_another_commit_or_configuration_than_is_kept_needs_the_hub(kept, settings):
    with pytest.raises(CorpusError, match="the Hub cannot be reached"):
        open_corpus("me/texts", **settings)


@HUB_WARNINGS
def test_a_split_that_is_not_kept_is_named(kept):
    with pytest.raises(CorpusError, match=r"cannot read the data set me/texts .*: check its name, config and split"):
        list(open_corpus("me/texts", split="validation"))


def test_a_revision_that_a_data_set_does_not_have_is_named(monkeypatch):
    from types import SimpleNamespace

    from huggingface_hub.errors import RevisionNotFoundError

    response = SimpleNamespace(headers={}, request=None)
    hub_answers(monkeypatch, RevisionNotFoundError("404", response=response))
    with pytest.raises(CorpusError, match="owner/name has no revision 'v9': check --dataset-revision") as error:
        open_corpus("owner/name", revision="v9")
    one_line(error)
