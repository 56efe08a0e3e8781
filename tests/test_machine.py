"""What the machine says of itself: memory within a container's limit, and reasons against Triton."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from itda import machine

CPU = torch.device("cpu")


def with_group(monkeypatch, tmp_path: Path, **files: str) -> None:
    """Let the files of a container's limit be these."""
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path)


def test_free_memory_is_what_the_container_has_left_if_that_is_less(monkeypatch, tmp_path):
    with_group(monkeypatch, tmp_path, memory_max="3000000\n", memory_current="1000000\n")
    assert machine.free_memory() == 2_000_000


@pytest.mark.parametrize("files", [{}, {"memory_max": "max\n", "memory_current": "5\n"}, {"memory_max": "no number"}])
def test_free_memory_is_the_machine_s_where_there_is_no_limit(monkeypatch, tmp_path, files):
    with_group(monkeypatch, tmp_path, **files)
    assert machine.free_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.3)


def test_a_device_that_is_no_gpu_has_memory_enough():
    assert machine.free_device_memory(CPU) == machine.UNKNOWN > 10**18


@pytest.mark.parametrize(
    ("interpreted", "installed", "says"),
    [("", True, "no CUDA device"), ("1", True, ""), ("1", False, "Triton is not installed")],
)
def test_what_is_missing_for_triton_on_a_cpu(monkeypatch, interpreted, installed, says):
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    monkeypatch.setattr(machine, "find_spec", lambda name: object() if installed else None)
    assert machine.missing_for_triton(CPU) == says


def test_a_gpu_must_be_new_enough(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(machine, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    for capability, says in (((7, 5), "a GPU older than Ampere"), ((8, 0), ""), ((9, 0), "")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert machine.missing_for_triton(torch.device("cuda")) == says


def test_asking_for_memory_loads_no_tensors():
    code = "import sys; from itda import machine; machine.free_memory(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
