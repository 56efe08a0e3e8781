"""Activations on disk: read back to the bit, whatever was killed on the way; damage is one clear line."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from itda import ActivationBatch, Builder, Label, Labels, Site
from itda.core.batch import ActivationSource
from itda.errors import SettingError, StoreError
from itda.sources import shards
from itda.sources.corpus import Corpus
from itda.sources.huggingface import HuggingFaceSource, LanguageModel
from itda.sources.shard_files import read_labels, read_shard
from itda.sources.shards import ShardSource, ShardWriter

SITES = [Site(1), Site(2, "mlp_out")]
ABOUT = {"model": "tiny", "versions": {"torch": "2"}, "window": 32}
TEXTS = [
    f"import os\n\ndef naïve_{i}(path):\n    return os.path.join(path, '🙂 {i} 日本<|bos|>')\n" * 2 for i in range(12)
]
TOKENS = 700


def direct(skip=0, tokens=TOKENS, sites=SITES, dtype="float32"):
    model = LanguageModel.load("tiny", dtype=dtype)
    return HuggingFaceSource(model, Corpus.from_texts(TEXTS), sites, window=32, batch_size=2, tokens=tokens, skip=skip)


@pytest.fixture(scope="module")
def stream():
    return list(direct())


@pytest.fixture(scope="module")
def folder(stream, tmp_path_factory):
    """Seven ranges of 96 tokens and one of 28."""
    return write(tmp_path_factory.mktemp("shards") / "whole", stream)


def write(folder, stream, dtype="float32", finish=True, about=ABOUT, sites=SITES, **options):
    with ShardWriter(folder, about, sites, 192, dtype, **{"shard_tokens": 96, **options}) as writer:
        for batches in stream:
            writer.add(batches)
        if finish:
            writer.finish()
    return folder


def joined(stream, site):
    parts = [batches[site] for batches in stream if site in batches]
    return torch.cat([part.activations for part in parts]), Labels.concatenate([part.labels for part in parts])


def same_labels(a, b):
    for column in fields(Labels):
        first, second = getattr(a, column.name), getattr(b, column.name)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second), column.name


def same_stream(a, b, sites=SITES):
    a, b = list(a), list(b)
    for site in sites:
        (x, labels), (y, others) = joined(a, site), joined(b, site)
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
        same_labels(labels, others)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def refused(kind=StoreError, **options):
    with pytest.raises(kind) as error:
        list(ShardSource(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


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
            builder = Builder(192, tokens=TOKENS, k=6, atoms=60, offset_tokens=50, passes=2)
            for batches in each:
                builder.offer(batches[site])
            made.append(builder.finish())
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
    monkeypatch.setattr(shards, "BATCH", 40)
    assert [len(b[SITES[0]]) for b in ShardSource(folder)] == [40, 40, 16] * 7 + [28]


def test_some_sites_are_read_without_the_others(folder, stream, tmp_path):
    copy = copied(folder, tmp_path)
    shutil.rmtree(copy / "layer_1")
    same_stream(ShardSource(copy, SITES[1:]), stream, SITES[1:])
    assert "has no layer 3: it has 1, 2.mlp_out" in refused(SettingError, folder=folder, sites=[Site(3)])


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


def test_default_shards_are_of_about_256_mib():
    for d_model, dtype, tokens in [(4096, "bfloat16", 32768), (192, "float32", 348160), (10**6, "float32", 67)]:
        assert shards._shard_tokens(d_model, dtype) == tokens


# Going on.


def test_an_unfinished_harvest_goes_on_and_makes_the_same_files(folder, stream, tmp_path):
    path = tmp_path / "part"
    for most, there in [(4, 1), (9, 4), (12, 6)]:  # a group is up to 62 tokens
        with ShardWriter(path, ABOUT, SITES, 192, "float32", shard_tokens=96) as writer:
            for batches in list(direct(writer.tokens))[:most]:
                writer.add(batches)
        with ShardWriter(path, ABOUT, SITES, 192, "float32") as writer:
            assert not writer.complete
            assert writer.tokens >= there * 96
            assert writer.gaps == [(writer.tokens, None)]
    with ShardWriter(path, ABOUT, SITES, 192, "float32") as writer:
        for batches in direct(writer.tokens):
            writer.add(batches)
        writer.finish()
        assert writer.complete
        assert writer.tokens == TOKENS
    assert files(path) == files(folder)


def test_an_unfinished_harvest_is_read_up_to_what_is_there(stream, tmp_path):
    path = write(tmp_path / "part", stream[:6], finish=False)
    there = json.loads((path / "manifest.json").read_text())["tokens"]
    assert 96 <= there < TOKENS
    same_stream(ShardSource(path, tokens=there), direct(tokens=there))
    for tokens in (None, there + 1):
        error = refused(folder=path, tokens=tokens)
        assert f"is not whole, it has {there:,} tokens so far: run the same `itda harvest` again" in error


def test_more_tokens_than_there_are_is_one_line(folder):
    assert "has 700 tokens, not 701: use --tokens 700" in refused(SettingError, folder=folder, tokens=701)


def test_going_on_when_all_is_there_changes_nothing(folder, tmp_path):
    copy = copied(folder, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with ShardWriter(copy, ABOUT, SITES, 192, "float32") as writer:
        assert writer.complete
        assert writer.tokens == TOKENS
        writer.finish()
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_files_that_vanished_or_are_cut_short_are_made_anew_and_no_others(folder, tmp_path):
    copy = copied(folder, tmp_path)
    (copy / "layer_1" / "000001.safetensors").unlink()
    (copy / "labels" / "000002.parquet").write_bytes(b"PAR1")
    (copy / "layer_2.mlp_out" / "000005.safetensors").write_bytes(b"")
    (copy / "layer_1" / "000007.safetensors").unlink()
    kept = (copy / "layer_1" / "000003.safetensors").stat().st_mtime_ns
    with ShardWriter(copy, ABOUT, SITES, 192, "float32") as writer:
        assert (writer.tokens, writer.complete) == (96, False)
        gaps = writer.gaps
        assert gaps == [(96, 288), (480, 576), (672, 700)]
        for first, end in gaps:
            for batches in direct(first, end):
                writer.add(batches)
        writer.finish()
        assert writer.complete
    assert files(copy) == files(folder)
    assert (copy / "layer_1" / "000003.safetensors").stat().st_mtime_ns == kept


def test_a_repair_that_comes_to_other_tokens_is_refused(folder, tmp_path):
    copy = copied(folder, tmp_path)
    (copy / "layer_1" / "000007.safetensors").unlink()
    with ShardWriter(copy, ABOUT, SITES, 192, "float32") as writer:
        for batches in direct(672, 690):
            writer.add(batches)
        with pytest.raises(StoreError, match="had more tokens than there are now: put the corpus back as it was"):
            writer.finish()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"about": {**ABOUT, "model": "other"}}, "model tiny, not other"),
        ({"about": {**ABOUT, "versions": {"torch": "3"}}}, "versions.torch 2, not 3"),
        ({"about": {"model": "tiny"}}, "window 32, not None"),
        ({"sites": [Site(1)]}, "sites layer_1, layer_2.mlp_out, not layer_1"),
        ({"dtype": "bfloat16"}, "dtype float32, not bfloat16"),
        ({"shard_tokens": 97}, "shard_tokens 96, not 97"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(folder, stream, changed, named):
    before = files(folder)
    with pytest.raises(StoreError, match="was made with other settings") as error:
        write(folder, stream, **changed)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert files(folder) == before


def test_activations_of_another_kind_are_refused(stream, tmp_path):
    with pytest.raises(StoreError, match="is for bfloat16 activations of width 192, not float32 of width 192"):
        write(tmp_path / "other", stream, "bfloat16")
    with pytest.raises(SettingError, match="no dtype 'int8': use float64, float32, bfloat16, float16"):
        write(tmp_path / "another", stream, "int8")


def test_a_folder_of_something_else_is_refused(stream, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else than activations: name another folder"):
        write(tmp_path, stream)
    with pytest.raises(StoreError, match="cannot be read"):
        write(tmp_path / "notes.txt", stream)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    (tmp_path / ".manifest.json.tmp").write_text("{")  # all that a process killed at its first step leaves
    same_stream(ShardSource(write(tmp_path, stream)), stream)
    assert not (tmp_path / ".manifest.json.tmp").exists()


def test_nothing_is_written_before_the_first_activation(tmp_path):
    ShardWriter(tmp_path / "new", ABOUT, SITES, 192, "float32").close()
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(folder, stream, tmp_path):
    copy = copied(folder, tmp_path)
    one = ShardWriter(copy, ABOUT, SITES, 192, "float32")
    with pytest.raises(StoreError, match="is being written by another process: wait for it, or end it"):
        ShardWriter(copy, ABOUT, SITES, 192, "float32")
    one.close()
    ShardWriter(copy, ABOUT, SITES, 192, "float32").close()
    first, second = (ShardWriter(tmp_path / "new", ABOUT, SITES, 192, "float32") for _ in range(2))
    first.add(stream[0])
    for message in ("being written by another", "appeared while this ran"):
        with pytest.raises(StoreError, match=message):
            second.add(stream[0])
        first.close()


# Damage.


def test_a_flipped_byte_anywhere_is_found_before_a_row_of_its_range_is_yielded(folder, tmp_path):
    for name in ("layer_1/000002.safetensors", "labels/000002.parquet"):
        copy = copied(folder, tmp_path)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        read = []
        with pytest.raises(
            StoreError, match=r"has changed since it was written .*: remove it, and run the same"
        ) as error:
            read += (len(batches[SITES[0]]) for batches in ShardSource(copy))
        assert str(copy / name) in str(error.value)
        assert sum(read) <= 192
        shutil.rmtree(copy)


def test_without_verification_a_flipped_activation_is_yielded(folder, tmp_path):
    copy = copied(folder, tmp_path)
    path = copy / "layer_1" / "000000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert sum(len(batches[SITES[0]]) for batches in ShardSource(copy, verify=False)) == TOKENS


@pytest.mark.parametrize("name", ["layer_1/000006.safetensors", "labels/000006.parquet"])
def test_a_missing_or_truncated_file_is_known_at_once(folder, tmp_path, name):
    copy = copied(folder, tmp_path)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(StoreError, match=f"{name} has .* bytes, not .*: run the same `itda harvest` again"):
        ShardSource(copy)
    ShardSource(copy, tokens=500)
    (copy / name).unlink()
    with pytest.raises(StoreError, match=f"{name} is missing: run the same `itda harvest` again"):
        ShardSource(copy)


def test_a_file_that_is_no_longer_whole_when_it_is_read_is_one_line(folder, tmp_path):
    copy = copied(folder, tmp_path)
    source = ShardSource(copy, verify=False)
    for name, read in [
        ("layer_1/000000.safetensors", lambda path: read_shard(path, 96, 192, "float32")),
        ("labels/000000.parquet", lambda path: read_labels(path, 96)),
    ]:
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StoreError, match=f"{name} cannot be read: remove it"):
            list(source)
        (copy / name).write_bytes(whole)
        read(copy / name)
    with pytest.raises(StoreError, match="is not the shard that the manifest names"):
        read_shard(copy / "layer_1/000000.safetensors", 96, 192, "bfloat16")
    with pytest.raises(StoreError, match="has 96 labels, not 95"):
        read_labels(copy / "labels/000000.parquet", 95)


def test_a_damaged_or_foreign_manifest_is_one_line_for_reader_and_writer(folder, stream, tmp_path):
    copy = copied(folder, tmp_path)
    path = copy / "manifest.json"
    text = path.read_text()
    values = json.loads(text)
    damaged = [
        "",
        text[: len(text) // 2],
        "[]",
        json.dumps({**values, "ranges": 3}),
        json.dumps({**values, "sites": ["x"]}),
    ]
    damaged += [json.dumps({name: value for name, value in values.items() if name != "dtype"})]
    for content in damaged:
        path.write_text(content)
        assert "manifest.json is damaged, it may be cut short: put back a copy" in refused(folder=copy)
        with pytest.raises(StoreError, match="damaged"):
            write(copy, stream)
        assert path.read_text() == content
    path.write_text(json.dumps({**values, "format": "other"}))
    assert "is not an itda-activations file: name a folder made by" in refused(folder=copy)
    path.write_text(json.dumps({**values, "format_version": 2}))
    assert "has format version 2, this itda reads 1: install" in refused(folder=copy)
    assert "no activations in" in refused(folder=tmp_path)


def test_half_a_surrogate_pair_in_a_name_is_one_line(tmp_path):
    label = Labels.of(Label("caf\udce9.py", 0, 0, 1, 0, "", "x", ""))
    with pytest.raises(StoreError, match=r"half a surrogate pair .*: rename or mend it"):
        write(tmp_path / "new", [{Site(0): ActivationBatch(torch.ones(1, 192), label)}], sites=[Site(0)])


# Other processes: killed, or without room.

STREAM = """
import os, random, resource, signal, sys
from pathlib import Path
import torch
from itda.core.batch import ActivationBatch, Site
from itda.core.labels import Label, Labels
from itda.errors import StoreError
from itda.sources.shards import ShardSource, ShardWriter

