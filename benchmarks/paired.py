"""Is this itda as fast on a CPU as another version of it? Both take turns, on the grids of pursuit.py and training.py.

    git worktree add ../before COMMIT
    python benchmarks/paired.py ../before [--only encode|train] [--d 768] [--rounds 5] [--fresh] [--quick]

A process for each version, with one thread, both on the same core. Both get the same activations and work in turn:
old new new old, for some tenths of a second at a time. A round's figure is the median of the ratios of neighbours.
The same code differs from one process to another, by where its memory happens to lie; in versions that do not ask for
huge pages, a process that had to compile its loops is slower than the next. So each round has new processes, which find
all compiled, and what counts is the median of the rounds. Rows that were measured before are kept: run it again to go
on, with `--fresh` to start anew.
"""

import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from common import Results, arguments_for, number, paragraph, ratio, results_for, table

Setting = dict[str, Any]
Work = Callable[[], str]

LEAST = 0.2
"""Seconds of the processor that one side works before the other has its turn."""

ROWS = {4096: 512, 16384: 256, 65536: 64}
"""Activations that are encoded, by the number of atoms: few enough that computing the Gram rows does not take long."""

SIDES = ("old", "new")


def settings(quick: bool) -> Iterator[Setting]:
    """Everything that is measured."""
    yield from _encodings(quick)
    tokens = 1000 if quick else 20_000
    for d in (192, 512) if quick else (192, 512, 768, 4096):
        of = {"task": "train", "data": "structured", "d": d, "threshold": 0.24, "pursuit": "mp", "k": 40}
        yield of | {"rows": tokens if d < 4096 else tokens // 4}
    if not quick:
        yield {"task": "train", "data": "tiny", "d": 192, "threshold": 0.3, "pursuit": "mp", "k": 16, "rows": tokens}


def _encodings(quick: bool) -> Iterator[Setting]:
    sizes = [("random", *size) for size in itertools.product(ROWS, (64, 512, 768, 4096), (10, 40))]
    sizes += [("tiny", *size) for size in itertools.product((4096, 16384), (192,), (10, 40))]
    others = [("mp_refit", "random", 16384, 768, 40), ("omp", "random", 16384, 768, 40)]
    if quick:
        sizes, others = [("random", 1024, 64, 10)], []
    for pursuit, data, m, d, k in [*(("mp", *size) for size in sizes), *others]:
        of = {"task": "encode", "data": data, "m": m, "d": d, "k": k, "pursuit": pursuit}
        yield of | {"rows": 64 if quick else ROWS[m]}


def prepared(setting: Setting) -> Work:
    """What a side does in its turn, all compiled; it returns a digest of the atoms picked, or of what was appended."""
    return _encoding(setting) if setting["task"] == "encode" else _training(setting)


def _encoding(setting: Setting) -> Work:
    from activations import random_rows, random_unit, tiny_problem
    from common import labels_for

    import itda  # of the version that this process is for

    m, d, rows = setting["m"], setting["d"], setting["rows"]
    atoms, x = tiny_problem(m, rows) if setting["data"] == "tiny" else (random_unit(m, d, 1), random_rows(rows, d, 2))
    model = itda.ITDA(atoms, labels_for(len(atoms)), k=setting["k"], pursuit=setting["pursuit"])

    def encode() -> str:
        return digest(model.encode(x).indices.numpy().tobytes())

    encode()  # computes the Gram rows that are needed
    return encode


def _training(setting: Setting) -> Work:
    from activations import structured, tiny_problem
    from common import batches

    import itda

    d, rows = setting["d"], setting["rows"]
    x = tiny_problem(1, rows)[1] if setting["data"] == "tiny" else structured(rows, d)

    def train(most: int = rows) -> str:
        trainer = itda.Trainer(d, k=setting["k"], threshold=setting["threshold"], pursuit=setting["pursuit"])
        for batch in batches(x[:most], 1024):
            trainer.offer(batch)
        return digest(trainer.finish().labels.position.tobytes())

    train(256)
    return train


def digest(content: bytes) -> str:
    """Tell contents apart."""
    return hashlib.sha256(content).hexdigest()[:16]


def serve() -> None:
    """Do what the lines of the standard input ask for: a setting to prepare, or how often to do it."""
    work: Work = str
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, dict):
            work, reply = prepared(asked), None
        else:
            processor, clock, found = time.process_time(), time.perf_counter(), ""
            for _ in range(asked):
                found = work()
            reply = [time.process_time() - processor, time.perf_counter() - clock, found]
        print(json.dumps(reply), flush=True)


class Side:
    """A process that has one version of the package."""

    def __init__(self, checkout: Path) -> None:
        if not (checkout / "itda" / "__init__.py").exists():
            raise SystemExit(f"{checkout} has no package itda: give a checkout of the repository")
        one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | one | {"PYTHONPATH": str(checkout.resolve())},
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, {max(os.sched_getaffinity(0))})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()

    def ask(self, what: Setting | int) -> Any:
        """Send one line and return what comes back."""
        asked, replies = self._process.stdin, self._process.stdout
        assert asked is not None
        assert replies is not None
        asked.write(json.dumps(what) + "\n")
        asked.flush()
        reply = replies.readline()
        if not reply:
            raise SystemExit("a version could not do its part: what it said is above")
        return json.loads(reply)


