"""The run folder on disk: whole or not there, and never trusted."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest
import torch
from core.helpers import normal, same_bits, unit_rows

from itda import ITDA, Label, Labels, Site
from itda.core.arithmetic import ARITHMETIC
from itda.errors import StoreError
from itda.files import DICTIONARY_FILES, new_folder
from itda.store.dictionaries import load_dictionary, model_card, save_dictionary


def model(**parts) -> ITDA:
    texts = ["", "naïve ", "漢字", "\n\t", "\U0001f600", "العربية"]
    labels = Labels.of(*(Label(f"d/{i}.py", i, 10 * i, 10 * i + 1, i, texts[i], "x", texts[-i]) for i in range(6)))
    return ITDA(**{"atoms": unit_rows(6, 12), "labels": labels, "k": 3, **parts})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"offset": normal(1, 12)[0], "pursuit": "omp", "threshold": 0.25, "site": Site(3, "mlp_out"), "mode": "paper"},
        {"arithmetic": (1, 2)},
        {"provenance": {"model": "tiny", "tokens": 5, "revision": None}},
        {"atoms": torch.empty(0, 12), "labels": Labels.of()},
    ],
)
def test_a_dictionary_comes_back_as_it_was_to_the_bit(tmp_path, parts):
    before = model(**parts)
    before.save_pretrained(tmp_path / "new" / "layer_3")
    after = ITDA.from_pretrained(tmp_path / "new" / "layer_3")
    assert same_bits(before.atoms, after.atoms)
    assert (before.offset is None) == (after.offset is None)
    assert before.offset is None or same_bits(before.offset, after.offset)
    assert list(before.labels) == list(after.labels)
    for name in ("k", "pursuit", "threshold", "mode", "site", "provenance", "arithmetic"):
        assert getattr(before, name) == getattr(after, name)


def test_the_folder_holds_the_files_of_the_format_and_no_pickle(tmp_path):
    model().save_pretrained(tmp_path / "d")
    assert sorted(file.name for file in (tmp_path / "d").iterdir()) == sorted(DICTIONARY_FILES)
    assert json.loads((tmp_path / "d" / "config.json").read_text())["format_version"] == 1
    columns = pyarrow.parquet.read_table(tmp_path / "d" / "labels.parquet").column_names
    assert {"document", "position", "char_start", "char_end", "token_id", "token", "before", "after"} == set(columns)


def test_a_dictionary_says_which_order_of_summation_made_it_and_older_ones_are_of_the_first(tmp_path):
    model().save_pretrained(tmp_path / "d")
    path = tmp_path / "d" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("arithmetic") == [ARITHMETIC]
    path.write_text(json.dumps(config))
    assert ITDA.from_pretrained(tmp_path / "d").arithmetic == (1,)
    assert "| order of summation | 1 and 2: " in model_card(model(arithmetic=(1, 2)))


def test_an_existing_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "precious").write_text("x")
    with pytest.raises(StoreError, match="exists already: name another folder"):
        model().save_pretrained(tmp_path / "d")
    assert (tmp_path / "d" / "precious").read_text() == "x"


def test_a_failure_half_way_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "run") as partial:  # noqa: PT012
        (partial / "file").write_text("half")
        (partial / "missing").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_half_way_leaves_nothing_that_can_be_taken_for_a_run(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from itda.files import new_folder
        with new_folder(Path(sys.argv[1])) as partial:
            (partial / "run.json").write_text('{"format": "itda-run", "format_version": 1}')
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")])
    assert done.returncode == -9
    assert not (tmp_path / "run").exists()
    with new_folder(tmp_path / "run") as partial:  # and the name is free for the next try
        (partial / "done").write_text("whole")
    assert (tmp_path / "run" / "done").exists()


@pytest.mark.parametrize("file", ["config.json", "atoms.safetensors", "labels.parquet"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "foreign"])
def test_a_damaged_dictionary_is_refused_in_one_line_with_a_remedy(tmp_path, file, damage):
    model().save_pretrained(tmp_path / "d")
    path = tmp_path / "d" / file
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "foreign": b"[1, 2, 3]"}[damage])
    with pytest.raises(StoreError, match=r"again|anew|written by itda") as error:
        load_dictionary(tmp_path / "d")
    assert "\n" not in str(error.value)


def test_another_format_version_is_refused(tmp_path):
    model().save_pretrained(tmp_path / "d")
    config = tmp_path / "d" / "config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(StoreError, match="format version 99, this itda reads 1"):
        load_dictionary(tmp_path / "d")


def test_atoms_of_another_shape_than_the_config_says_are_refused(tmp_path):
    save_dictionary(model(), tmp_path / "a")
    save_dictionary(model(atoms=unit_rows(6, 8)), tmp_path / "b")
    (tmp_path / "b" / "atoms.safetensors").replace(tmp_path / "a" / "atoms.safetensors")
    with pytest.raises(StoreError, match="not those of its config"):
        load_dictionary(tmp_path / "a")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(StoreError, match="no folder"):
        load_dictionary(name)


class StubHub:
    """Stands in for `huggingface_hub.HfApi`: keeps what is uploaded."""

    uploads: dict[str, dict[str, bytes]] = {}  # noqa: RUF012

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, *, private, exist_ok):
        if repo_id.startswith("forbidden/"):
            raise OSError("403 Forbidden: no write access")
        assert exist_ok

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.uploads[repo_id] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")


def test_a_dictionary_pushed_to_the_hub_comes_back_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", StubHub)

    def snapshot_download(repo_id, *, revision, allow_patterns):
        for name, content in StubHub.uploads[repo_id].items():
            if name in allow_patterns:
                (tmp_path / name).write_bytes(content)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    before = model(offset=normal(1, 12)[0], provenance={"model": "gpt2/small"})
    assert before.push_to_hub("someone/atoms") == "https://hub.example/someone/atoms/commit/1"
    after = ITDA.from_pretrained("someone/atoms")
    assert same_bits(before.atoms, after.atoms)
    assert before.labels.keys() == after.labels.keys()
    assert b"base_model: gpt2/small" in StubHub.uploads["someone/atoms"]["README.md"]


def test_what_is_pushed_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", StubHub)
    made = {"model": str(tmp_path / "mine"), "corpus": str(tmp_path / "texts"), "tokens": 5}
    model(provenance=made).push_to_hub("someone/local")
    for content in StubHub.uploads["someone/local"].values():
        assert str(tmp_path).encode() not in content
    config = json.loads(StubHub.uploads["someone/local"]["config.json"])
    assert config["provenance"] == {"model": "mine", "corpus": "texts", "tokens": 5}


def test_a_refused_push_is_one_line_with_a_remedy(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", StubHub)
    with pytest.raises(StoreError, match=r"cannot push to forbidden/atoms \(403 Forbidden.*check the name"):
        model().push_to_hub("forbidden/atoms")