torch.set_num_threads(1)
SITES, D, TOKENS = [Site(0), Site(1), Site(2)], 16, int(sys.argv[2])
X = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(0))
LABELS = Labels.of(*(Label(f"d{i // 30}", i, i, i + 1, i, "a" * (i % 7), "x", "after") for i in range(TOKENS)))

def stream(skip):
    "Groups of 11 tokens, three of them of one site after the other; then all sites at once."
    groups = [(max(skip, a), min(TOKENS, a + 11)) for a in range(0, TOKENS, 11) if a + 11 > skip]
    for i in range(0, len(groups), 3):
        for some in ([[s] for s in SITES] if i % 2 else [SITES]):
            for a, b in groups[i : i + 3]:
                yield {s: ActivationBatch(X[a:b] * (1 + s.layer), LABELS[a:b]) for s in some}

def harvest(folder):
    with ShardWriter(folder, {"model": "m"}, SITES, D, "float32", shard_tokens=24) as writer:
        for batches in stream(writer.tokens):
            writer.add(batches)
        writer.finish()

def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}

root = Path(sys.argv[1])
harvest(root / "whole")
WHOLE = files(root / "whole")
"""

KILL = """
def killed(folder, name, number):
    "A child that dies by SIGKILL just before or after its call `number` of os.<name>; False if it had finished."
    child = os.fork()
    if child == 0:
        try:
            os.fsync = lambda descriptor: None  # slow, and a process that dies loses nothing that it wrote
            real, calls = getattr(os, name), iter(range(10**9))
            def call(*arguments, **options):
                n = next(calls)
                if n == number // 2 and number % 2 == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*arguments, **options)
                if n == number // 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            setattr(os, name, call)
            harvest(folder)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

