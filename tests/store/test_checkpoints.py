"""Checkpoints: what was written comes back to the bit, and what is damaged or half written is never taken for whole."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from core.helpers import same_bits
from core.training.test_state import (
    MAKERS,
    TOKENS,
    assert_same,
    assert_same_labels,
    interrupted,
    offered,
    short_waits,
    stream,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import Label, Labels, Trainer
from itda.core.training.state import TrainingState
from itda.errors import StoreError
from itda.store.checkpoints import latest_checkpoint, write_checkpoint

SITE = "layer_3.mlp_out"


def state(number: int = 0) -> TrainingState:
    """Every dtype, empty and scalar tensors, odd text, floats that have no short name."""
    random = torch.Generator().manual_seed(number)
    x = torch.randn(5, 3, generator=random)
    tensors = {
        "atoms": x,
        "transposed": x.T,
        "half": x.half(),
        "first.0": x.bfloat16(),
        "double": x.double(),
        "odd": torch.tensor([1, 2, 3], dtype=torch.int8),
        "mask": torch.tensor([True, False, True]),
        "columns": torch.arange(6, dtype=torch.int32).reshape(3, 2),
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(2**62),
        "zeros": torch.tensor([-0.0, 0.0]),
    }
    rows = [
        Label("é/文", 0, 0, 2, 17, "", "To", " be"),
        Label("", 1, 5, 5, 9, "", "", ""),
        Label("\ud800", 2**40, 7, 9, -1, "a\x00", "\udfff\n", "😀"),
    ]
    values = {"threshold": 0.1 + 0.2, "tiny": 5e-324, "big": 2**70, "list": [1, None, "é\ud800"], "number": number}
    return TrainingState(values, tensors, {"first": Labels.of(), "trainer.atoms": Labels.of(*rows, *rows[:2])})


def assert_same_state(a: TrainingState, b: TrainingState) -> None:
    assert a.values == b.values
    assert a.tensors.keys() == b.tensors.keys()
    assert all(same_bits(bits(a.tensors[name]), bits(b.tensors[name])) for name in a.tensors)
    assert a.labels.keys() == b.labels.keys()
    for name in a.labels:
        assert_same_labels(a.labels[name], b.labels[name])
        assert a.labels[name].document.tolist() == b.labels[name].document.tolist()
        assert a.labels[name].position.dtype == b.labels[name].position.dtype


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.contiguous()


def written(folder: Path, *numbers: int) -> list[Path]:
    return [write_checkpoint(folder, {"number": n}, {SITE: state(n), "tokens": state(100 + n)}) for n in numbers]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_comes_back_to_the_bit(tmp_path):
    (path,) = written(tmp_path / "a" / "b", 7)
    read = latest_checkpoint(tmp_path / "a" / "b")
    assert read is not None
    assert (read.path, read.record, read.skipped) == (path, {"number": 7}, [])
    assert list(read.training_states) == [SITE, "tokens"]
    assert_same_state(read.training_states[SITE], state(7))
    assert_same_state(read.training_states["tokens"], state(107))
    assert names(path) == sorted(["record.json", f"{SITE}.safetensors", "tokens.safetensors"])


def test_rows_of_a_window_share_its_text_again(tmp_path):
    text = "window " * 20
    labels = Labels.of(*(Label("essay", i, i, i + 1, i, text[:i], text[i], text[i + 1 :]) for i in range(9)))
    write_checkpoint(tmp_path, {}, {"a": TrainingState({}, {}, {"atoms": labels})})
    read = latest_checkpoint(tmp_path)
    assert read is not None
    window = read.training_states["a"].labels["atoms"].window
    assert window.tolist() == [text] * 9
    assert len({id(row) for row in window}) == 1


def test_a_hundred_thousand_labels_take_no_time(tmp_path):
    rows = np.arange(100_000)
    texts = np.array([f"{'the text of a window ' * 10}{i}" for i in range(20_000)], dtype=object)
    labels = Labels(texts[rows // 500], rows, rows, rows + 1, rows, texts[rows // 5], rows)
    started = time.perf_counter()
    write_checkpoint(tmp_path, {}, {"a": TrainingState({}, {}, {"atoms": labels})})
    read = latest_checkpoint(tmp_path)
    assert time.perf_counter() - started < 5  # 0.2 s on an idle machine
    assert read is not None
    assert read.training_states["a"].labels["atoms"].window.tolist() == labels.window.tolist()


def test_no_folder_and_an_empty_one_have_none(tmp_path):
    assert latest_checkpoint(tmp_path / "absent") is None
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".checkpoint-000009.x").mkdir()
    assert latest_checkpoint(tmp_path) is None


def test_the_newest_two_stay_and_numbers_go_on(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    written(tmp_path, *range(1, 13))
    assert names(tmp_path) == ["checkpoint-000011", "checkpoint-000012", "notes.txt"]
    (tmp_path / "checkpoint-000012").rename(tmp_path / "checkpoint-999999")
    written(tmp_path, 13)
    assert names(tmp_path) == ["checkpoint-1000000", "checkpoint-999999", "notes.txt"]
    read = latest_checkpoint(tmp_path)
    assert read is not None
    assert read.record == {"number": 13}


def test_leftovers_of_a_killed_process_are_ignored_and_then_removed(tmp_path):
    written(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoint-000001", tmp_path / ".checkpoint-000002.abc")
    (tmp_path / ".checkpoint-000002.abc" / "record.json").unlink()
    read = latest_checkpoint(tmp_path)
    assert read is not None
    assert (read.record, read.skipped) == ({"number": 1}, [])
    written(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-000001", "checkpoint-000002"]


def test_states_are_asked_for_one_at_a_time(tmp_path):
    class Lazy(dict):
        def __getitem__(self, name):
            assert [path.stem for path in tmp_path.glob(".*/*")] == list("abc")[: ord(name) - ord("a")]
            return state(ord(name))

    write_checkpoint(tmp_path, {}, Lazy.fromkeys("abc"))
    read = latest_checkpoint(tmp_path)
    assert read is not None
    assert_same_state(read.training_states["c"], state(ord("c")))


FILES = ("record.json", f"{SITE}.safetensors", "tokens.safetensors")


def cut(size: int):
    return lambda path: os.truncate(path, int(size * path.stat().st_size) if isinstance(size, float) else size)


def flip(share: float, bit: int = 1):
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(share * (len(data) - 2))] ^= bit
        path.write_bytes(data)

    return damage


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "empty": cut(0),
    "one byte": cut(1),
    "seven bytes": cut(7),
    "half": cut(0.5),
    "almost": cut(0.98),
    "longer": longer,
    "missing": Path.unlink,
    "a directory": directory,
    "another's": lambda path: path.write_text('{"format": "other"}'),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    **{f"byte at {share}": flip(share) for share in (0.0, 0.01, 0.3, 0.7, 1.0)},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_named(tmp_path, name, damage):
    _, newest = written(tmp_path, 1, 2)
    damage(newest / name)
    read = latest_checkpoint(tmp_path)
    assert read is not None
    assert read.record == {"number": 1}
    assert_same_state(read.training_states[SITE], state(1))
    assert len(read.skipped) == 1
    assert read.skipped[0].startswith("checkpoint-000002: ")
    assert name in read.skipped[0]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25)
@given(st.floats(0, 1), st.sampled_from([1, 2, 8, 32, 128]))
def test_no_flipped_bit_goes_unseen(tmp_path_factory, name, share, bit):
    folder = tmp_path_factory.mktemp("flip")
    (path,) = written(folder, 1)
    flip(share, bit)(path / name)
    with pytest.raises(StoreError, match="no whole checkpoint"):
        latest_checkpoint(folder)


def test_if_none_is_whole_the_error_says_why_of_each_and_what_to_do(tmp_path):
    first, second = written(tmp_path, 1, 2)
    (first / "tokens.safetensors").unlink()
    cut(10)(second / f"{SITE}.safetensors")
    (tmp_path / "checkpoint-000003").write_text("a file")
    with pytest.raises(StoreError) as caught:
        latest_checkpoint(tmp_path)
    message = str(caught.value)
    assert "checkpoint-000003: record.json cannot be read" in message or "000003: it has no record.json" in message
    assert f"checkpoint-000002: {SITE}.safetensors has 10 bytes" in message
    assert "checkpoint-000001: it has no tokens.safetensors" in message
    assert message.endswith(": start the run anew")
    assert "\n" not in message


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_two_that_stay(tmp_path):
    written(tmp_path, 1, 2)
    cut(0.5)(tmp_path / "checkpoint-000002" / "tokens.safetensors")
    written(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-000001", "checkpoint-000003"]


def test_a_checkpoint_of_another_version_is_passed_over(tmp_path, monkeypatch):
    written(tmp_path / "run", 1)
    monkeypatch.setattr("itda.store.checkpoints.FORMAT_VERSION", 2)
    (newer,) = written(tmp_path, 2)
    monkeypatch.undo()
    newer.rename(tmp_path / "run" / "checkpoint-000002")
    read = latest_checkpoint(tmp_path / "run")
    assert read is not None
    assert read.record == {"number": 1}
    assert read.skipped == ["checkpoint-000002: it has format version 2, this itda reads 1"]


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=3)
@given(st.integers(0, 10**6), st.data())
def test_training_goes_on_from_the_disk_to_the_same_bits(tmp_path_factory, name, seed, data):
    folder = tmp_path_factory.mktemp("run")

    def through_disk(state: TrainingState) -> TrainingState:
        write_checkpoint(folder, {}, {SITE: state})
        read = latest_checkpoint(folder)
        assert read is not None
        return read.training_states[SITE]

    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    batch, make = stream(seed, dtype=dtype), MAKERS[name]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, TOKENS - 1), max_size=6))), TOKENS]
    stops = data.draw(st.sets(st.integers(0, len(cuts) - 2), min_size=1, max_size=4))
    with short_waits():
        whole = offered(make(), batch, cuts).finish()
        assert_same(whole, interrupted(make, batch, cuts, stops, through_disk).finish())


def test_a_folder_that_cannot_be_made_is_one_line_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot write a checkpoint in .*: see that it can be written, then go on$"):
        write_checkpoint(tmp_path / "file" / "run", {}, {"a": state()}, remedy="then go on")
    with pytest.raises(StoreError, match="cannot read"):
        latest_checkpoint(tmp_path / "file")


BIG = TrainingState({}, {"atoms": torch.zeros(200_000)}, {})
REMEDY = "then go on with itda train --resume RUN"


def assert_full(folder: Path, error: StoreError) -> None:
    assert str(error) == f"no space for a checkpoint in {folder}: free some, {REMEDY}"
    assert names(folder) == ["checkpoint-000001"]
    read = latest_checkpoint(folder)
    assert read is not None
    assert_same_state(read.training_states[SITE], state(1))


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here: not root, or in a container")
    try:
        folder = tmp_path / "run"
        written(folder, 1)
        with pytest.raises(StoreError) as caught:
            write_checkpoint(folder, {}, {SITE: state(2), "tokens": BIG}, remedy=REMEDY)
        assert_full(folder, caught.value)
        with pytest.raises(StoreError) as caught:
            write_checkpoint(folder, {"long": "x" * 10**6}, {SITE: state(2)}, remedy=REMEDY)  # in record.json
        assert_full(folder, caught.value)
        failed = 0
        for pages in range(8):  # full at different files
            (tmp_path / "fill").write_bytes(b"")
            (tmp_path / "fill").write_bytes(b"x" * (shutil.disk_usage(tmp_path).free - 4096 * pages))
            try:
                write_checkpoint(folder, {}, {SITE: state(2)}, remedy=REMEDY)
            except StoreError as error:
                failed += 1
                assert_full(folder, error)
            else:
                shutil.rmtree(folder / "checkpoint-000002")
        assert 0 < failed < 8
        (tmp_path / "fill").unlink()
        written(folder, 2)
        assert names(folder) == ["checkpoint-000001", "checkpoint-000002"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


SMALL_FILES = """
import resource, sys
from pathlib import Path
import torch
from itda.store.checkpoints import write_checkpoint
from itda.core.training.state import TrainingState
from itda.errors import StoreError

