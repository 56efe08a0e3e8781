"""How do time and memory grow? With the atoms m, with k, with the width d, and with the number of activations.

    python benchmarks/scaling.py [--only m,k] [--memory 8G] [--quick]

Random dictionaries and activations, each measurement in a process of its own; one size changes at a time. Activations
are made a block at a time, so that they take no memory themselves. The slopes are those of straight lines through the
logarithms: time that grows in proportion has slope 1, memory that does not grow has slope 0. Rows that were measured
before are kept: run it again to go on, with `--fresh` to start anew.
"""

import argparse
import gc
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from activations import random_rows, random_unit
from common import (
    Results,
    arguments_for,
    child,
    forget_peak,
    labels_for,
    mean_seconds,
    most_resident,
    number,
    paragraph,
    parse_bytes,
    resident,
    results_for,
    seconds,
    table,
)

import itda

BASE = {"m": 16384, "k": 40, "d": 768, "n": 1024}
SWEEPS = {
    "m": (2048, 4096, 8192, 16384, 32768, 65536),
    "k": (5, 10, 20, 40, 80),
    "d": (128, 256, 512, 1024, 2048, 4096),
    "n": (4096, 8192, 16384, 32768, 65536),
}
LONG = {"m": 8192, "k": 20, "d": 256}
"""The dictionary for many activations: so small that all of its Gram matrix has been asked for early on."""
QUICK_BASE = {"m": 1024, "k": 10, "d": 128, "n": 256}
QUICK_SWEEPS = {"m": (512, 1024, 2048), "k": (5, 10, 20), "d": (64, 128, 256), "n": (512, 1024, 2048)}
NAMES = {"m": "atoms m", "k": "k", "d": "width d", "n": "activations"}
BLOCK = 1024

Sizes = dict[str, Any]


def sizes_of(sweep: str, value: int, quick: bool) -> Sizes:
    """All sizes of one measurement."""
    base = QUICK_BASE if quick else BASE | (LONG if sweep == "n" else {})
    return base | {sweep: value}


def measure(task: Sizes) -> dict[str, Any]:
    """Seconds per activation, cold over all of them and warm over the last block again; and memory."""
    small = itda.ITDA(random_unit(256, 32, seed=3), labels_for(256), k=task["k"])
    small.encode(random_rows(64, 32, seed=4))  # compiles
    itda.set_memory(task["memory"])
    atoms = random_unit(task["m"], task["d"], seed=1)
    gc.collect()
    forget_peak()
    before = resident()
    model = itda.ITDA(atoms, labels_for(len(atoms)), k=task["k"])
    cold, x = 0.0, random_rows(min(BLOCK, task["n"]), task["d"], seed=0)
    for start in range(0, task["n"], BLOCK):
        x = random_rows(min(BLOCK, task["n"] - start), task["d"], seed=start)
        cold += seconds(lambda x=x: model.encode(x))
    warm = min(mean_seconds(lambda: model.encode(x)) for _ in range(task["repeats"]))
    return {
        "cold_ms": 1000 * cold / task["n"],
        "warm_ms": 1000 * warm / len(x),
        "before": before,
        "peak": most_resident(),
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Of the straight line through the logarithms; None for fewer than two points or what has no logarithm."""
    if len(x) < 2 or min(y) <= 0:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def sweep_part(results: Results, sweep: str, keys: list[Sizes]) -> list[str]:
    """The table of one sweep, and its slopes."""
    rows = [row for key in keys if (row := results.find(key))]
    if not rows:
        return []
    values = [row["key"][sweep] for row in rows]
    grown = [max(1, row["peak"] - row["before"]) for row in rows]
    others = {name: value for name, value in rows[0]["key"].items() if name in BASE and name != sweep}
    fixed = ", ".join(f"{NAMES[name]} = {value:,}" for name, value in others.items())
    slopes = [
        slope(values, measured)
        for measured in ([row["warm_ms"] for row in rows], [row["cold_ms"] for row in rows], grown)
    ]
    shown = ["-" if s is None else f"{s:.2f}" for s in slopes]
    return [
        paragraph(f"Against {NAMES[sweep]}, at {fixed}:"),
        table(
            [NAMES[sweep], "warm, ms", "cold, ms", "memory, MiB", "process, MiB"],
            [
                [
                    f"{value:,}",
                    number(row["warm_ms"]),
                    number(row["cold_ms"]),
                    f"{taken / 2**20:,.0f}",
                    f"{row['peak'] / 2**20:,.0f}",
                ]
                for value, row, taken in zip(values, rows, grown, strict=True)
            ]
            + [["slope", *shown, ""]],
        ),
    ]


def report(results: Results, plan: dict[str, list[Sizes]]) -> str:
    """All sweeps so far."""
    parts = [
        paragraph(
            "ms per activation. cold: over all activations, Gram rows included. warm: the last block of at most "
            f"{BLOCK:,} again. memory: the most that the process had above what it had with its atoms, before there "
            "was a model. process: the most in all."
        )
    ]
    for sweep, keys in plan.items():
        parts += sweep_part(results, sweep, keys)
    return results.write(parts)


def parse_sweeps(text: str) -> list[str]:
    """m,k: names of sweeps."""
    names = text.split(",")
    for name in names:
        if name not in SWEEPS:
            raise argparse.ArgumentTypeError(f"{name!r}: write some of {','.join(SWEEPS)}")
    return names


def main() -> None:
    parser = arguments_for(__doc__, "scaling")
    parser.add_argument("--only", type=parse_sweeps, default=list(SWEEPS), help="sweeps to measure: m,k,d,n")
    parser.add_argument("--memory", type=parse_bytes, help="the most that Gram rows may take: 8G")
    parser.add_argument("--repeats", type=int, default=3, help="warm timings, of which the least counts; default 3")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child)))
        return
    results = results_for(arguments, "scaling")
    extra = {"memory": arguments.memory, "repeats": arguments.repeats}
    plan = {
        sweep: [sizes_of(sweep, value, arguments.quick) | extra for value in values]
        for sweep, values in (QUICK_SWEEPS if arguments.quick else SWEEPS).items()
    }
    for sweep in arguments.only:
        for key in plan[sweep]:
            if results.find(key) is None:
                print(" ".join(f"{name}={value}" for name, value in key.items()), flush=True)
                results.add(key, child(__file__, key))
                report(results, plan)
    print(report(results, plan))


if __name__ == "__main__":
    main()
