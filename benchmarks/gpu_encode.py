"""Encoding on a GPU, for benchmarks/gpu.py: beside the textbook's loop and one product, on the same card.

Activations and atoms are random directions, without or with a mean direction in common, as raw activations have. All
in float32 without TF32, but for `fast`, itda's approximate mode. A sample of rows is compared with the plain pursuit on
the CPU, bit by bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from baselines import SIDES, Problem, textbook_loop
from gpu_clock import Emit, forget_memory, in_turn, middle, milliseconds, most_memory
from gpu_tasks import COHERENT
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import gram_torch, plain
from itda.core.pursuit.fixed_order import full_precision_products
from itda.core.pursuit.gram_gpu import GpuPursuit, same

SAMPLE = 64
"""Rows that are compared with the plain pursuit."""
MOST_S = 4.0
"""Seconds that the repetitions of one comparison may take."""


def directions(number: int, width: int, seed: int, data: str, device: torch.device) -> Tensor:
    """Unit rows [number, width]; coherent ones have a mean cosine of 0.8 or so."""
    rows = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    if data == COHERENT:
        rows += 2 * torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=1).to(device)


def problem(task: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Activations and atoms of a task."""
    x = directions(task["rows"], task["d"], 2, task["data"], device)
    return x, directions(task["atoms"], task["d"], 1, task["data"], device)


def measure(task: dict[str, Any], device: torch.device, emit: Emit) -> None:
    """Ours and one product first, then the others: what is cut off is what matters least."""
    k, repeats = task["k"], 10 if task["rows"] >= 1000 else 2 if task["rows"] >= 100 else 1
    x, atoms = problem(task, device)
    forget_memory(device)
    ours = GpuPursuit(atoms, k)
    emit(first_ms=middle([milliseconds(lambda: ours(x), device)]))  # compiles, and computes the Gram matrix
    emit(method=ours.description, peak=most_memory(device))
    emit(agreement=agreement(ours(x[:SAMPLE]), plain.pursue(x[:SAMPLE].cpu(), atoms.cpu(), k)))
    product(x, atoms)
    taken = in_turn({"ours": lambda: ours(x), "product": lambda: product(x, atoms)}, device, repeats, MOST_S)
    emit(**{f"{name}_ms": middle(times) for name, times in taken.items()})
    emit(by_product=middle([a / b for a, b in zip(taken["ours"], taken["product"], strict=True)]))
    textbook(x[:SAMPLE], atoms, k)
    taken = in_turn(
        {"ours": lambda: ours(x), "textbook": lambda: textbook(x, atoms, k)}, device, min(5, repeats), MOST_S
    )
    emit(textbook_ms=middle(taken["textbook"]))
    emit(by_textbook=middle([a / b for a, b in zip(taken["textbook"], taken["ours"], strict=True)]))
    calls: dict[str, Callable[[], object]] = {"gram": lambda: GpuPursuit(atoms, k)(x[:1])}
    if ours.method.startswith("triton"):
        fast = GpuPursuit(atoms, k, fast=True)
        fast(x)
        calls["fast"] = lambda: fast(x)
    emit(**{f"{name}_ms": middle(times) for name, times in in_turn(calls, device, min(3, repeats), MOST_S).items()})


def measure_lens(task: dict[str, Any], device: torch.device, emit: Emit) -> None:
    """SAELens' matching pursuit beside ours, where it is installed."""
    lens = next(side for side in SIDES if side.name == "SAELens")
    x, atoms = problem(task, device)
    obstacle = lens.obstacle(Problem(atoms, task["k"]))
    emit(side=lens.title, obstacle=obstacle)
    if obstacle:
        return
    ours, encode = GpuPursuit(atoms, task["k"]), lens.prepare(Problem(atoms, task["k"]))
    ours(x)
    encode(x[:SAMPLE])
    taken = in_turn({"ours": lambda: ours(x), "lens": lambda: encode(x)}, device, 3, MOST_S)
    emit(ours_ms=middle(taken["ours"]), lens_ms=middle(taken["lens"]))
    emit(by_lens=middle([a / b for a, b in zip(taken["lens"], taken["ours"], strict=True)]))


def textbook(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    """The textbook's loop, in float32 whatever torch's settings are."""
    with full_precision_products(x.device):
        return textbook_loop(x, atoms, k)


def product(x: Tensor, atoms: Tensor) -> Tensor:
    """One product with all atoms, which no exact pursuit can do without."""
    with full_precision_products(x.device):
        return x @ atoms.T


def agreement(found: gram_torch.Codes, expected: gram_torch.Codes) -> str:
    """Say whether codes are those of the plain pursuit on the CPU, to the bit."""
    code, left = found
    on_cpu = SparseCode(code.indices.cpu(), code.coefficients.cpu(), code.count.cpu())
    return "every bit" if same((on_cpu, left.cpu()), expected) else "NOT TO THE BIT"
