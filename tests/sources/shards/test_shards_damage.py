"""Activations on disk, whatever was killed on the way; damage is one clear line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sources.shards.shard_cases import SITES, TOKENS, copied, refused, write

from itda import ActivationBatch, Label, Labels, Site
from itda.errors import StoreError
from itda.sources.shards.files import read_labels, read_shard
from itda.sources.shards.source import ShardSource


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
    with pytest.raises(StoreError, match=r"half a surrogate pair.*: rename or mend it"):
        write(tmp_path / "new", [{Site(0): ActivationBatch(torch.ones(1, 192), label)}], sites=[Site(0)])


# Other processes: killed, or without room.

STREAM = """
import os, random, resource, signal, sys
from pathlib import Path
import torch
from itda.core.batch import ActivationBatch, Site
from itda.core.labels import Label, Labels
from itda.errors import StoreError
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter

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
from itda.sources.shards import writer as shard_writer
shard_writer.KEEP_S = KEPT  # of seconds
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


@pytest.mark.parametrize("kept", [60.0, 0.0])
def test_killed_anywhere_again_and_again_it_makes_the_same_files(tmp_path, kept):
    assert int(in_another_process(KILL.replace("KEPT", str(kept)), tmp_path, 110 if kept else 55)) > 10


def test_a_full_disk_is_one_line_and_good_shards_are_kept(tmp_path):
    lines = in_another_process(FULL, tmp_path, 250).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "cannot write" in line
        assert line.endswith("(File too large): make room for it, and run the same command again to go on")
