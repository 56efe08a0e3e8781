"""How long does what needs no model take: `itda info`, help, and refusals?

    python benchmarks/starting.py [--quick] [--fresh] [--before CHECKOUT]

Each command is a process of its own, as a user starts it, on a run of the bundled model that is trained first. With
`--before`, a checkout of an earlier version, the same commands of both are run in turn, and the ratios are medians of
paired ones.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import arguments_for, number, paragraph, ratio, results_for, seconds, table

HERE = Path(__file__).parent.parent
COMMANDS = {
    "info RUN": ["info", "RUN"],
    "info RUN --json": ["info", "RUN", "--json"],
    "--help": ["--help"],
    "train --help": ["train", "--help"],
    "--version": ["--version"],
    "an unknown run": ["info", "./nowhere"],
    "a misspelt folder": ["train", "./nowhere", "--layers", "2", "--corpus", "python-docs"],
    "k of 0": ["train", "tiny", "--layers", "2", "--corpus", "python-docs", "--k", "0"],
    "a layer that RUN lacks": ["decompose", "RUN", "text", "--layer", "5"],
}
TRAINING = ["train", "tiny", "--layers", "2,4", "--corpus", "python-docs", "--tokens", "2k", "--quiet"]
TRAINING += ["--mode", "paper", "--threshold", "0.4"]


def call(package: Path, arguments: list[str]) -> None:
    """Run `itda` of a checkout in a process of its own."""
    variables = {**os.environ, "PYTHONPATH": str(package), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "itda.cli", *arguments], env=variables, cwd=package, capture_output=True)


def measured(packages: Mapping[str, Path], arguments: list[str], repeats: int) -> dict[str, list[float]]:
    """Seconds of a command in each package, one after the other within a repetition."""
    taken: dict[str, list[float]] = {name: [] for name in packages}
    for repetition in range(repeats + 1):
        for name, package in list(packages.items())[:: -1 if repetition % 2 else 1]:
            took = seconds(lambda package=package: call(package, arguments))
            if repetition:  # the first reads files that are not in memory yet
                taken[name].append(took)
    return taken


def report(rows: list[dict[str, Any]]) -> list[str]:
    """The table."""
    lines = []
    for row in rows:
        now, before = row["seconds"]["now"], row["seconds"].get("before")
        cells = [row["key"]["command"], number(statistics.median(now), 2), number(max(now), 2)]
        if before is not None:
            cells += [number(statistics.median(before), 2), number(ratio(before, now), 1)]
        lines.append(cells)
    header = ["itda ...", "s", "slowest"]
    if rows and all("before" in row["seconds"] for row in rows):
        header += ["before, s", "before / now"]
    return [
        paragraph("Seconds of a process from its start to its end."),
        table(header, [c[: len(header)] for c in lines]),
    ]


def main() -> None:
    parser = arguments_for(__doc__, "starting")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    a = parser.parse_args()
    results, repeats = results_for(a, "starting"), 3 if a.quick else 9
    packages = {"now": HERE, **({"before": a.before.resolve()} if a.before is not None else {})}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        call(HERE, [*TRAINING, "--out", str(run)])
        assert (run / "run.json").exists()
        for name, arguments in COMMANDS.items():
            key = {"command": name, "compared": sorted(packages)}
            if results.find(key) is None:
                given = [str(run) if word == "RUN" else word for word in arguments]
                results.add(key, {"seconds": measured(packages, given, repeats)})
    print(results.write(report([row for row in results.rows if row["key"]["compared"] == sorted(packages)])))


if __name__ == "__main__":
    main()