random.seed(0)
deaths = 0
for name in ("fsync", "replace"):
    number = 0
    while killed(folder := root / f"{name}-{number}", name, number):  # once everywhere ...
        while killed(folder, name, random.randrange(60)):  # ... and then wherever
            deaths += 1
        assert files(folder) == WHOLE, (name, number)
        deaths += 1
        number += 7
    assert files(folder) == WHOLE
print(deaths)
"""

FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def refused(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        harvest(root / "new")
    except StoreError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
refused(4 * D * 24)  # a shard is larger by its header
assert not [p for p in (root / "new").rglob("*") if p.is_file() and p.name != "manifest.json"]
size = max(len(content) for name, content in WHOLE.items() if name != "manifest.json")
assert size < len(WHOLE["manifest.json"]) * 0.9
refused(size)  # the manifest outgrows this: ranges named before are kept
there = ShardWriter(root / "new", {"model": "m"}, SITES, D, "float32")
tokens = there.tokens
assert 24 <= tokens < TOKENS
there.close()
assert sum(len(b[SITES[1]]) for b in ShardSource(root / "new", tokens=tokens)) == tokens
assert not [p for p in (root / "new").rglob(".*")]
harvest(root / "new")
assert files(root / "new") == WHOLE
"""


def in_another_process(code, tmp_path, tokens):
    command = [sys.executable, "-W", "ignore", "-c", STREAM + code, str(tmp_path), str(tokens)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_killed_anywhere_again_and_again_it_makes_the_same_files(tmp_path):
    assert int(in_another_process(KILL, tmp_path, 110)) > 10


def test_a_full_disk_is_one_line_and_good_shards_are_kept(tmp_path):
    lines = in_another_process(FULL, tmp_path, 250).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "cannot write" in line
        assert line.endswith("(File too large): make room for it, and run the same command again to go on")
