"""How fast is encoding on a GPU, beside the textbook loop on the same card, and how near to what the card allows?

    python benchmarks/gpu.py [--rows 4096] [--atoms 16384] [--k 40] [--widths 768,4096] [--repeats 10] [--out gpu.md]

Activations and atoms are random directions, and once more with a mean direction in common, as raw activations have.
Sides, all in float32 without TF32 unless they say so, timed in turn after one call to warm up, medians:

- textbook: r D^T, abs and argmax at every step, dense codes, no Gram matrix;
- plain: the oracle, `itda.core.pursuit.plain`; torch: `gram_torch` with a kept Gram matrix; GpuPursuit: the way
  that it takes; fast: its approximate mode, TF32 allowed; product: r D^T once, which no exact pursuit can do without;
- Gram: computing the Gram matrix, which a dictionary needs once.

The roofline is that of an H200 at 60 TF/s in float32 and 4.3 TB/s: one product, then m numbers read per row and step.
The last column compares a sample of rows with `plain` on the CPU: every bit where that is promised, else the atoms.
Needs CUDA; without it, exit status 2.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from itda.core.code import SparseCode
from itda.core.pursuit import gram_torch, plain
from itda.core.pursuit.fixed_order import full_precision_products
from itda.core.pursuit.gram_gpu import GpuPursuit, same

FLOPS, BYTES = 60e12, 4.3e12
"""An H200's peak rates: float32 operations, and bytes of memory, per second."""

SAMPLE = 128
HEADER = "| data | side | ms | activations/s | textbook / side | share of roofline | peak GiB | like plain |"


class Side(NamedTuple):
    """One way to encode; `exact` if its bits are promised to be those of `plain`."""

    call: Callable[[torch.Tensor], tuple[SparseCode, torch.Tensor] | torch.Tensor]
    exact: bool = False


def textbook(x: torch.Tensor, atoms: torch.Tensor, k: int) -> torch.Tensor:
    """Matching pursuit as most code has it: dense codes [batch, atoms]."""
    residual, codes = x.clone(), x.new_zeros(len(x), len(atoms))
    with full_precision_products(x.device):
        for _ in range(k):
            scores = residual @ atoms.T
            best = scores.abs().argmax(dim=1, keepdim=True)
            a = scores.gather(1, best)
            codes.scatter_add_(1, best, a)
            residual -= a * atoms[best.squeeze(1)]
    return codes


