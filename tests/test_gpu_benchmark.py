"""benchmarks/gpu.py in its smallest form, on a CPU: every part runs, bits agree, and nothing measured is lost."""

import importlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = ["--device", "cpu", "--sizes", "minute"]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


def table_lines(text: str, title: str) -> list[str]:
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def test_every_part_is_measured_the_tables_are_complete_and_the_bits_agree(gpu, tmp_path, capsys):
    out = tmp_path / "gpu.md"
    assert gpu.main([*SMALL, "--here", "--out", str(out)]) == 0
    wanted = {name: part.tasks["minute"] for name, part in gpu.PARTS.items()}
    rows = rows_of(out)
    assert {row["state"] for row in rows} == {"done"}
    assert sorted(row["key"]["part"] for row in rows) == sorted(name for name, tasks in wanted.items() for _ in tasks)
    text = out.read_text()
    assert text.strip() in capsys.readouterr().out
    for name, tasks in wanted.items():
        if tasks:
            lines = table_lines(text, importlib.import_module("gpu_report").TABLES[name][0])
            assert len(lines) == len(tasks)
            assert all(line.endswith("| done |") for line in lines)
    exact = [row.get("agreement") or row.get("bits") for row in rows if row["key"]["part"] in ("encode", "train")]
    assert len(exact) == 4
    assert all(each.startswith("every bit") for each in exact)
    assert "| NO |" not in text


def test_training_grows_as_on_a_gpu_and_is_compared_with_the_growth_of_a_cpu(gpu, monkeypatch):
    from itda.core.training.growth_cpu import CpuGrowth
    from itda.core.training.growth_device import DeviceGrowth

    made = []
    for kind in (CpuGrowth, DeviceGrowth):

        def offer(self, targets, offer=kind.offer):
            made.append(type(self))
            return offer(self, targets)

        monkeypatch.setattr(kind, "offer", offer)
    train = importlib.import_module("gpu_train")
    found = {}
    train.measure(gpu.gpu_tasks.TRAIN["minute"][0], torch.device("cpu"), lambda **values: found.update(values))
    assert [kind for kind, _ in itertools.groupby(made)] == [DeviceGrowth, CpuGrowth]
    assert found["textbook_atoms"] == found["atoms"]


def test_a_difference_in_one_bit_is_said(gpu):
    train, encode = importlib.import_module("gpu_train"), importlib.import_module("gpu_encode")
    task = gpu.gpu_tasks.TRAIN["minute"][0]
    x = train.activations(task["data"], task["tokens"], task["d"])
    one, other = (train._trained(task, part)[1].finish() for part in (x, x[:30]))
    assert train.compared(one, other, whole=False) == f"every bit of {len(other)} atoms"
    assert train.compared(one, other, whole=True) == "NOT TO THE BIT"
    one.atoms[0, 0] = one.atoms[0, 0].nextafter(torch.tensor(2.0))
    assert train.compared(one, other, whole=False) == "NOT TO THE BIT"
    x, atoms = encode.problem(gpu.gpu_tasks.ENCODE["minute"][0], torch.device("cpu"))
    code, left = encode.plain.pursue(x, atoms, 3)
    assert encode.agreement((code, left), (code, left)) == "every bit"
    assert encode.agreement((code, left), (code, left.nextafter(torch.tensor(2.0)))) == "NOT TO THE BIT"


def test_the_profile_finds_its_parts(gpu):
    """Functions that are renamed are to be renamed there too."""
    profile = importlib.import_module("gpu_profile")
    marks, found = profile.Marks(torch.device("cpu")), {}
    train = profile._training(gpu.gpu_tasks.PROFILE["minute"][0], torch.device("cpu"))
    encode = profile._encoding(gpu.gpu_tasks.PROFILE["minute"][1], torch.device("cpu"))
    for call in (train, encode):
        call()
        found |= profile.by_part(call, torch.device("cpu"))
    assert {"Gram matrix", "replay", profile.STEPS, profile.PRODUCT, "energies and scales"} <= set(found)
    for functions in profile.FUNCTIONS.values():
        held = []
        for name in functions:
            with profile._marked("itda.core", name, "part", marks) as known:
                held.append(known)
        assert any(held), functions


def test_time_within_a_part_is_that_parts_alone(gpu, monkeypatch):
    profile = importlib.import_module("gpu_profile")
    clock = iter(range(100))
    monkeypatch.setattr(profile.time, "perf_counter", lambda: next(clock))
    marks = profile.Marks(torch.device("cpu"))
    for moment in ("other", "replay", profile.PRODUCT, "", "", profile.PRODUCT, "", ""):
        marks.begin(moment) if moment else marks.end()
    assert marks.milliseconds() == {"replay": 3000, "other": 3000, profile.PRODUCT: 1000}


