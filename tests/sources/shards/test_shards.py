"""Activations on disk: read back to the bit."""

import json
import shutil
from itertools import pairwise

import pytest
import torch
from sources.shards.shard_cases import (
    ABOUT,
    SITES,
    TOKENS,
    copied,
    direct,
    files,
    joined,
    refused,
    same_labels,
    same_stream,
    write,
)

from itda import ActivationBatch, Label, Labels, Site, Trainer
from itda.core.batch import ActivationSource
from itda.errors import SettingError
from itda.sources.shards import writer as shard_writer
from itda.sources.shards.files import read_shard
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter


def test_what_is_read_is_what_was_written(folder, stream):
    source = ShardSource(folder)
    assert isinstance(source, ActivationSource)
    assert (source.sites, source.d_model, source.dtype, source.tokens) == (SITES, 192, "float32", TOKENS)
    assert source.about == ABOUT
    same_stream(source, stream)


def test_the_rows_of_a_window_share_its_text_and_of_a_document_its_name(folder):
    _, labels = joined(ShardSource(folder), SITES[0])
    for column in (labels.document, labels.window):
        assert len({id(text) for text in column[:96]}) == len(set(column[:96].tolist()))


def test_dictionaries_are_those_of_the_source_itself_to_the_bit(folder, stream):
    for site in SITES:
        made = []
        for each in (ShardSource(folder), stream):
            trainer = Trainer(192, tokens=TOKENS, k=6, atoms=60, offset_tokens=50, passes=2)
            for batches in each:
                trainer.offer(batches[site])
            made.append(trainer.finish())
        assert torch.equal(made[0].atoms, made[1].atoms)
        assert torch.equal(made[0].novelty, made[1].novelty)
        same_labels(made[0].labels, made[1].labels)
        assert len(made[0]) == 60


@pytest.mark.parametrize("flight", [3, 8, 100])
def test_one_site_of_many_groups_first_makes_the_same_files(folder, stream, tmp_path, flight):
    apart = [
        {site: batches[site]}
        for first in range(0, len(stream), flight)
        for site in reversed(SITES)
        for batches in stream[first : first + flight]
    ]
    assert files(write(tmp_path / "other", apart)) == files(folder)


def test_other_batches_make_the_same_files(folder, stream, tmp_path):
    whole = {site: ActivationBatch(*joined(stream, site)) for site in SITES}
    cuts = [0, 1, 2, 95, 96, 97, 400, TOKENS]
    recut = [
        {site: ActivationBatch(batch.activations[a:b], batch.labels[a:b]) for site, batch in whole.items()}
        for a, b in pairwise(cuts)
    ]
    assert files(write(tmp_path / "other", recut)) == files(folder)


def test_the_layout_and_the_manifest(folder):
    assert set(files(folder)) == {"manifest.json"} | {
        f"{name}/{n:06}.{ending}"
        for n in range(8)
        for name, ending in [("layer_1", "safetensors"), ("layer_2.mlp_out", "safetensors"), ("labels", "parquet")]
    }
    values = json.loads((folder / "manifest.json").read_text())
    assert (values["format"], values["format_version"]) == ("itda-activations", 1)
    assert (values["tokens"], values["complete"], values["about"]) == (TOKENS, True, ABOUT)
    assert [(each["first"], each["tokens"]) for each in values["ranges"]] == [
        *((96 * n, 96) for n in range(7)),
        (672, 28),
    ]


def test_a_file_of_labels_is_small(folder):
    assert (folder / "labels" / "000000.parquet").stat().st_size < 6000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_activations_keep_their_dtype(dtype, stream, tmp_path):
    narrow = [
        {s: ActivationBatch(b.activations.to(getattr(torch, dtype)), b.labels) for s, b in each.items()}
        for each in stream
    ]
    source = ShardSource(write(tmp_path / "shards", narrow, dtype))
    assert source.dtype == dtype
    same_stream(source, narrow)
    assert source.bytes == sum(path.stat().st_size for path in (tmp_path / "shards").rglob("0*"))


@pytest.mark.parametrize(
    ("skip", "tokens"), [(0, 1), (0, 96), (95, 98), (96, 300), (650, TOKENS), (50, None), (10, 10)]
)
def test_skip_and_tokens_are_those_of_the_source(folder, skip, tokens):
    found = list(ShardSource(folder, tokens=tokens, skip=skip))
    if tokens == skip:
        assert found == []
    else:
        same_stream(found, direct(skip, tokens or TOKENS))


def test_batches_are_of_moderate_size(folder, monkeypatch):
    monkeypatch.setattr("itda.sources.shards.source.BATCH", 40)
    assert [len(b[SITES[0]]) for b in ShardSource(folder)] == [40, 40, 16] * 7 + [28]


def test_some_sites_are_read_without_the_others(folder, stream, tmp_path):
    copy = copied(folder, tmp_path)
    shutil.rmtree(copy / "layer_1")
    same_stream(ShardSource(copy, SITES[1:]), stream, SITES[1:])
    assert "has no layer 3: use one of 1, 2.mlp_out" in refused(SettingError, folder=folder, sites=[Site(3)])


def test_the_fingerprint_is_that_of_what_is_read(folder, stream, tmp_path):
    same = ShardSource(folder, tokens=100).fingerprint
    assert ShardSource(folder, tokens=100, skip=30, verify=False).fingerprint == same
    assert ShardSource(write(tmp_path / "other", stream[:-1]), tokens=100).fingerprint == same
    others = [ShardSource(folder), ShardSource(folder, tokens=101), ShardSource(folder, SITES[:1], 100)]
    site = SITES[0]
    changed = [
        {**batches, site: ActivationBatch(batches[site].activations * 2, batches[site].labels)} for batches in stream
    ]
    others.append(ShardSource(write(tmp_path / "changed", changed), tokens=100))
    assert len({same, *(other.fingerprint for other in others)}) == 5


def test_a_shard_is_mapped_not_copied(tmp_path):
    """A GB of zeros in a file without blocks: read in full it would take a GB."""
    import psutil

    rows, d_model = 2**18, 1024
    with ShardWriter(tmp_path / "shards", {}, [Site(0)], d_model, "float32") as writer:
        label = Labels.of(Label("a", 0, 0, 1, 0, "", "x", ""))
        writer.add({Site(0): ActivationBatch(torch.zeros(1, d_model), label)})
        writer.finish()
    path = tmp_path / "shards" / "layer_0" / "000000.safetensors"
    content = path.read_bytes()[:512].replace(b"[1, 1024]", b"[262144, 1024]").replace(b"4096]", b"1073741824]")
    path.write_bytes(content[:512])
    with path.open("r+b") as file:
        file.truncate(512 + rows * d_model * 4)
    before = psutil.Process().memory_info().rss
    assert float(read_shard(path, rows, d_model, "float32")[5000:5010].sum()) == 0
    assert psutil.Process().memory_info().rss - before < 2**27


def test_default_shards_are_of_about_64_mib():
    for d_model, dtype, tokens in [(4096, "bfloat16", 8192), (192, "float32", 86016), (10**6, "float32", 16)]:
        assert shard_writer._shard_tokens(d_model, dtype) == tokens