def product(x: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    with full_precision_products(x.device):
        return x @ atoms.T


def directions(number: int, width: int, seed: int, coherent: bool, device: torch.device) -> torch.Tensor:
    """Unit rows [number, width]; coherent ones have a mean cosine of 0.8 or so."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(number, width, generator=random)
    if coherent:
        rows += 2 * torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=1).to(device)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """By the device's own clock."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        start.record()
        call()
        stop.record()
        stop.synchronize()
    return start.elapsed_time(stop)


def agreement(side: Side, x: torch.Tensor, expected: tuple[SparseCode, torch.Tensor], atoms: int) -> str:
    """With what `plain` gives on the CPU: all bits, or the share of rows for which the same atoms were picked."""
    found = side.call(x)
    if isinstance(found, torch.Tensor):
        dense = found.cpu()
    else:
        code, left = found
        code = SparseCode(code.indices.cpu(), code.coefficients.cpu(), code.count.cpu())
        if side.exact:
            return "every bit" if same((code, left.cpu()), expected) else "NOT TO THE BIT"
        dense = code.dense(atoms)
    rows = ((dense != 0) == (expected[0].dense(atoms) != 0)).all(dim=1)
    return f"atoms in {100 * rows.double().mean().item():.1f}% of rows"


def sides_for(atoms: torch.Tensor, k: int) -> dict[str, Side]:
    """What is measured."""
    gram = gram_torch.gram_of(atoms)
    best = GpuPursuit(atoms, k)
    sides = {
        "textbook": Side(lambda x: textbook(x, atoms, k)),
        "plain": Side(lambda x: plain.pursue(x, atoms, k), exact=True),
        "torch": Side(lambda x: gram_torch.pursue(x, atoms, k, gram=gram), exact=True),
        "GpuPursuit": Side(best, exact=True),
    }
    return sides | ({"fast": Side(GpuPursuit(atoms, k, fast=True))} if best.method.startswith("triton") else {})


def measure(
    data: str, x: torch.Tensor, atoms: torch.Tensor, k: int, repeats: int, timer: Callable = milliseconds
) -> tuple[list[str], list[str]]:
    """The lines of the table for one dictionary, and what the log of a run would say of the pursuits used."""
    sides = sides_for(atoms, k)
    expected = plain.pursue(x[:SAMPLE].cpu(), atoms.cpu(), k)
    agreements = {name: agreement(side, x[:SAMPLE], expected, len(atoms)) for name, side in sides.items()}
    # Only now: a first call may show that a kernel is not to be used.
    notes = [side.call.description for side in sides.values() if isinstance(side.call, GpuPursuit)]
    calls: dict[str, Callable[[], object]] = {name: lambda side=side: side.call(x) for name, side in sides.items()}
    calls |= {"product": lambda: product(x, atoms), "Gram": lambda: gram_torch.gram_of(atoms)}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    peak = {}
    for name, call in calls.items():
        if x.is_cuda:
            torch.cuda.reset_peak_memory_stats(x.device)
        call()
        peak[name] = torch.cuda.max_memory_allocated(x.device) if x.is_cuda else 0
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(timer(call, x.device))
    (m, d), rows = atoms.shape, len(x)
    least = 1e3 * (2 * rows * m * d / FLOPS + 4 * rows * m * k / BYTES)
    lines = []
    for name, times in taken.items():
        ms = statistics.median(times)
        encodes = name in sides
        cells = [
            *(data, name, f"{ms:.1f}", f"{1e3 * rows / ms:,.0f}" if encodes else "-"),
            f"{statistics.median(t / s for t, s in zip(taken['textbook'], times, strict=True)):.1f}"
            if encodes
            else "-",
            f"{100 * least / ms:.0f}% of {least:.1f} ms" if encodes else "-",
            *(f"{peak[name] / 2**30:.2f}", agreements.get(name, "-")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines, notes


def about(arguments: argparse.Namespace, device: torch.device) -> list[str]:
    try:
        triton = f"Triton {version('triton')}"
    except PackageNotFoundError:
        triton = "no Triton"
    card = torch.cuda.get_device_properties(device)
    return [
        f"{card.name} ({card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} SMs), "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, {triton}, Python {platform.python_version()}, "
        f"{date.today().isoformat()}.",
        f"{arguments.rows:,} activations, {arguments.atoms:,} atoms, k = {arguments.k}, pursuit mp, "
        f"medians of {arguments.repeats}; agreement with plain on {min(SAMPLE, arguments.rows)} rows.",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--atoms", type=int, default=16384)
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--widths", type=lambda text: [int(d) for d in text.split(",")], default=[768, 4096])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.md")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py: this torch finds no CUDA device; run it where there is an NVIDIA GPU and a CUDA torch.",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda")
    lines = [*about(arguments, device), "", HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    print("\n".join(lines), flush=True)
    paths = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for width in arguments.widths:
        for coherent in (False, True):
            data = f"{'coherent' if coherent else 'random'}, d = {width:,}"
            atoms = directions(arguments.atoms, width, 1, coherent, device)
            x = directions(arguments.rows, width, 2, coherent, device)
            found, notes = measure(data, x, atoms, arguments.k, arguments.repeats)
            paths += [f"- {data}: {note}" for note in notes]
            lines += found
            print("\n".join(found), flush=True)
            # Saved as it grows: a run that is cut short keeps what it measured.
            arguments.out.write_text("\n".join([*lines, "", *paths]) + "\n", encoding="utf-8")
    print("\n".join(["", *paths]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