INTERPRETED = """
import runpy, sys
from pathlib import Path
from core.triton_worker import interpret
interpret()
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_run_in_tritons_interpreter(tmp_path):
    out = tmp_path / "gpu.md"
    paths = os.pathsep.join([str(BENCHMARKS.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INTERPRETED, str(BENCHMARKS / "gpu.py"), *SMALL, "--parts", "encode,train"]
    subprocess.run([*command, "--here", "--out", str(out)], check=True, env=env, capture_output=True)
    rows = rows_of(out)
    assert [row["state"] for row in rows] == ["done"] * 4
    assert all(row["method"].startswith("pursuit: triton") for row in rows if row["key"]["part"] == "encode")
    assert all((row.get("agreement") or row["bits"]).startswith("every bit") for row in rows)


CHILD = """
import json, os, sys, time
order = json.loads(sys.argv[2])
for task in order["tasks"]:
    def tell(state, **values):
        print(json.dumps({"task": task, "values": values, "state": state}), flush=True)
    tell("measuring")
    if task["does"] == "dies":
        os._exit(3)
    if task["does"] == "hangs":
        tell("measuring", ms=1)
        time.sleep(600)
    if task["does"] == "fails":
        tell("failed: OutOfMemoryError", ms=2)
        sys.exit(1)
    tell("done", ms=3)
"""


def test_what_fails_dies_or_hangs_is_a_line_and_the_rest_is_measured(gpu, tmp_path, monkeypatch):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(gpu, "__file__", str(script))
    told: dict[str, tuple] = {}
    tasks = [{"does": does} for does in ("runs", "dies", "fails", "runs well", "hangs", "never begins")]
    gpu.measure_in_a_child(
        {"tasks": tasks, "part": "encode"},
        3.0,
        lambda task, values, state: told.update({task["does"]: (values, state)}),
    )
    assert told == {
        "runs": ({"ms": 3}, "done"),
        "dies": ({}, "failed: its process ended"),
        "fails": ({"ms": 2}, "failed: OutOfMemoryError"),
        "runs well": ({"ms": 3}, "done"),
        "hangs": ({"ms": 1}, "cut off after 3 s"),
    }


def test_a_second_run_goes_on_and_takes_what_failed_last(gpu, tmp_path, monkeypatch):
    asked, broken = [], ["a"]

    def measure(task, device, emit):
        asked.append(task["data"])
        emit(ours_ms=1.0)
        if task["data"] in broken:
            raise RuntimeError("no kernel image is available\nmore")

    tasks = [{"data": name, "d": 2, "atoms": 3, "rows": 4, "k": 1} for name in ("a", "b")]
    monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(measure=measure))
    monkeypatch.setattr(gpu, "PARTS", {"encode": gpu.Part({"minute": tasks}, "fake:measure", 9)})
    out = tmp_path / "gpu.md"
    command = [*SMALL, "--here", "--parts", "encode", "--out", str(out)]
    gpu.main(command)
    assert asked == ["a"]  # the rest waits for a process that is whole
    assert "failed: RuntimeError: no kernel image is available |" in out.read_text()
    assert "not run yet" in out.read_text()
    broken.clear()
    gpu.main(command)
    gpu.main(command)
    assert asked == ["a", "b", "a"]
    assert [row["state"] for row in rows_of(out)] == ["done", "done"]


STREAMING = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]).with_suffix(".jsonl")
for part in sys.argv[sys.argv.index("--shape") + 1].split("+"):
    with out.open("a") as log:
        log.write(json.dumps({"key": {"part": part}, "machine": "with other threads", "sha256": "ab"}) + "\\n")
"""


def test_what_streaming_measures_is_kept_and_its_blocks_go_only_once_all_is_there(gpu, tmp_path, monkeypatch):
    others, report = importlib.import_module("gpu_others"), importlib.import_module("gpu_report")
    (tmp_path / "streaming.py").write_text(STREAMING)
    monkeypatch.setattr(others, "__file__", str(tmp_path / "gpu_others.py"))
    monkeypatch.setattr(others.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(others.large_blocks, "report", lambda rows: [f"{len(rows)} rows"])
    found = {}
    task = {"shape": "streamed", "blocks": 1, "tokens": 2}
    others.streaming(task, torch.device("cpu"), lambda **values: found.update(values))
    assert found["tables"] == ["1 rows"]
    assert not Path(found["blocks_in"]).exists()
    row = {"key": {"part": "streaming", "card": "none", **task}, "state": "done", **found}
    assert report._as_in_memory(row, []) is None
    row["rows"]["memory"] = row["rows"]["streamed"]
    assert report._as_in_memory(row, []) == "every bit"
    (tmp_path / "streaming.py").write_text("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="exit status 3"):
        others.streaming(task, torch.device("cpu"), lambda **values: found.update(values))
    assert Path(found["blocks_in"]).exists()


def test_encoding_training_and_their_profile_need_no_library_of_models_files_or_commands():
    code = (
        "import sys, gpu, gpu_encode, gpu_train, gpu_profile, itda.core.training.growth_device\n"
        "print([name for name in ('transformers', 'pyarrow', 'tyro', 'datasets', 'beartype') if name in sys.modules])"
    )
    paths = os.pathsep.join([str(BENCHMARKS.parent), str(BENCHMARKS)])
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths}, capture_output=True
    )
    assert done.stdout.decode().strip() == "[]"


def test_without_a_gpu_one_line_says_what_to_do(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.md")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path / "gpu.md")]) == 2
    assert not list(tmp_path.iterdir())
