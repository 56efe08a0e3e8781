"""How does training on the CPU slow down with the width of activations?

    python benchmarks/widths.py [--tokens 2744] [--k 40] [--threshold 0.24] [--repeats 5] [--quick]

`itda.Trainer` goes through structured activations (`activations.structured`) of several widths, as they are and with a
common mean added, in turn. Tokens/s are by the clock and by the processor's time, of all threads: a machine with other
work has less to spare by the clock. A pursuit that runs before anything is timed also counts, where the package does,
how many atoms were correlated exactly at each step: 1 is the least. Rows that were measured before are kept: run it
again to go on, with `--fresh` to start anew.
"""

import statistics
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from activations import random_rows, structured
from common import Results, arguments_for, batches, number, paragraph, ratio, results_for, table
from torch import Tensor

import itda
from itda.core.training import growth_cpu

OFFERED = 1024
"""Activations per call of the trainer."""

MEAN = 0.92
"""Norm of the mean that is added, beside the activations': their cosine with the mean of all becomes about 0.8."""

Setting = dict[str, Any]


@cache
def activations(tokens: int, d: int) -> Tensor:
    """Structured activations, made once."""
    return structured(tokens, d)


def problem(setting: Setting) -> tuple[Tensor, float]:
    """Activations and a threshold: a mean that is added is no part of what the threshold is a share of."""
    x, threshold = activations(setting["tokens"], setting["d"]), setting["threshold"]
    if not setting["mean"]:
        return x, threshold
    direction = torch.nn.functional.normalize(random_rows(1, setting["d"], seed=1), dim=1)
    return x + MEAN * x.norm(dim=1).mean() * direction, threshold / (1 + MEAN**2)


def train(x: Tensor, k: int, threshold: float) -> int:
    """Number of atoms in the end."""
    trainer = itda.Trainer(x.shape[1], k=k, threshold=threshold)
    for batch in batches(x, OFFERED):
        trainer.offer(batch)
    return len(trainer)


def exact_per_step(x: Tensor, k: int, threshold: float) -> float | None:
    """Exact correlations for each step of a pursuit; None for versions of the package that do not count them."""
    found, run, exact, steps = True, growth_cpu.run, 0, 0

    def counted(rows: Any, block: Any, *rest: Any) -> None:
        nonlocal exact, steps, found
        found = hasattr(block, "exact")
        before = (int(block.exact[rows].sum()), int(block.step[rows].sum())) if found else (0, 0)
        run(rows, block, *rest)
        if found:
            exact += int(block.exact[rows].sum()) - before[0]
            steps += int(block.step[rows].sum()) - before[1]

    growth_cpu.run = counted
    try:
        train(x, k, threshold)
    finally:
        growth_cpu.run = run
    return exact / steps if found and steps else None


def measure(results: Results, settings: list[Setting], repeats: int) -> None:
    """Train in turn, every other time backwards; a repetition of which a row is there already is not done again."""
    for setting in settings:
        if not results.find(setting | {"repeat": "counted"}):
            x, threshold = problem(setting)
            results.add(setting | {"repeat": "counted"}, {"exact": exact_per_step(x, setting["k"], threshold)})
    for repeat in range(repeats):
        for setting in settings[:: -1 if repeat % 2 else 1]:
            if results.find(setting | {"repeat": repeat}):
                continue
            x, threshold = problem(setting)
            processor, started = time.process_time(), time.perf_counter()
            atoms = train(x, setting["k"], threshold)
            taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - processor}
            results.add(setting | {"repeat": repeat}, taken | {"atoms": atoms})


def report(results: Results, settings: list[Setting], repeats: int) -> str:
    """The table, and the ratio to the narrower width."""
    times = range(repeats)
    found = [[row for repeat in times if (row := results.find(at | {"repeat": repeat}))] for at in settings]
    by_key = {(setting["d"], setting["mean"]): rows for setting, rows in zip(settings, found, strict=True)}
    lines = []
    for setting, rows in zip(settings, found, strict=True):
        base = by_key[min(4096, max(d for d, _ in by_key)), setting["mean"]]
        counted = results.find(setting | {"repeat": "counted"})
        lines.append(
            [
                f"{setting['d']:,}",
                "added" if setting["mean"] else "as it is",
                f"{rows[0]['atoms']:,}",
                number(setting["tokens"] / middle(rows, "seconds")),
                number(setting["tokens"] / middle(rows, "cpu_seconds")),
                number(ratio(column(base, "seconds"), column(rows, "seconds"))),
                number(ratio(column(base, "cpu_seconds"), column(rows, "cpu_seconds"))),
                number(counted["exact"] if counted else None),
            ]
        )
    header = ["width", "mean", "atoms", "tokens/s", "tokens/s of CPU", "share of 4,096's", "of CPU", "exact / step"]
    first = settings[0]
    about = (
        f"Training on {first['tokens']:,} structured activations, k = {first['k']}, threshold {first['threshold']}; "
        f"medians of {repeats} in turn. Shares: tokens/s beside those at a width of 4,096 in the same repetition, "
        "by the clock and by the processor's time. Exact / step: atoms correlated in float64 at each step of a pursuit."
    )
    return results.write([paragraph(about), table(header, lines)])


def column(rows: Iterable[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows]


def middle(rows: Iterable[dict[str, Any]], name: str) -> float:
    return statistics.median(column(rows, name))


def main() -> None:
    parser = arguments_for(__doc__, "widths")
    parser.add_argument("--tokens", type=int, help="default 2744")
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--threshold", type=float, default=0.24)
    parser.add_argument("--repeats", type=int, help="default 5")
    arguments = parser.parse_args()
    tokens = arguments.tokens or (300 if arguments.quick else 2744)
    repeats = arguments.repeats or (2 if arguments.quick else 5)
    widths = (192, 768, 4096) if arguments.quick else (768, 4096, 16384)
    settings: list[Setting] = [
        {"d": d, "mean": mean, "tokens": tokens, "k": arguments.k, "threshold": arguments.threshold}
        for mean in (False, True)
        for d in widths
    ]
    results = results_for(arguments, "widths")
    train(random_rows(256, 32, seed=4), arguments.k, 0.5)  # compile
    measure(results, settings, repeats)
    print(report(results, settings, repeats))


if __name__ == "__main__":
    main()
