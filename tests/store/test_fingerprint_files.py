"""Files of fingerprints: what is written is what is read; what is damaged, foreign or of another version is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import itda.store.fingerprints
from itda import Fingerprint, Site
from itda.core.similarity.fingerprint import FingerprintSettings, fingerprint_of
from itda.core.tokens import Tokens
from itda.errors import SettingError, StoreError
from itda.store.fingerprints import read_fingerprint

COLUMNS = ("novelty", "bits", "norm")


def made(tokens: int = 300, **settings) -> Fingerprint:
    """A fingerprint of three documents at two sites; no model has made it."""
    random = torch.Generator().manual_seed(tokens)
    how = FingerprintSettings(**settings)
    document = np.sort(np.arange(tokens) % 3).astype(np.int32)
    position = np.arange(tokens, dtype=np.int32) % 100
    read = Tokens(["a", "b/ü", "🙂"][: int(document.max(initial=-1)) + 1], document, position, 5 * position + 3)
    sites = {
        site: fingerprint_of(torch.randn(tokens, 6, generator=random), how) for site in (Site(0), Site(2, "mlp_out"))
    }
    about = {"model": "/home/me/gpt2", "corpus": "me/texts", "window": 64, "fingerprint": "abc"}
    return Fingerprint(read, sites, how, about)


def same(a: Fingerprint, b: Fingerprint) -> bool:
    tokens = all(
        np.array_equal(getattr(a.tokens, n), getattr(b.tokens, n)) for n in ("document", "position", "char_end")
    )
    sites = list(a.sites) == list(b.sites) and all(
        np.array_equal(getattr(a[site], name), getattr(b[site], name)) for site in a.sites for name in COLUMNS
    )
    rest = (a.tokens.documents, a.settings, a.about, a.arithmetic) == (
        b.tokens.documents,
        b.settings,
        b.about,
        b.arithmetic,
    )
    return tokens and sites and rest


@given(st.integers(0, 40), st.integers(2, 9), st.booleans(), st.booleans())
def test_what_is_written_is_what_is_read(tmp_path_factory, tokens, segment, centred, massive):
    before = made(tokens, segment=segment, rungs=(0.1, 0.4), centred=centred, massive=massive)
    path = tmp_path_factory.mktemp("files") / "a.itda"
    before.save(path)
    assert same(Fingerprint.load(path), before)
    assert [file.name for file in path.parent.iterdir()] == ["a.itda"]


def test_a_large_file_has_at_most_5_bytes_for_each_token_and_site(tmp_path):
    tokens, random = 20_000, np.random.default_rng(0)
    one = made(2)
    noise = [
        random.integers(0, 2**bits, tokens).astype(kind)
        for bits, kind in ((16, np.uint16), (8, np.uint8), (8, np.uint8))
    ]
    places = np.arange(tokens, dtype=np.int32)
    read = Tokens(["a"], 0 * places, places, np.cumsum(random.integers(1, 9, tokens)).astype(np.int32))
    found = type(one[Site(0)])(*noise)
    Fingerprint(read, dict.fromkeys(map(Site, range(6)), found), one.settings).save(tmp_path / "a.itda")
    assert (tmp_path / "a.itda").stat().st_size < (4 * 6 + 2) * tokens


def test_no_damaged_byte_goes_unnoticed(tmp_path):
    path, before = tmp_path / "a.itda", made()
    before.save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place in random.integers(0, len(whole), 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << random.integers(8))]) + whole[place + 1 :])
        try:
            assert same(read_fingerprint(path), before), place  # a byte that nobody reads
        except StoreError:
            refused += 1
    assert refused > 100


def test_a_file_that_is_cut_short_is_one_line(tmp_path):
    path = tmp_path / "a.itda"
    made().save(path)
    whole = path.read_bytes()
    for length in (0, 3, 4, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            StoreError, match=r"^[^\n]*: (make or copy it again|name a file made by `itda fingerprint`)$"
        ):
            read_fingerprint(path)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "a.itda"
    for content in (b"hello", json.dumps({"format": "itda-run"}).encode()):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="is no fingerprint: name a file made by `itda fingerprint`"):
            read_fingerprint(path)
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), path)
    with pytest.raises(StoreError, match="is no fingerprint"):
        read_fingerprint(path)
    with pytest.raises(StoreError, match=r"no fingerprint .*No such file.*: check the path"):
        read_fingerprint(tmp_path / "none.itda")
    with pytest.raises(StoreError, match=r"no fingerprint .*Is a directory.*: check the path"):
        read_fingerprint(tmp_path)


def test_another_version_of_the_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(itda.store.fingerprints, "FORMAT_VERSION", 2)
    made().save(tmp_path / "a.itda")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="has format version 2, this itda reads 1: install the itda that wrote it"):
        read_fingerprint(tmp_path / "a.itda")


def test_columns_that_are_not_as_the_header_says_are_damage(tmp_path):
    path = tmp_path / "a.itda"
    made().save(path)
    table = pyarrow.parquet.read_table(path)
    for other in (
        table.drop_columns(["layer_0.bits"]),
        table.slice(0, 5),
        table.rename_columns(["x", *table.column_names[1:]]),
    ):
        pyarrow.parquet.write_table(other.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(StoreError, match="is damaged"):
            read_fingerprint(path)


def test_the_first_tokens_have_their_documents_alone(tmp_path):
    whole = made()
    part = whole.first(150)
    assert (len(part), len(part[Site(0)]), part.tokens.documents) == (150, 150, ["a", "b/ü"])
    assert part[Site(0)].bits.tolist() == whole[Site(0)].bits[:150].tolist()
    assert whole.first(0).tokens.documents == []


def test_a_site_that_is_not_there_is_named():
    with pytest.raises(SettingError, match=r"no layer 1: use one of 0, 2\.mlp_out"):
        made()[1]


def test_it_cannot_be_written_where_there_is_no_folder(tmp_path):
    with pytest.raises(StoreError, match="name a file in a folder that can be written"):
        made().save(tmp_path / "none" / "a.itda")


class Hub:
    """Stands in for `huggingface_hub.HfApi`: keeps what is uploaded."""

    uploads: dict[str, dict[str, bytes]] = {}  # noqa: RUF012

    def __init__(self, token=None):
        pass

    def create_repo(self, repo_id, *, private, exist_ok):
        if repo_id.startswith("forbidden/"):
            raise OSError("403 Forbidden: no write access")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.uploads[repo_id] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}")


def test_a_fingerprint_pushed_to_the_hub_comes_back_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)

    def download(repo_id, name, *, revision):
        (tmp_path / name).write_bytes(Hub.uploads[repo_id][name])
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    before = made()
    assert before.push_to_hub("someone/print") == "https://hub.example/someone/print"
    after = Fingerprint.load("someone/print")
    assert after.about == {**before.about, "model": "gpt2"}  # no folder of this machine
    assert same(Fingerprint(after.tokens, after.sites, after.settings, before.about), before)
    assert b"itda compare someone/print" in Hub.uploads["someone/print"]["README.md"]
    with pytest.raises(StoreError, match=r"cannot push to forbidden/print \(403 Forbidden.*check the name"):
        before.push_to_hub("forbidden/print")


def test_a_repository_that_is_not_there_is_one_line():
    with pytest.raises(StoreError, match="no file someone/nothing, and it cannot be read from the Hub: check the name"):
        Fingerprint.load("someone/nothing")
