"""What the parts of benchmarks/gpu.py share: clocks of a device, its memory, and what the package says in its log."""

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from common import machine

Emit = Callable[..., None]
"""Takes what was measured of a task so far, as keywords: it is kept at once."""


def card_of(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["cpu"]


def wait_for(device: torch.device) -> None:
    """Return once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device is done too."""
    wait_for(device)
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """By the device's own clock, which leaves out the start of the first kernel."""
    if device.type != "cuda":
        return 1e3 * seconds(call, device)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def in_turn(
    calls: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, most_s: float
) -> dict[str, list[float]]:
    """Milliseconds of each call, one after the other in every repetition; fewer repetitions if they take long."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for repetition in range(repeats):
        for name in list(calls)[:: -1 if repetition % 2 else 1]:
            taken[name].append(milliseconds(calls[name], device))
        if time.perf_counter() - started > most_s:
            break
    return taken


def middle(values: list[float]) -> float:
    """The median, to four digits."""
    return float(f"{statistics.median(values):.4g}")


def forget_memory(device: torch.device) -> None:
    """Give back what nobody holds, and count the peak from now on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def most_memory(device: torch.device) -> int | None:
    """The most bytes of the GPU that torch had since `forget_memory`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """What the package logs meanwhile, each line once: where growth runs, and which pursuit."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (line := record.getMessage()) not in found:
                found.append(line)

    log, keep = logging.getLogger("itda"), Keep()
    before = log.level
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    try:
        yield found
    finally:
        log.removeHandler(keep)
        log.setLevel(before)