def compile_once(checkouts: tuple[Path, Path]) -> None:
    """Have all loops compiled and kept, by processes that nothing is measured in."""
    for checkout in checkouts:
        with Side(checkout) as side:
            for setting in settings(quick=True):
                side.ask(setting)


def measure_round(results: Results, keys: list[Setting], checkouts: tuple[Path, Path], number_of_round: int) -> None:
    """Measure all that is not there yet, by a new process for each version."""
    with Side(checkouts[0]) as old, Side(checkouts[1]) as new:
        for key in keys:
            if results.find(key | {"round": number_of_round}) is None:
                row = measure(key, {"old": old, "new": new}, backwards=number_of_round % 2 == 1)
                results.add(key | {"round": number_of_round}, row)
                print(f"{time.strftime('%H:%M:%S')} {row['cpu']['ratio']:.3f} {key}", flush=True)


def measure(setting: Setting, sides: dict[str, Side], backwards: bool) -> dict[str, Any]:
    """Let both versions take turns."""
    order = list(sides)[:: -1 if backwards else 1]
    for name in order:
        sides[name].ask(setting)
    first = {name: sides[name].ask(1) for name in order}
    times = round(LEAST / max(reply[0] for reply in first.values()))
    taken = {name: [reply[:2]] for name, reply in first.items()} if times < 1 else {name: [] for name in SIDES}
    for turn in range(1 if times < 1 else 3):
        for name in order[:: 1 if turn % 2 else -1]:
            taken[name].append([value / max(1, times) for value in sides[name].ask(max(1, times))[:2]])
    row: dict[str, Any] = {"same": first["old"][2] == first["new"][2]}
    for place, clock in enumerate(("cpu", "wall")):
        columns = {side: [values[place] for values in taken[side]] for side in SIDES}
        row[clock] = {"ratio": ratio(columns["new"], columns["old"])}
        row[clock] |= {side: 1000 * statistics.median(columns[side]) / setting["rows"] for side in SIDES}
    return row


def report(results: Results, keys: list[Setting], versions: list[str], rounds: int) -> str:
    """The table."""
    about = (
        f"{versions[0]} (old) and {versions[1]} (new) in turn, a process each, one thread on one core. old, new: "
        "milliseconds of the processor for each activation. new / old: the median of the rounds, of the "
        "processor's time; from, to: the lowest and the highest round; clock: the median by the clock, other work on "
        "the machine included. same: whether both pick the same atoms, or append the same activations."
    )
    header = [
        "task",
        "pursuit",
        "data",
        "m",
        "d",
        "k",
        "old",
        "new",
        "new / old",
        "from",
        "to",
        "clock",
        "rounds",
        "same",
    ]
    lines = []
    for key in keys:
        found = [row for turn in range(rounds) if (row := results.find(key | {"round": turn}))]
        if not found:
            continue
        ratios = [row["cpu"]["ratio"] for row in found]
        lines.append(
            [
                key["task"],
                key["pursuit"],
                key["data"],
                f"{key['m']:,}" if "m" in key else "-",
                f"{key['d']:,}",
                str(key["k"]),
                *(number(statistics.median(row["cpu"][side] for row in found)) for side in SIDES),
                *(f"{value:.3f}" for value in (statistics.median(ratios), min(ratios), max(ratios))),
                f"{statistics.median(row['wall']['ratio'] for row in found):.3f}",
                str(len(found)),
                "yes" if all(row["same"] for row in found) else "NO",
            ]
        )
    return results.write([paragraph(about), table(header, lines)])


def version_of(checkout: Path) -> str:
    """The commit of the package in a checkout, with a plus if files of it have changed since."""
    git = ["git", "-C", str(checkout)]
    commit = subprocess.run(
        [*git, "log", "-1", "--format=%h", "--", "itda"], stdout=subprocess.PIPE, text=True, check=True
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "itda"], check=False).returncode
    return commit.stdout.strip() + ("+" if changed else "")


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:] == ["--serve"]:
        serve()
        return
    parser = arguments_for(__doc__, "paired")
    parser.add_argument("old", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--new", type=Path, default=Path(__file__).parent.parent, help="default: this checkout")
    parser.add_argument("--only", dest="task", choices=("encode", "train"), action="append")
    parser.add_argument("--d", type=int, action="append", help="only this width; may be given again")
    parser.add_argument("--m", type=int, action="append", help="only encoding with so many atoms; may be given again")
    parser.add_argument("--rounds", type=int, help="default 5")
    arguments = parser.parse_args()
    chosen = {name: values for name in ("task", "d", "m") if (values := getattr(arguments, name))}
    checkouts = (arguments.old, arguments.new)
    versions = [version_of(checkout) for checkout in checkouts]
    keys = [key | {"versions": versions} for key in settings(arguments.quick)]
    wanted = [key for key in keys if all(key.get(name) in values for name, values in chosen.items())]
    results = results_for(arguments, "paired")
    compile_once(checkouts)
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    for number_of_round in range(rounds):
        measure_round(results, wanted, checkouts, number_of_round)
        report(results, keys, versions, rounds)
    print(report(results, keys, versions, rounds))


if __name__ == "__main__":
    main()
