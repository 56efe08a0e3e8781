"""How long does it take to build a dictionary? itda's trainer against the textbook's batches, and where the time goes.

    python benchmarks/training.py [--tokens 300k] [--k 40] [--threshold 0.24] [--activations FILE.pt] [--quick]

The first tables: activations in memory, made up with structure (`activations.structured`) or read from a file that
`torch.save` wrote, [tokens, d_model]. Timed in a process each: the trainer over all of them; encoding them once with
the finished dictionary; the textbook at some points of the way, with as many atoms as the trainer had there, which
gives its time for all tokens by the midpoint rule; and, if that is less than `--limit` seconds, the textbook's batch
procedure itself until it has as many atoms. The last table: `itda train tiny`, from outside. Parts that were measured
before are kept: run it again to go on, with `--fresh` to start anew.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from activations import random_rows, structured
from baselines import textbook_loop, textbook_training
from common import (
    Results,
    arguments_for,
    batches,
    child,
    forget_peak,
    gib,
    labels_for,
    most_resident,
    number,
    paragraph,
    parse_bytes,
    resident,
    results_for,
    seconds,
    share,
    table,
)
from torch import Tensor

import itda

OFFERED = 1024
"""Activations per call of the trainer and of encode."""
QUARTERS = 4
REPEATS = 3
"""Times that the textbook is timed at each point."""

Task = dict[str, Any]


def load(task: Task) -> Tensor:
    """The activations: a file's, or made up."""
    if task["activations"] is None:
        return structured(task["tokens"], task["d"])
    x = torch.load(task["activations"], weights_only=True, mmap=True)
    return x[: task["tokens"]].float().contiguous()


def compile_kernels(task: Task) -> None:
    """Have everything compiled, on a small problem."""
    trainer = itda.Trainer(32, k=task["k"], threshold=0.5)
    for batch in batches(random_rows(256, 32, seed=4), 128):
        trainer.offer(batch)
    trainer.finish().encode(random_rows(64, 32, seed=5))


def prepare(task: Task) -> tuple[Tensor, int]:
    """The activations, all compiled, and the memory before anything is measured."""
    compile_kernels(task)
    itda.set_memory(task["memory"])
    x = load(task)
    forget_peak()
    return x, resident()


def ours(task: Task) -> dict[str, Any]:
    """The trainer over all tokens; seconds and atoms after every call."""
    x, before = prepare(task)
    trainer = itda.Trainer(x.shape[1], k=task["k"], threshold=task["threshold"])
    taken, sizes = [], []
    for batch in batches(x, OFFERED):
        taken.append(seconds(lambda batch=batch: trainer.offer(batch)))
        sizes.append(len(trainer))
    peak = most_resident()
    torch.save(trainer.finish().atoms, task["dictionary"])
    return {
        "seconds": sum(taken),
        "taken": [round(value, 4) for value in taken],
        "sizes": sizes,
        "tokens": len(x),
        "atoms": len(trainer),
        "d": x.shape[1],
        "before": before,
        "peak": peak,
    }


def encode(task: Task) -> dict[str, Any]:
    """Encoding all tokens once with the finished dictionary, Gram rows and all."""
    x, before = prepare(task)
    atoms = torch.load(task["dictionary"], weights_only=True)

    def all_of_it() -> None:
        model = itda.ITDA(atoms, labels_for(len(atoms)), k=task["k"])
        for part in x.split(OFFERED):
            model.encode(part)

    return {"seconds": seconds(all_of_it), "tokens": len(x), "before": before, "peak": most_resident()}


