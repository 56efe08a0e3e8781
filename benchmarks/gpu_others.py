"""Other benchmarks as parts of benchmarks/gpu.py: `itda` commands, and streaming a model of Llama-3.1-405B's shape."""

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gpu_commands
import large_blocks
import torch
from gpu_clock import Emit

LOOK_S = 2.0
"""Seconds between looks at what benchmarks/streaming.py has measured."""


def commands(task: dict[str, Any], _device: torch.device, emit: Emit) -> None:
    """Each `itda` command in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        emit(**gpu_commands.run_all(task["model"], task["layers"], task["tokens"], task["devices"].split(","), place))


def streaming(task: dict[str, Any], _device: torch.device, emit: Emit) -> None:
    """benchmarks/streaming.py; its blocks stay in the folder for temporary files until all is measured."""
    size = {name: task[name] for name in ("shape", "blocks", "tokens")}
    place = Path(tempfile.gettempdir()) / "_".join(["itda_blocks", *map(str, size.values())])
    out = place / "streaming.md"
    place.mkdir(exist_ok=True)
    emit(blocks_in=str(place))
    options = [word for name, value in size.items() for word in (f"--{name}", str(value))]
    script = Path(__file__).with_name("streaming.py")
    process = subprocess.Popen(
        [sys.executable, str(script), *options, "--folder", str(place / "model"), "--out", str(out)],
        stdout=subprocess.DEVNULL,
    )
    shown = 0
    while process.poll() is None or len(_rows(out)) > shown:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
        rows = _rows(out)
        if len(rows) > shown:
            shown = len(rows)
            emit(rows={row["key"]["part"]: row for row in rows}, tables=large_blocks.report(rows))
    if process.returncode or shown == 0:
        raise RuntimeError(f"benchmarks/streaming.py: exit status {process.returncode}, {shown} rows")
    shutil.rmtree(place)


def _rows(out: Path) -> list[dict[str, Any]]:
    """What benchmarks/streaming.py has kept so far; a last line may not be whole yet."""
    found, log = [], out.with_suffix(".jsonl")
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found
