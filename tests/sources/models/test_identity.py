"""Fingerprints of a model's files: no changed byte escapes, where they are does not matter, and large ones are kept."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from itda.sources.models import identity
from itda.sources.models.identity import commit_of, files_of, fingerprint


@given(content=st.binary(min_size=1, max_size=200), place=st.integers(0, 199), chunk=st.integers(1, 70))
def test_any_changed_byte_changes_it(tmp_path_factory, content, place, chunk):
    file = tmp_path_factory.mktemp("files") / "model.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "CHUNK", chunk)
        file.write_bytes(content)
        before = fingerprint([file])
        changed = bytearray(content)
        changed[place % len(content)] ^= 1
        file.write_bytes(changed)
        assert fingerprint([file]) != before
        file.write_bytes(content)
        assert fingerprint([file]) == before


def test_it_knows_the_names_of_files_and_not_their_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.bin").write_bytes(b"1")
    assert fingerprint([tmp_path / "one" / "a.bin"]) == fingerprint([tmp_path / "two" / "a.bin"])
    (tmp_path / "two" / "a.bin").rename(tmp_path / "two" / "b.bin")
    assert fingerprint([tmp_path / "one" / "a.bin"]) != fingerprint([tmp_path / "two" / "b.bin"])


def test_the_files_that_decide_are_those_that_are_loaded(tmp_path):
    names = ("model.safetensors", "config.json", "tokenizer.json", "merges.txt", "modeling_own.py", "model.index.json")
    for name in (*names, "README.md", "old.bin", "training.log"):
        (tmp_path / name).write_text(name)
    assert {path.name for path in files_of(tmp_path)} == set(names)
    (tmp_path / "model.safetensors").unlink()
    assert "old.bin" in {path.name for path in files_of(tmp_path)}


def save(file, **changed):
    tensors = {"matrix": torch.zeros(1500, 1500), "norm": torch.zeros(64), "bias": torch.zeros(3)}
    save_file({name: value.clone() for name, value in {**tensors, **changed}.items()}, file)
    return fingerprint([file], whole=1000)


def test_above_the_limit_small_tensors_headers_and_samples_are_told_apart(tmp_path):
    file = tmp_path / "model.safetensors"
    before = save(file)
    assert before.startswith("sampled:")
    assert save(file) == before
    norm, bias = torch.zeros(64), torch.zeros(3)
    norm[17], bias[2] = 1e-6, 1e-6
    assert len({before, save(file, norm=norm), save(file, bias=bias), save(file, matrix=torch.ones(1500, 1500))}) == 4
    assert save(file, norm=torch.zeros(4, 16)) != before  # of the same bytes, in another shape


def test_the_hash_of_a_large_file_is_kept_while_the_file_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "CACHED", 10)
    monkeypatch.setattr(identity, "RECENT_S", -1.0)
    file, read = tmp_path / "model.bin", []
    plain = identity._part
    monkeypatch.setattr(identity, "_part", lambda *a: read.append(a) or plain(*a))
    file.write_bytes(b"0123456789abcdef")
    found = [fingerprint([file]) for _ in range(3)]
    assert len(set(found)) == len(read) == 1
    times = file.stat()
    file.write_bytes(b"0123456789abcdeF")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had been
    assert fingerprint([file]) != found[0]
    assert len(json.loads((tmp_path / "cache" / "itda" / "files.json").read_text())) == 1


@pytest.mark.parametrize("content", ["", "[]", "{", '{"/model.bin": 3}'])
def test_a_damaged_register_of_hashes_is_no_trouble(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(identity, "CACHED", 0)
    (tmp_path / "itda").mkdir()
    (tmp_path / "itda" / "files.json").write_text(content)
    file = tmp_path / "model.bin"
    file.write_bytes(b"1")
    if content.startswith('{"'):
        (tmp_path / "itda" / "files.json").write_text(json.dumps({str(file): 3}))
    assert fingerprint([file]) == fingerprint([file])


def test_a_file_that_was_just_written_is_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "CACHED", 0)
    (tmp_path / "model.bin").write_bytes(b"1")
    fingerprint([tmp_path / "model.bin"])
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "model.bin"))
    monkeypatch.setattr(identity, "CACHED", 0)
    monkeypatch.setattr(identity, "RECENT_S", -1.0)
    (tmp_path / "model.bin").write_bytes(b"1")
    assert fingerprint([tmp_path / "model.bin"]).startswith("all:")


@pytest.mark.parametrize(
    ("path", "commit"),
    [
        ("/hub/models--a--b/snapshots/" + "0a" * 20 + "/config.json", "0a" * 20),
        ("/hub/snapshots/" + "1" * 40 + "/models--a--b/snapshots/" + "2" * 40 + "/x/y.gguf", "2" * 40),
        ("/hub/models--a--b/snapshots/main/config.json", None),
        ("/models/mine/config.json", None),
    ],
)
def test_the_commit_is_in_the_path_of_a_snapshot(path, commit):
    assert commit_of(path) == commit
