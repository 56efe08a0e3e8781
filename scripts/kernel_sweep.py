"""Which way to start the Triton kernels is the fastest on this GPU? `triton_limits.launch_of` is set by the answer.

    python scripts/kernel_sweep.py [--cases 16384x768,65536x2304] [--rows 4096] [--k 40] [--workers 8]

For each number of atoms and width: kernels with correlations in float32 and in 16 bits, so many warps (groups of 32
threads) a program, so many registers a thread, and so many columns that a thread reads at once. Every way is compiled
first, in several processes at a time, then timed in turn: the kernel alone, random activations and atoms, medians. The
one that `launch_of` chooses is marked. No way changes a result, and each is compared with the first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from itda.core.pursuit.advance import Correlations, Rows, columns_of
from itda.core.pursuit.gram_kept import KeptGram
from itda.core.pursuit.gram_torch import crowd_of
from itda.core.pursuit.gram_triton import advance_triton
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.triton_limits import Kernel, Launch, kernel_for, launch_of, power_of_two

WAYS: dict[Kernel, list[tuple[int, int, int]]] = {
    "on chip": [(8, 128, 8), (8, 112, 8), (8, 96, 8), (8, 168, 8), (16, 64, 8), (4, 96, 8), (4, 128, 8), (4, 168, 8)],
    "packed": [
        *((8, registers, 8) for registers in (64, 80, 96, 128, 168, 255)),
        *((8, registers, 4) for registers in (80, 128, 255)),
        *((16, registers, 8) for registers in (64, 128)),
        *((4, registers, 8) for registers in (64, 96, 128, 168, 255)),
    ],
}
"""Warps, registers and columns read at once that are tried, by kernel."""
REPEATS = 7
CASES = "4096x768,16384x768,32768x768,16384x4096,65536x2304"


def ways(m: int, d: int) -> list[Launch]:
    """What `launch_of` chooses, and all others whose numbers have room in the registers of an SM."""
    usual = launch_of(m, d, kernel_for(m, d))
    found = [usual]
    for kernel, sizes in WAYS.items():
        held = (4 if kernel == "on chip" else 2) * power_of_two(m) + 8 * usual.lanes
        for warps, registers, each in sizes:
            made = Launch(kernel, max(1024, power_of_two(m)), usual.lanes, warps, each, registers)
            if held < 4 * 32 * warps * registers and 32 * warps * registers <= 2**16 and made not in found:
                found.append(made)
    return found


class Case:
    """Random activations and atoms on the GPU, with their correlations."""

    def __init__(self, m: int, d: int, rows: int, k: int) -> None:
        there = torch.Generator("cuda").manual_seed(0)
        self.k, self.atoms = k, torch.nn.functional.normalize(torch.randn(m, d, device="cuda", generator=there), dim=1)
        self.x = torch.nn.functional.normalize(torch.randn(rows, d, device="cuda", generator=there), dim=1)
        self.kept = KeptGram(self.atoms, 4 * m * m + 2**30, 1)
        self.source, self.everyone = self._source(), torch.arange(rows, dtype=torch.int32, device="cuda")

    def _source(self) -> Correlations:
        rows, m = Rows.of(self.x, self.k, 0.0), len(self.atoms)
        c = torch.zeros(len(self.x), columns_of(m), device="cuda")
        correlations(rows.z, self.atoms, out=c[:, :m])
        return Correlations(c, torch.zeros_like(rows.step), product_error(self.x.shape[1]) * rows.energy.sqrt())

    def run(self, launch: Launch) -> tuple[float, Rows]:
        """Milliseconds of the kernel, and where it left the rows."""
        rows = Rows.of(self.x, self.k, 0.0)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        crowd = crowd_of(len(self.atoms))
        advance_triton(rows, self.everyone, self.source, self.everyone, self.kept.atoms, crowd, launch=launch)
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop), rows


def compile_one(order: tuple[int, int, int, Launch]) -> str:
    """Compile a kernel, which stays on the disk; in a process of its own. Returns what went wrong."""
    m, d, k, launch = order
    try:
        Case(m, d, 8, k).run(launch)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:60]
    return ""


def sizes_of(text: str) -> list[tuple[int, int]]:
    """Numbers of atoms and widths, as 16384x768,65536x2304."""
    return [(int(m), int(d)) for m, d in (case.split("x") for case in text.split(","))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=sizes_of, default=CASES, help="atoms x width, with commas")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--workers", type=int, default=8)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("scripts/kernel_sweep.py: this torch finds no CUDA device; run it where there is one.", file=sys.stderr)
        return 2
    header = "| atoms | width | kernel | warps | registers | at once | ms | chosen | same |\n"
    print(header + "|---" * 9 + "|", flush=True)
    orders = [(m, d, arguments.k, launch) for m, d in arguments.cases for launch in ways(m, d)]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        wrong = dict(zip(orders, pool.map(compile_one, orders), strict=True))
    for m, d in arguments.cases:
        case, tried = Case(m, d, arguments.rows, arguments.k), ways(m, d)
        good = [launch for launch in tried if not wrong[m, d, arguments.k, launch]]
        first = case.run(good[0])[1]
        taken: dict[Launch, list[float]] = {launch: [] for launch in good}
        for _ in range(1 + REPEATS):
            for launch in good:
                taken[launch].append(case.run(launch)[0])
        for launch in tried:
            cells = [f"{m:,}", f"{d:,}", launch.kernel, launch.warps, launch.registers, launch.each]
            if launch in taken:
                same = torch.equal(case.run(launch)[1].picks, first.picks)
                ms = f"{statistics.median(taken[launch][1:]):.2f}"
                cells += [ms, "yes" if launch == tried[0] else "", "yes" if same else "NO"]
            else:
                cells += [wrong[m, d, arguments.k, launch], "", ""]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
