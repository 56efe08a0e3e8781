"""The machine's free memory, its cache folder, and whether GPU kernels can run.

Asked here, so that `core` reads no environment.

torch is imported where it is needed: asking for memory alone loads no tensors.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

UNKNOWN = 2**62
"""Stands for the free bytes of a device that cannot say: more than any has."""


def free_memory() -> int:
    """Return the bytes of memory that this process could use without swapping, within its container's limit.

    >>> free_memory() > 0
    True
    """
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")  # a container's own limit (cgroup v2); elsewhere there is no such file
    try:
        most, current = (group / "memory.max").read_text(), (group / "memory.current").read_text()
        return min(free, int(most) - int(current)) if most.strip() != "max" else free
    except (OSError, ValueError):
        return free


def free_device_memory(device: torch.device) -> int:
    """Return the free bytes of memory of a GPU; `UNKNOWN` for a device that is no CUDA GPU."""
    if device.type != "cuda":
        return UNKNOWN
    import torch

    # What torch holds and does not use is free for a tensor, though not for another process.
    used = torch.cuda.memory_allocated(device)
    free, total = torch.cuda.mem_get_info(device)
    # A process may be held to a share of the GPU, `set_per_process_memory_fraction`; an older torch cannot say.
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _device: 1.0)(device)
    return min(free + torch.cuda.memory_reserved(device) - used, int(share * total) - used)


def cache_folder() -> Path:
    """Return the folder of itda in the user's cache, for small files that may be made again; it need not be there.

    >>> cache_folder().name
    'itda'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "itda"


def triton_is_interpreted() -> bool:
    """Return True if Triton runs kernels as Python, which the environment says before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing_for_triton(device: torch.device) -> str:
    """Say why Triton's kernels cannot run on a device; an empty string if they can.

    Triton's interpreter (the environment variable TRITON_INTERPRET is 1) runs them anywhere.
    """
    import torch

    interpreted = triton_is_interpreted()
    if not interpreted and (device.type != "cuda" or torch.version.cuda is None):
        return "no CUDA device"
    if not interpreted and torch.cuda.get_device_capability(device) < (8, 0):
        return "a GPU older than Ampere"
    return "" if find_spec("triton") else "Triton is not installed"
