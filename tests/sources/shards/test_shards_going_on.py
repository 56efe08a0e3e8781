"""Activations on disk that were not finished, or have lost files: what goes on makes the same, or refuses."""

import json

import pytest
from sources.shards.shard_cases import ABOUT, SITES, TOKENS, copied, direct, files, refused, same_stream, write

from itda import Site
from itda.errors import SettingError, StoreError
from itda.sources.shards import writer as shard_writer
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter


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


def test_what_is_kept_of_a_range_is_gone_on_from(folder, tmp_path, monkeypatch):
    """Kept after every batch, as it is every minute: nothing of that is read again."""
    path = tmp_path / "part"
    monkeypatch.setattr(shard_writer, "KEEP_S", 0.0)
    read = 0
    for most in (1, 1, 3, 2, 5):
        writer = ShardWriter(path, ABOUT, SITES, 192, "float32", shard_tokens=96)
        assert writer.tokens == read
        assert writer.gaps == [(read, None)]
        for batches in list(direct(read))[:most]:
            writer.add(batches)
            read += len(batches[SITES[0]])
        writer.close()
    assert read % 96
    there = json.loads((path / "manifest.json").read_text())
    assert (there["tokens"], there["partial"]["tokens"]) == (read - read % 96, read % 96)
    same_stream(ShardSource(path, tokens=there["tokens"]), direct(tokens=there["tokens"]))
    assert f"it has {there['tokens']:,} tokens so far" in refused(folder=path)
    with ShardWriter(path, ABOUT, SITES, 192, "float32") as writer:
        for batches in direct(writer.tokens):
            writer.add(batches)
        writer.finish()
    assert files(path) == files(folder)


def test_what_is_filled_in_less_than_a_minute_is_not_kept_twice(folder, stream, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "write_labels", counted := Counted(shard_writer.write_labels))
    write(tmp_path / "new", stream)
    assert counted.calls == len(json.loads((tmp_path / "new" / "manifest.json").read_text())["ranges"])


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        return self.function(*arguments, **options)


def test_stopped_by_the_keyboard_it_keeps_all_that_it_has(stream, tmp_path):
    writer = ShardWriter(tmp_path / "new", ABOUT, SITES, 192, "float32", shard_tokens=96)
    writer.__enter__()
    for batches in stream[:2]:
        writer.add(batches)
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with ShardWriter(tmp_path / "new", ABOUT, SITES, 192, "float32") as writer:
        assert writer.tokens == sum(len(batches[SITES[0]]) for batches in stream[:2])


@pytest.mark.parametrize("harm", ["a shard is gone", "a shard is changed", "labels are gone", "a range before is gone"])
def test_what_was_kept_and_is_not_as_it_was_is_made_anew(folder, stream, tmp_path, harm):
    path = tmp_path / "new"
    with ShardWriter(path, ABOUT, SITES, 192, "float32", shard_tokens=96) as writer:
        for batches in stream[:3]:
            writer.add(batches)
        writer.keep()
        kept = writer.tokens
    begun = next((path / "layer_1").glob(".*.tmp"))
    number = begun.name[1:7]
    assert kept % 96
    if harm == "a shard is gone":
        begun.unlink()
    elif harm == "a shard is changed":
        content = bytearray(begun.read_bytes())
        content[600] ^= 1
        begun.write_bytes(content)
    elif harm == "labels are gone":
        next((path / "labels").glob(f".{number}.*")).unlink()
    else:
        (path / "layer_1" / "000000.safetensors").unlink()
    with ShardWriter(path, ABOUT, SITES, 192, "float32") as writer:
        assert writer.tokens == (0 if harm.startswith("a range") else kept - kept % 96)
        for first, end in writer.gaps:
            for batches in direct(first, *([] if end is None else [end])):
                writer.add(batches)
        writer.finish()
    assert files(path) == files(folder)


def test_an_unfinished_harvest_is_read_up_to_what_is_there(stream, tmp_path):
    path = write(tmp_path / "part", stream[:6], finish=False)
    there = json.loads((path / "manifest.json").read_text())["tokens"]
    assert 96 <= there < TOKENS
    same_stream(ShardSource(path, tokens=there), direct(tokens=there))
    for tokens in (None, there + 1):
        error = refused(folder=path, tokens=tokens)
        assert f"is incomplete: it has {there:,} tokens so far: run the same `itda harvest` again" in error


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
