"""Where the time of encoding and of training goes on a GPU, for benchmarks/gpu.py: by part, and by kernel.

Three runs after one to warm up: one by the clock alone; one with a mark of the device's own clock wherever a part
begins or ends, so that waiting for the host counts in the part that waits; one under torch's profiler, which adds up
the kernels. What the clock shows beyond all kernels is the host's.
"""

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import gpu_encode
import gpu_train
import torch
from common import batches
from gpu_clock import Emit, seconds, wait_for
from torch.profiler import ProfilerActivity, profile

import itda
from itda.core.pursuit.gram_gpu import GpuPursuit

PRODUCT, STEPS, OTHER = "products with the dictionary", "steps of pursuits", "other"
FUNCTIONS = {
    "Gram matrix": ("gram_of", "KeptGram._compute", "GrowingAtoms.put", "GrowingAtoms.keep", "GrowingAtoms.reserve"),
    STEPS: ("advance", "advance_triton", "_pursue_rows"),
    "crowded rows anew": ("fresh",),
    "refit": ("refit", "refitted", "refitted_energy"),
    "replay": ("first_change",),
    "energies and scales": ("Start.of",),
}
"""The functions of each part, by their names in whatever modules of itda.core have them. Matrix products and Triton's
kernels belong to the part that they are called in; elsewhere they are `PRODUCT` and `STEPS`."""
LAUNCH = "a Triton kernel"
LAUNCHES = (("triton.runtime.jit", "JITFunction.run"), ("triton.runtime.interpreter", "GridExecutor.__call__"))
"""What starts a Triton kernel, compiled or interpreted."""
KERNELS = 12
"""The most kernels that are listed."""


def measure(task: dict[str, Any], device: torch.device, emit: Emit) -> None:
    """The clock, the parts, the kernels."""
    call = _encoding(task, device) if task["what"] == "encode" else _training(task, device)
    call()
    wall = 1e3 * seconds(call, device)
    emit(wall_ms=wall)
    emit(parts_ms=by_part(call, device))
    try:
        kernels = by_kernel(call, device)
    except Exception as error:  # not every machine lets a profiler look at its GPU
        emit(no_kernels=f"{type(error).__name__}: {error}"[:150])
        return
    busy = sum(ms for _, ms, _ in kernels)
    emit(kernels=kernels[:KERNELS], busy_ms=busy, host_ms=max(0.0, wall - busy))


def _encoding(task: dict[str, Any], device: torch.device) -> Callable[[], object]:
    x, atoms = gpu_encode.problem(task, device)
    find = GpuPursuit(atoms, task["k"])
    return lambda: find(x)


def _training(task: dict[str, Any], device: torch.device) -> Callable[[], object]:
    x = gpu_train.activations(task["data"], task["tokens"], task["d"]).to(device)
    offered = list(batches(x, gpu_train.OFFERED))

    def train() -> None:
        trainer = itda.Trainer(task["d"], k=task["k"], threshold=task["threshold"])
        with gpu_train.growth_as_on_a_gpu(device):
            for batch in offered:
                trainer.offer(batch)

    return train


def by_part(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds of each part of a call."""
    marks = Marks(device)
    with ExitStack() as stack:
        for part, functions in FUNCTIONS.items():
            for name in functions:
                stack.enter_context(_marked("itda.core", name, part, marks))
        for owner, name in ((torch.Tensor, "__matmul__"), (torch, "mm"), (torch, "matmul"), (torch, "addmm")):
            stack.enter_context(_replaced(owner, name, marks.within(PRODUCT, getattr(owner, name))))
        for module, name in LAUNCHES:
            stack.enter_context(_marked(module, name, LAUNCH, marks))
        marks.begin(OTHER)
        call()
        marks.end()
    return marks.milliseconds()


class Marks:
    """Moments at which a part began or ended, by the device's clock."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stack = device, [""]
        self._marks: list[tuple[Any, str]] = []

    def begin(self, part: str) -> None:
        within = self._stack[-1]
        if part == PRODUCT and within not in (OTHER, STEPS):
            part = within
        elif part == LAUNCH:
            part = STEPS if within == OTHER else within
        self._stack.append(part)
        self._mark()

    def end(self) -> None:
        self._stack.pop()
        self._mark()

    def within(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with marks around it."""

        @wraps(function)
        def marked(*arguments: Any, **named: Any) -> Any:
            self.begin(part)
            try:
                return function(*arguments, **named)
            finally:
                self.end()

        return marked

    def _mark(self) -> None:
        moment: Any = time.perf_counter()
        if self._device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._marks.append((moment, self._stack[-1]))

    def milliseconds(self) -> dict[str, float]:
        """What lies between the marks, added up for each part, the longest first."""
        wait_for(self._device)
        found: dict[str, float] = {}
        for (start, part), (stop, _) in zip(self._marks, self._marks[1:], strict=False):
            ms = start.elapsed_time(stop) if self._device.type == "cuda" else 1e3 * (stop - start)
            found[part] = found.get(part, 0.0) + ms
        return dict(sorted(found.items(), key=lambda item: -item[1]))


@contextmanager
def _marked(within: str, name: str, part: str, marks: Marks) -> Iterator[bool]:
    """Marks around a function of modules that are loaded, wherever they hold it; False where there is no such one."""
    holder, _, last = name.rpartition(".")
    modules = [m for loaded, m in list(sys.modules.items()) if loaded.startswith(within)]
    owners = [owner for m in modules if (owner := vars(m).get(holder) if holder else m) is not None]
    with ExitStack() as stack:
        made: dict[Any, Any] = {}
        for owner in dict.fromkeys(owners):
            function = vars(owner).get(last)
            plain = function.__func__ if isinstance(function, staticmethod) else function
            if inspect.isfunction(plain):
                marked = made.setdefault(plain, marks.within(part, plain))
                is_static = isinstance(function, staticmethod)
                stack.enter_context(_replaced(owner, last, staticmethod(marked) if is_static else marked))
        yield bool(made)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def by_kernel(call: Callable[[], object], device: torch.device) -> list[tuple[str, float, int]]:
    """Name, milliseconds and calls of each kernel, the longest first; on a CPU, of each of torch's operations."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as taken:
        call()
        wait_for(device)
    found = []
    for event in taken.key_averages():
        if on_gpu and str(event.device_type).endswith("CUDA"):
            found.append((event.key[:60], event.self_device_time_total / 1e3, event.count))
        elif not on_gpu:
            found.append((event.key[:60], event.self_cpu_time_total / 1e3, event.count))
    return sorted(found, key=lambda kernel: -kernel[1])
