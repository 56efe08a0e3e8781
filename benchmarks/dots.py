"""What does the order of summation cost on a CPU? Exact dots in this order against the one of before, in one process.

    python benchmarks/dots.py [--widths 64,768,4096,16384] [--repeats 31]

A float64 residual times atoms in float32, as pursuits have it: atoms that stay in the cache, and atoms taken at random
from 256 MiB of them. Both sides in turn, and medians of the ratios within a repetition. One thread, and
its own time alone, whatever else the machine has to do.
"""

import argparse
import time
from collections.abc import Callable
from datetime import date
from functools import partial

import numpy as np
from common import machine, ratio, table

from itda.core.pursuit.compiled import as_written
from itda.core.pursuit.fixed_order_kernel import fixed_dot, scratch

WIDTHS = (64, 192, 768, 2304, 4096, 16384)
CACHED = 8
"""Atoms that stay in the cache."""
TABLE = 2**28
"""Bytes of atoms that do not."""
NUMBERS = 2**22
"""Numbers that a call goes through."""


@as_written
def dot_of_before(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> float:
    """Return <a, b> in order 1 of `itda.core.arithmetic`, as it was compiled then."""
    width = len(a)
    half = (width + 1) // 2
    a_low, a_high, b_low, b_high = a[:half], a[half:], b[:half], b[half:]
    for i in range(len(a_high)):
        terms[i] = np.float64(a_low[i]) * np.float64(b_low[i]) + np.float64(a_high[i]) * np.float64(b_high[i])
    if width - half < half:
        terms[half - 1] = np.float64(a[half - 1]) * np.float64(b[half - 1])
    width = half
    while width > 1:
        half = (width + 1) // 2
        low, high = terms[:half], terms[half:width]
        for i in range(len(high)):
            low[i] += high[i]
        width = half
    return terms[0]


@as_written
def dots_of_before(residuals: np.ndarray, atoms: np.ndarray, picks: np.ndarray) -> float:
    """Add up dots in order 1, so that none can be left out."""
    total, terms = 0.0, scratch(atoms.shape[1])
    for place in range(len(picks)):
        total += dot_of_before(residuals[place % len(residuals)], atoms[picks[place]], terms)
    return total


@as_written
def dots_of_now(residuals: np.ndarray, atoms: np.ndarray, picks: np.ndarray) -> float:
    """Add up dots in the order of this itda."""
    total, terms = 0.0, scratch(atoms.shape[1])
    for place in range(len(picks)):
        total += fixed_dot(residuals[place % len(residuals)], atoms[picks[place]], terms)
    return total


def own_seconds(call: Callable[[], object]) -> float:
    """How long one call keeps this thread busy."""
    started = time.thread_time()
    call()
    return time.thread_time() - started


def row(width: int, repeats: int) -> list[str]:
    """Measure one width."""
    random = np.random.default_rng(0)
    number = TABLE // (4 * width)
    atoms = random.standard_normal((number, width), dtype=np.float32)
    residuals = random.standard_normal((2, width))
    cells = [str(width)]
    for most in (CACHED, number):
        picks = random.integers(0, most, NUMBERS // width)
        before, now = dots_of_before(residuals, atoms, picks), dots_of_now(residuals, atoms, picks)
        if abs(before - now) > 1e-6 * NUMBERS**0.5:
            raise SystemExit(f"the two orders disagree at width {width}: {before} and {now}")
        taken: dict[str, list[float]] = {"before": [], "now": []}
        calls = {"before": dots_of_before, "now": dots_of_now}
        for repetition in range(repeats):
            for name in list(calls)[:: -1 if repetition % 2 else 1]:
                taken[name].append(own_seconds(partial(calls[name], residuals, atoms, picks)))
        nanoseconds = np.median(taken["now"]) / len(picks) * 1e9
        cells += [f"{nanoseconds:,.0f} ns", f"{ratio(taken['before'], taken['now']):.2f}"]
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    parser.add_argument("--repeats", type=int, default=31)
    options = parser.parse_args()
    about = machine()
    print(f"{about['cpu']}, numba {about['versions']['numba']}, {date.today()}\n")
    header = ["width", "a dot, atoms in the cache", "times as fast", "a dot, atoms from memory", "times as fast"]
    print(table(header, [row(int(width), options.repeats) for width in options.widths.split(",")]))


if __name__ == "__main__":
    main()