def sampled(task: Task) -> dict[str, Any]:
    """The textbook's time for all tokens, from some batches along the way at the sizes that ours had there."""
    x, _ = prepare(task)
    atoms = torch.load(task["dictionary"], weights_only=True)
    points = []
    for point in range(task["points"]):
        start = int((point + 0.5) / task["points"] * len(x))
        batch = x[start : start + task["batch"]]
        size = task["sizes"][min(start // OFFERED, len(task["sizes"]) - 1)]
        taken = [seconds(lambda b=batch, m=size: textbook_loop(b, atoms[:m], task["k"])) for _ in range(REPEATS)]
        points.append({"token": start, "atoms": size, "ms": 1000 * statistics.median(taken) / len(batch)})
    mean = statistics.mean(point["ms"] for point in points)
    fraction = task["points"] * task["batch"] / len(x)
    return {"seconds": mean / 1000 * len(x), "tokens": len(x), "points": points, "fraction": min(1.0, fraction)}


def textbook(task: Task) -> dict[str, Any]:
    """The textbook's batch procedure, until it has as many atoms as ours."""
    x, before = prepare(task)
    started = time.perf_counter()
    atoms, tokens = textbook_training(x, task["k"], task["threshold"], task["batch"], task["atoms"])
    taken = time.perf_counter() - started
    return {"seconds": taken, "tokens": tokens, "atoms": len(atoms), "before": before, "peak": most_resident()}


class Watch:
    """Looks at the main thread's stack every few milliseconds and counts what it is in.

    The innermost function that one of the rules knows decides. Compiled code and torch's products release the
    interpreter, so this thread gets its turns.
    """

    def __init__(self, kind: Callable[[str, str], str | None], pause: float = 0.002) -> None:
        self._kind, self._pause = kind, pause
        self._main = threading.main_thread().ident
        self._on, self._ended = threading.Event(), False
        self.counts: dict[str, int] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def __enter__(self) -> None:
        self._on.set()

    def __exit__(self, *_: object) -> None:
        self._on.clear()

    def _look(self) -> None:
        while self._on.wait():
            time.sleep(self._pause)
            frame = sys._current_frames().get(self._main or 0)
            found = None
            while frame is not None and found is None:
                found = self._kind(frame.f_code.co_filename, frame.f_code.co_name)
                frame = frame.f_back
            if found and self._on.is_set():
                self.counts[found] = self.counts.get(found, 0) + 1


def kind_of(file: str, function: str) -> str | None:
    """Whether a function of the package is part of a pursuit or of growth; None for what serves both."""
    place = Path(file)
    if place.stem == "workers":
        return None
    if "growth" in place.stem or function == "grow" or place.parts[-2:] == ("core", "training.py"):
        return "growth"
    return "pursuit" if place.parent.name == "pursuit" else None


def command(task: Task) -> dict[str, Any]:
    """`itda train tiny`, with the model's and the trainer's time taken from outside."""
    from itda import config, recipes
    from itda.sources.source import ModelSource

    compile_kernels(task | {"k": 16})
    spent = {"loading": 0.0, "model": 0.0, "offer": 0.0}
    watch = Watch(kind_of)
    read, offer = ModelSource.__iter__, itda.Trainer.offer

    def timed_read(self: ModelSource) -> Iterator[Any]:
        spent["loading"] = time.perf_counter() - began
        stream = read(self)
        while True:
            started = time.perf_counter()
            batch = next(stream, None)
            spent["model"] += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def timed_offer(self: itda.Trainer, batch: itda.ActivationBatch) -> int:
        started = time.perf_counter()
        with watch:
            added = offer(self, batch)
        spent["offer"] += time.perf_counter() - started
        return added

    ModelSource.__iter__, itda.Trainer.offer = timed_read, timed_offer
    with tempfile.TemporaryDirectory() as folder:
        options = config.Train(
            mode="paper",
            order="corpus",
            model="tiny",
            layers=(2, 4),
            corpus="python-docs",
            tokens=task["tiny_tokens"],
            k=16,
            threshold=0.3,
            out=Path(folder) / "run",
            quiet=True,
        )
        began = time.perf_counter()
        recipes.train(options)
        total = time.perf_counter() - began
    samples = watch.counts | {"all": sum(watch.counts.values())}
    growth = spent["offer"] * samples.get("growth", 0) / max(1, samples["all"])
    return {
        "total": total,
        "loading": spent["loading"],
        "model": spent["model"],
        "pursuit": spent["offer"] - growth,
        "growth": growth,
        "samples": samples["all"],
        "tokens": task["tiny_tokens"],
    }


PARTS = {"ours": ours, "encode": encode, "sampled": sampled, "textbook": textbook, "command": command}
TITLES = {
    "ours": "ours",
    "encode": "encoding once",
    "sampled": "textbook, same tokens",
    "textbook": "textbook, same atoms",
}


def measure(results: Results, settings: Task, arguments: argparse.Namespace) -> None:
    """All parts that are not there yet, in an order in which each finds what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        dictionary = Path(folder) / "dictionary.pt"
        task = settings | {"dictionary": str(dictionary)}
        if arguments.activations:
            task["activations"] = str(arguments.activations)

        def part(name: str, *, needs_dictionary: bool = False, **more: Any) -> dict[str, Any]:
            key = settings | {"part": name}
            if (row := results.find(key)) is None:
                if needs_dictionary and not dictionary.exists():
                    child(__file__, task | {"part": "ours"})  # known from an earlier run, but its atoms were not kept
                print(name, flush=True)
                row = results.add(key, child(__file__, task | more | {"part": name}))
                report(results, settings)
            return row

        made = part("ours")
        part("encode", needs_dictionary=True)
        estimate = part("sampled", needs_dictionary=True, sizes=made["sizes"])
        if estimate["seconds"] <= arguments.limit:
            part("textbook", atoms=made["atoms"])
        part("command")


def report(results: Results, settings: Task) -> str:
    """All tables, from the parts so far."""
    found = {name: results.find(settings | {"part": name}) for name in PARTS}
    parts = [about(found, settings), times_table(found), ratios_table(found)]
    if found["sampled"]:
        parts += [paragraph("The way there, a quarter of the tokens at a time."), quarters_table(found)]
    if found["command"]:
        tokens = found["command"]["tokens"]
        parts += [
            paragraph(
                f"itda train tiny --layers 2,4 --corpus python-docs --tokens {tokens} --k 16 --threshold 0.3 "
                "--mode paper --order corpus: seconds of loading, in the model, in pursuits, in growth (replay and "
                "Gram rows; told apart from pursuits by "
                f"looking at the stack {found['command']['samples']:,} times), and in the rest (the log, writing)."
            ),
            command_table(found["command"]),
        ]
    return results.write(parts)


def about(found: dict[str, Any], settings: Task) -> str:
    """What was measured, in words."""
    made = found["ours"]
    source = "activations of a file" if settings["activations"] else "made-up activations with structure"
    text = (
        f"{made['tokens']:,} {source}, d = {made['d']}, k = {settings['k']}, threshold {settings['threshold']}: "
        f"{made['atoms']:,} atoms. Memory in GiB: with the activations but before the part began, and the most. "
    )
    if sample := found["sampled"]:
        text += (
            f"Textbook, same tokens: not run but integrated, from {share(sample['fraction'])} of its batches of "
            f"{settings['batch']} at {settings['points']} points, with as many atoms as ours had there. "
        )
    if ran := found["textbook"]:
        text += (
            f"Textbook, same atoms: its batch procedure, until it had {ran['atoms']:,} atoms, after {ran['tokens']:,} "
            "tokens; it appends all misses of a batch, so it gets there sooner. "
        )
    elif sample:
        text += "The textbook's procedure itself was not run: it would exceed the time limit. "
    return paragraph(text)


def times_table(found: dict[str, Any]) -> str:
    """What each part took."""
    rows = [
        [
            TITLES[name],
            f"{row['tokens']:,}",
            number(row["seconds"]),
            number(1000 * row["seconds"] / row["tokens"]),
            gib(row.get("before")),
            gib(row.get("peak")),
        ]
        for name, row in found.items()
        if row and name in TITLES
    ]
    return table(["", "tokens", "s", "ms / token", "before", "most"], rows)


def ratios_table(found: dict[str, Any]) -> str:
    """The figures that matter."""
    made = found["ours"]["seconds"]
    rows = [
        [f"{TITLES[name]} / ours", number(row["seconds"] / made)]
        for name, row in found.items()
        if row and name in ("sampled", "textbook")
    ]
    if found["encode"]:
        rows.append([f"ours / {TITLES['encode']}", number(made / found["encode"]["seconds"])])
    return table(["ratio of times", ""], rows)


def quarters_table(found: dict[str, Any]) -> str:
    made, points = found["ours"], found["sampled"]["points"]
    calls = len(made["sizes"])
    rows = []
    for quarter in range(QUARTERS):
        of = slice(quarter * calls // QUARTERS, (quarter + 1) * calls // QUARTERS)
        first, last = of.start * OFFERED, min(of.stop * OFFERED, made["tokens"])
        if first == last:
            continue
        there = [point["ms"] for point in points if first <= point["token"] < last]
        own = 1000 * sum(made["taken"][of]) / (last - first)
        other = statistics.mean(there) if there else None
        rows.append(
            [
                f"{first:,} to {last:,}",
                f"{made['sizes'][of.stop - 1]:,}",
                number(own),
                number(other),
                number(other / own) if other else "-",
            ]
        )
    return table(["tokens", "atoms", "ours, ms", "textbook, ms", "textbook / ours"], rows)


def command_table(row: dict[str, Any]) -> str:
    known = {name: row[name] for name in ("loading", "model", "pursuit", "growth")}
    known["rest"] = row["total"] - sum(known.values())
    return table(
        ["part", "s", "share"],
        [[name, number(value), share(value / row["total"])] for name, value in known.items()]
        + [["all", number(row["total"]), "100%"]],
    )


def count(text: str) -> int:
    """A number of tokens, as the package's commands read it."""
    from itda.parsing import parse_count

    return parse_count(text)


def main() -> None:
    parser = arguments_for(__doc__, "training")
    parser.add_argument("--tokens", type=count, help="default 300k, or all of a file")
    parser.add_argument("--d", type=int, default=512, help="width of made-up activations; default 512")
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--threshold", type=float, default=0.24)
    parser.add_argument("--batch", type=int, default=1024, help="activations per batch of the textbook; default 1024")
    parser.add_argument("--points", type=int, default=12, help="where the textbook is timed on the way; default 12")
    parser.add_argument("--limit", type=float, default=3600, help="run the textbook itself if it takes fewer seconds")
    parser.add_argument("--activations", type=Path, help="a file of torch.save: activations [tokens, d_model]")
    parser.add_argument("--memory", type=parse_bytes, help="the most that the Gram matrix may take: 8G")
    parser.add_argument("--tiny-tokens", type=count, help="tokens of the last table; default 200k")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(PARTS[arguments.child["part"]](arguments.child)))
        return
    names = ("tokens", "d", "k", "threshold", "batch", "points", "activations", "memory", "tiny_tokens")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.activations:
        settings |= {"d": None, "activations": arguments.activations.name}
    elif settings["tokens"] is None:
        settings["tokens"] = 6000 if arguments.quick else 300_000
    settings["tiny_tokens"] = settings["tiny_tokens"] or (5000 if arguments.quick else 200_000)
    results = results_for(arguments, "training")
    measure(results, settings, arguments)
    print(report(results, settings))


if __name__ == "__main__":
    main()
