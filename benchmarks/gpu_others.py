"""Other benchmarks as parts of benchmarks/gpu.py: `itda` commands, and streaming a model of Llama-3.1-405B's shape."""

import tempfile
from typing import Any

import gpu_commands
import torch
from gpu_clock import Emit

COMMANDS = {
    "full": [{"model": "tiny", "layers": "2,4", "tokens": 8000, "devices": "cpu,cuda"}],
    "quick": [{"model": "tiny", "layers": "4", "tokens": 1500, "devices": "cpu"}],
    "minute": [],
}
STREAMING: dict[str, list[dict[str, Any]]] = {"full": [], "quick": [], "minute": []}


def commands(task: dict[str, Any], _device: torch.device, emit: Emit) -> None:
    """Each `itda` command in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        emit(**gpu_commands.run_all(task["model"], task["layers"], task["tokens"], task["devices"].split(","), place))


def streaming(task: dict[str, Any], device: torch.device, emit: Emit) -> None:
    raise NotImplementedError
