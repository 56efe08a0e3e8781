"""`itda plan --measure`: how fast this machine reads, multiplies and makes dictionaries, in some seconds."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import linear

from itda.core.pursuit.fixed_order import full_precision_products
from itda.errors import SettingError
from itda.files import explained, hidden, sync
from itda.machine import cache_folder
from itda.recipes.measuring_dictionaries import dictionary_costs
from itda.recipes.rates_kept import Measured
from itda.recipes.runs import Bar, Progress, no_bar
from itda.sources.models.names import folder_of
from itda.sources.streamed.model_shape import ModelShape
from itda.sources.streamed.rates import DictionaryCosts

READ_BYTES, READ_S = 2**30, 2.0
"""Bytes that are read to measure the disk, and seconds of it, at most."""
CHUNK = 2**24
"""Bytes that are read at once."""
LOADERS = {"cpu": 1, "cuda": 4}
"""Threads that read the weights of a block, by type of device."""
LINK_BYTES = 2**26
"""Bytes that are copied to a GPU and back to measure the link between."""
LEAST_FILE, WRITTEN_BYTES = 2**26, 2**28
"""Bytes from which on a file of the model is read; bytes of the file that is written where there is none."""
COLUMNS, PRODUCT_S = 2048, 0.3
"""Outputs of a matrix product that is timed, at most, and seconds of it, at least."""
CPU_OPERATIONS, LEAST_COLUMNS = 2e10, 256
"""On a CPU, operations of such a product, at most, but so many outputs at least."""


def measure(
    shape: ModelShape, *, tokens: int, dtype: torch.dtype | None, k: int, atoms: int, bar: Bar = no_bar
) -> Measured:
    """Measure this machine's rates for a model that runs `tokens` tokens at once, and dictionaries of up to `atoms`.

    `dtype` is that of the weights; None for float32 on a CPU and the model's own on a GPU. Raises `ItdaError`.
    """
    started = time.perf_counter()
    # Where there is a GPU, both models and dictionaries are on it, and a wide model takes a CPU a minute to measure.
    devices = ["cuda" if torch.cuda.is_available() else "cpu"]
    flops: dict[str, float] = {}
    costs: dict[str, DictionaryCosts] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    with bar("measure", 1 + 2 * len(devices)) as progress:
        with _step(progress, "reading from disk"):
            device = torch.device(devices[-1])
            disk, disk_of = reading_rate(files_of(shape.name), device)
            link = link_rate(device) if device.type == "cuda" else None
        for name in devices:
            device, here = torch.device(name), {"cpu": "CPU", "cuda": "GPU"}[name]
            own = dtype or (torch.float32 if name == "cpu" else shape.dtype)
            with _step(progress, f"the model's products on the {here}"):
                flops[name] = product_rate(shape.products, tokens, own, device)
            with _step(progress, f"dictionaries on the {here}"):
                costs[name], sizes[name] = dictionary_costs(shape.d_model, k, atoms, device)
    took = time.perf_counter() - started
    return Measured(date.today().isoformat(), disk, disk_of, link, flops, costs, sizes, round(took, 1))


@contextmanager
def _step(progress: Progress, doing: str) -> Iterator[None]:
    progress.set_postfix_str(doing)
    yield
    progress.update(1)


def files_of(model: str) -> list[Path]:
    """List the weights of a model that are on this machine, the largest first; none for a config.json alone."""
    folder = folder_of(model)
    if folder is None:
        found = try_to_load_from_cache(model, "config.json")
        folder = Path(found).parent if isinstance(found, str) else None
    if folder is None or not folder.is_dir():
        return []
    files = [path for path in folder.glob("*.safetensors") if path.stat().st_size >= LEAST_FILE]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def reading_rate(files: Sequence[Path], device: torch.device) -> tuple[float, str]:
    """Return the bytes per second at which weights come from disk to a device as streaming reads them, and the file.

    It is the first of some files in safetensors, not from the page cache. Without one, a file is written in the cache
    folder and removed again. Raises `StoreError` if that cannot be, and `SettingError` on a system that cannot empty
    its page cache.
    """
    if not hasattr(os, "posix_fadvise"):
        raise SettingError("this system cannot empty its page cache, so its disk is not measured: give --disk-gbps")
    if files:
        return _reading(files[0], device), str(files[0])
    folder = cache_folder()
    with explained(f"write {WRITTEN_BYTES >> 20} MB in {folder}", "set XDG_CACHE_HOME to a folder that has room"):
        folder.mkdir(parents=True, exist_ok=True)
        path = hidden(folder / "disk")
        try:
            save_file({"noise": torch.randint(-128, 128, (WRITTEN_BYTES,), dtype=torch.int8)}, path)
            with path.open("rb") as file:
                sync(file)
            return _reading(path, device), f"a file written in {folder}"
        finally:
            path.unlink(missing_ok=True)


def _reading(path: Path, device: torch.device) -> float:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started, read = time.perf_counter(), 0
    with safe_open(path, "pt") as pointer, ThreadPoolExecutor(LOADERS[device.type]) as threads:
        names = sorted(pointer.keys(), key=lambda name: -math.prod(pointer.get_slice(name).get_shape()))
        for name in names:
            values = pointer.get_slice(name)[...].flatten().view(torch.uint8)[: READ_BYTES - read]
            # Some parts at a time: reading ends when it has taken long enough.
            parts = values.split(CHUNK)
            for first in range(0, len(parts), 8):
                list(threads.map(lambda part: _moved(part, device), parts[first : first + 8]))
                read += sum(len(part) for part in parts[first : first + 8])
                if time.perf_counter() - started > READ_S:
                    return read / (time.perf_counter() - started)
    synchronize(device)
    return read / (time.perf_counter() - started)


def _moved(part: torch.Tensor, device: torch.device) -> object:
    """Read a part of a mapped tensor: to the device, or into memory alone."""
    return part.to(device) if device.type != "cpu" else part[::4096].sum()


def link_rate(device: torch.device) -> float:
    """Return the bytes per second at which hidden states are copied to a GPU and back."""
    state, taken = torch.zeros(LINK_BYTES, dtype=torch.uint8), []
    for _ in range(3):
        started = time.perf_counter()
        state.copy_(state.to(device))
        taken.append(time.perf_counter() - started)
    return 2 * LINK_BYTES / min(taken)


def product_rate(products: Sequence[tuple[int, int]], tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations per second of products of `tokens` rows with a block's matrices, all of them together.

    Of a matrix with more than `COLUMNS` outputs, so many are multiplied; fewer, where that takes a CPU long.
    """
    operations = seconds = 0.0
    with torch.inference_mode(), full_precision_products(device):
        for inputs, outputs in products:
            x = torch.rand(tokens, inputs, device=device).to(dtype)
            columns = COLUMNS
            if device.type == "cpu":
                columns = min(columns, max(LEAST_COLUMNS, int(CPU_OPERATIONS / (2 * tokens * inputs))))
            weights = torch.rand(min(outputs, columns), inputs, device=device).to(dtype)
            operations += 2.0 * tokens * inputs * outputs
            seconds += _seconds_of_product(x, weights) * outputs / len(weights)
    return operations / seconds


def _seconds_of_product(x: torch.Tensor, weights: torch.Tensor) -> float:
    synchronize(x.device, linear(x, weights))
    number, started = 0, time.perf_counter()
    while number < 2 or time.perf_counter() - started < PRODUCT_S:
        synchronize(x.device, linear(x, weights))
        number += 1
    return (time.perf_counter() - started) / number


def synchronize(device: torch.device, *_results: object) -> None:
    """Wait until a GPU has computed what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
