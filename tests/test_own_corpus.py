"""What the commands say of a corpus, and the corpora of runs, read again as they were read then."""

import json
import os

import pytest
from test_cli import printed, refused

from itda.cli import main

SETTINGS = ["--layers", "2", "--k", "4", "--mode", "paper", "--threshold", "0.4", "--tokens", "300", "--window", "32"]


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02}.txt").write_bytes(b"\xef\xbb\xbf" + f"import os\nprint({i})\n".encode() * 3)
    (folder / "A.TXT").write_text("left out by an earlier itda")
    return folder


def train(corpus, run, *more):
    return ["train", "tiny", "--corpus", str(corpus), "--out", str(run), *SETTINGS, *more]


def test_train_harvest_and_index_say_what_is_left_out_unless_they_are_to_be_quiet(corpus, tmp_path, capfd):
    (corpus / "a.pdf").write_text("x")
    source = ["tiny", "--corpus", str(corpus), "--tokens", "100", "--layers", "2", "--window", "32"]
    said = f"itda: {corpus}: files left out: 1 (1 .pdf)\n"
    main(train(corpus, tmp_path / "run"))
    assert said in capfd.readouterr().err
    main(["harvest", *source, "--out", str(tmp_path / "kept")])
    assert said in capfd.readouterr().err
    main(["index", str(tmp_path / "run"), "--corpus", str(corpus), "--tokens", "64"])
    assert said in capfd.readouterr().err
    main(train(corpus, tmp_path / "again", "--quiet"))
    assert "files left out" not in capfd.readouterr().err


def test_folders_called_as_what_is_bundled_are_said_not_to_be_read(corpus, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    main(train(corpus, tmp_path / "run"))
    assert "itda: tiny is the bundled model; the folder of that name here is ./tiny\n" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["evaluate", "--tokens", "50"], ["index", "--tokens", "50"]])
def test_the_corpus_of_a_run_from_before_is_read_as_it_was(corpus, tmp_path, capsys, command, monkeypatch):
    from itda.recipes import runs
    from itda.sources.corpora.corpus import open_corpus

    with monkeypatch.context() as patch:
        patch.setattr(runs, "open_corpus", lambda spec, **given: open_corpus(spec, **{**given, "rules": 1}))
        printed(capsys, *train(corpus, tmp_path / "run", "--quiet"))
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert made["fingerprint"] == open_corpus(str(corpus), rules=1).fingerprint != open_corpus(str(corpus)).fingerprint
    assert made.pop("corpus_rules") == 1
    (tmp_path / "run" / "run.json").write_text(json.dumps(made))
    printed(capsys, command[0], str(tmp_path / "run"), *command[1:], "--quiet")


def test_a_corpus_that_changed_is_still_refused(corpus, tmp_path, capsys):
    printed(capsys, *train(corpus, tmp_path / "run", "--quiet"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["corpus_rules"] == 2
    (corpus / "00.txt").write_text("something else")
    assert "has changed since the run was made" in refused(capsys, "index", str(tmp_path / "run"))


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_corpus_with_a_file_name_that_is_not_utf8_is_trained_on(tmp_path, capsys):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / os.fsdecode(b"caf\xe9.txt")).write_text("import os\nprint(1)\n" * 9)
    printed(capsys, *train(tmp_path / "corpus", tmp_path / "run", "--quiet"))
    found = json.loads(printed(capsys, "decompose", str(tmp_path / "run"), "import os", "--json"))
    assert {use["label"]["document"] for token in found["tokens"] for use in token["atoms"]} == {"caf\\xe9.txt"}
