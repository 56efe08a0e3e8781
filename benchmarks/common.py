"""What the benchmarks share: timing in turn, child processes, the machine, and tables that are saved as they grow."""

import argparse
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itda import ActivationBatch, Labels

RESULTS = Path(__file__).parent / "results"
WIDTH = 80

BEST: dict[str, Any] = {"pursuit": "mp_refit", "offset_tokens": 4096, "massive": "skip", "recipe": 1}
"""Settings of `itda.Trainer` in recipe 1 of mode best, but for refinement."""


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def mean_seconds(call: Callable[[], Any], least: float = 0.2) -> float:
    """Seconds per call, of as many calls as take `least` seconds together."""
    started, number = time.perf_counter(), 0
    while number == 0 or time.perf_counter() - started < least:
        call()
        number += 1
    return (time.perf_counter() - started) / number


def in_turn(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, one after the other within a repetition, so that a slow spell of the machine meets all.

    Every other repetition runs them backwards: nobody always follows the same neighbour.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repeats):
        for name in list(calls)[:: -1 if repetition % 2 else 1]:
            taken[name].append(mean_seconds(calls[name]))
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of what was measured in the same repetition."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def resident() -> int:
    """Bytes of memory of this process now; where /proc is missing, the most it ever had."""
    return _status("VmRSS")


def most_resident() -> int:
    """The most bytes of memory that this process had since it began, or since `forget_peak`.

    Not `ru_maxrss` where it can be helped: on Linux a child inherits that of its parent.
    """
    return _status("VmHWM")


def forget_peak() -> None:
    """Count the peak from now on, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def child(script: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Run `script --child TASK` in a process of its own and return the JSON object it prints last.

    A peak of memory belongs to one task only there.
    """
    command = [sys.executable, script, "--child", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def labels_for(number: int, start: int = 0) -> Labels:
    """Labels that differ, for activations that come from nowhere."""
    place, text = np.arange(start, start + number), np.full(number, "", dtype=object)
    return Labels(
        document=text, position=place, char_start=place, char_end=place, token_id=place, window=text, window_start=place
    )


def batches(x: torch.Tensor, size: int) -> Iterable[ActivationBatch]:
    """Activations in reading order, `size` at a time, with labels."""
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield ActivationBatch(part, labels_for(len(part), start))


def machine() -> dict[str, Any]:
    """What timings depend on: rows from elsewhere are not shown together with these."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _processor(),
        "cores": cores,
        "memory_gib": round(memory / 2**30),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in ("torch", "numba")},
    }


def installed(distribution: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


class Results:
    """Measured rows: each is added to NAME.jsonl at once, and found there by its key when the script is run again."""

    def __init__(self, out: Path, *, fresh: bool = False) -> None:
        self.out, self._log, self._machine = out, out.with_suffix(".jsonl"), machine()
        out.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self._log.unlink(missing_ok=True)
        self._rows: dict[str, dict[str, Any]] = {}
        for line in self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []:
            with suppress(json.JSONDecodeError):  # a line that was cut off when the script was ended
                self._keep(json.loads(line))

    def _keep(self, row: dict[str, Any]) -> None:
        if row["machine"] == self._machine:
            self._rows.pop(_name(row["key"]), None)
            self._rows[_name(row["key"])] = row

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row measured last for a key on this machine."""
        return self._rows.get(_name(key))

    def add(self, key: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a row."""
        row = {"key": dict(key), **values, "date": date.today().isoformat(), "machine": self._machine}
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        self._keep(row)
        return row

    def compact(self) -> None:
        """Leave rows out of NAME.jsonl that later ones of the same key and machine have replaced."""
        latest: dict[str, str] = {}
        for line in self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []:
            with suppress(json.JSONDecodeError):
                row = json.loads(line)
                latest[_name({"key": row["key"], "machine": row["machine"]})] = line
        made = self._log.with_suffix(".new")
        made.write_text("".join(line + "\n" for line in latest.values()), encoding="utf-8")
        made.replace(self._log)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of this machine, the latest of each key."""
        return list(self._rows.values())

    def write(self, parts: Sequence[str]) -> str:
        """Save paragraphs and tables to NAME.md under the machine and the command; returns the text."""
        text = "\n\n".join([self._about(), *parts]) + "\n"
        self.out.write_text(text, encoding="utf-8")
        return text

    def _about(self) -> str:
        here = self._machine
        versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
        dates = sorted({row["date"] for row in self.rows} or {date.today().isoformat()})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        script = Path(sys.argv[0]).name
        command = textwrap.fill(
            shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
            WIDTH,
            initial_indent="    ",
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        about = (
            f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, {here['threads']} threads; "
            f"{versions}; {when}."
        )
        return paragraph(about) + "\n\n" + command


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def paragraph(text: str) -> str:
    """Text in lines of at most 80 characters."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers are to be formatted already."""
    lines = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def number(value: float | None, digits: int = 3) -> str:
    """A figure with some significant digits and no exponent; a dash for None."""
    if value is None:
        return "-"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:,.{decimals}f}"


def gib(size: float | None) -> str:
    """Bytes in GiB."""
    return "-" if size is None else f"{size / 2**30:.2f}"


def share(value: float | None) -> str:
    """A share in per cent, 100 only if it is all of it."""
    if value is None:
        return "-"
    return "100%" if value == 1 else f"{min(99.99, 100 * value):.2f}%"


def parse_bytes(text: str) -> int:
    """A size: 8G, 512M or a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write it as 8G, 512M or in bytes")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def arguments_for(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute; saved apart")
    parser.add_argument("--fresh", action="store_true", help="forget the rows that were measured before")
    parser.add_argument("--out", type=Path, help=f"default: benchmarks/results/{name}.md")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser


def results_for(arguments: argparse.Namespace, name: str) -> Results:
    """Where a benchmark keeps its rows: a quick run does not mix with a real one."""
    out = arguments.out or RESULTS / (f"{name}_quick.md" if arguments.quick else f"{name}.md")
    return Results(out, fresh=arguments.fresh)