states = {name: TrainingState({}, {"x": torch.zeros(size)}, {}) for name, size in (("a", 100), ("b", 200_000))}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_checkpoint(Path(sys.argv[1]), {}, states, remedy="then go on with itda train --resume RUN")
except StoreError as error:
    print(error)
"""


def in_process(code: str, folder: Path) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path):
    written(tmp_path, 1)
    out, _ = in_process(SMALL_FILES, tmp_path).communicate(timeout=120)
    assert_full(tmp_path, StoreError(out.decode().removesuffix("\n")))


FOREVER = """
import itertools, os, sys
from pathlib import Path
import torch
from itda.store.checkpoints import write_checkpoint
from itda.core.training.state import TrainingState

folder = Path(sys.argv[1])
for line in sys.stdin:  # a child for each, so that the imports are paid for once
    child = os.fork()
    if child == 0:
        for number in itertools.count(int(line)):
            state = TrainingState({"n": number}, {"x": torch.full((50_000,), number)}, {})
            states = {"a": state, "b": state}
            write_checkpoint(folder, {"n": number}, states)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_killed_while_it_writes_again_and_again_there_is_always_a_whole_one(tmp_path):
    random, number = np.random.default_rng(0), 0
    with in_process(FOREVER, tmp_path) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(10):
            before, started = sorted(tmp_path.glob("checkpoint-*")), time.monotonic()
            parent.stdin.write(f"{number + 1}\n".encode())
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            while sorted(tmp_path.glob("checkpoint-*")) == before and time.monotonic() < started + 60:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == b"gone\n"
            read = latest_checkpoint(tmp_path)
            assert read is not None
            assert read.skipped == []
            assert read.record["n"] > number
            number = read.record["n"]
            for state in read.training_states.values():
                assert state.values == {"n": number}
                assert bool((state.tensors["x"] == number).all())
        parent.stdin.close()
    assert parent.returncode == 0


def test_a_checkpoint_of_earlier_code_is_restored_and_written_again_as_it_was():
    folder = Path(__file__).parents[1] / "runs_made_before" / "unfinished" / "checkpoints"
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    state = checkpoint.training_states["layer_2"]
    refined = {"offset_tokens": 64, "passes": 2, "min_fidelity": 0.9}
    trainer = Trainer(192, tokens=2000, k=4, threshold=0.6, pursuit="mp_refit", **refined)
    trainer.restore(state)
    again = trainer.state()
    assert (trainer.seen, len(trainer)) == (361, 62)
    # It goes on in another order of summation than it began with, and keeps both.
    assert (state.arithmetic, again.arithmetic) == ((1,), (1, 2))
    again.values["trainer"].pop("arithmetic")
    assert again.values == state.values
    assert again.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in state.tensors.items())
