"""The measured rates of this machine, in a small file of the user's cache: the next `itda plan` goes by them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from itda.errors import StoreError
from itda.files import FORMAT_VERSION, explained, read_json, write_json
from itda.machine import cache_folder
from itda.sources.streamed.rates import Cost, DictionaryCosts

FORMAT = "itda-rates"
REMEDY = "measure again with --measure, or plan with --assumed"


@dataclass(frozen=True)
class Measured:
    """What was measured on a machine for one model; the rates of a GPU are there if it has one."""

    date: str
    """The day of the measurement, as 2026-11-26."""
    disk: float
    """Bytes per second that weights are read from disk, to the GPU if there is one."""
    disk_of: str
    """The file that was read."""
    link: float | None
    """Bytes per second that hidden states are copied to a GPU and back; None without one."""
    flops: Mapping[str, float]
    """Operations per second of the model's products, by device: cpu, cuda."""
    costs: Mapping[str, DictionaryCosts]
    """What dictionaries cost, by device."""
    atoms: Mapping[str, tuple[int, ...]]
    """The sizes of dictionary that the costs were fitted to, by device."""
    seconds: float
    """How long the measurement took."""

    def values(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Measured:
        """Read JSON values. Raises `KeyError` or `TypeError` if they are none of ours."""
        costs = {
            device: DictionaryCosts(**{part: Cost(**line) for part, line in found.items()})
            for device, found in values["costs"].items()
        }
        atoms = {device: tuple(sizes) for device, sizes in values["atoms"].items()}
        return Measured(**{**values, "costs": costs, "atoms": atoms})


@cache
def this_machine() -> str:
    """Name this machine by what its rates depend on: processor, threads, GPU, torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}, torch {torch.__version__}"


def rates_file() -> Path:
    """Return the path of the file."""
    return cache_folder() / "rates.json"


def kept_rates(of: Mapping[str, Any]) -> Measured | None:
    """Return what was measured on this machine for the same model and settings; None if nothing was.

    Raises `StoreError` for a file that cannot be read.
    """
    return next((row["rates"] for row in _rows() if _is(row, of)), None)


def was_measured() -> bool:
    """Return True if anything was measured on this machine. Raises `StoreError` for a file that cannot be read."""
    return any(row["machine"] == this_machine() for row in _rows())


def keep_rates(of: Mapping[str, Any], measured: Measured) -> None:
    """Keep what was measured for a model and settings, in place of what was there. Raises `StoreError`."""
    try:
        rows = [row for row in _rows() if not _is(row, of)]
    except StoreError:
        rows = []  # a damaged file has nothing to keep
    rows.append({"machine": this_machine(), "of": dict(of), "rates": measured})
    with explained(f"keep the rates in {rates_file()}", "set XDG_CACHE_HOME to a folder that can be written"):
        rates_file().parent.mkdir(parents=True, exist_ok=True)
        written = [{**row, "rates": row["rates"].values()} for row in rows]
        write_json(rates_file(), {"format": FORMAT, "format_version": FORMAT_VERSION, "measured": written})


def _is(row: Mapping[str, Any], of: Mapping[str, Any]) -> bool:
    return row["machine"] == this_machine() and row["of"] == json.loads(json.dumps(of))


def _rows() -> list[dict[str, Any]]:
    if not rates_file().exists():
        return []
    try:
        rows = read_json(rates_file(), FORMAT)["measured"]
        return [{"machine": row["machine"], "of": row["of"], "rates": Measured.of(row["rates"])} for row in rows]
    except (StoreError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{rates_file()} cannot be read: {REMEDY}") from error
