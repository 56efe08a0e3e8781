"""How fast is encoding? itda against the textbook loop, against one product with the dictionary, and other libraries.

    python benchmarks/pursuit.py [--only m=16384,d=768,k=40] [--pursuit mp|mp_refit|omp] [--memory 8G] [--quick]

Random dictionaries (Gaussian unit atoms and Gaussian activations) and real ones (activations of `tiny`, d = 192, on
python-docs). Every configuration: a first call, which computes the rows of the Gram matrix that the activations ask
for; then all sides in turn on the same activations, `--repeats` times, and medians of the ratios within a repetition.
Our codes are compared with those of the plain pursuit, bit by bit. Rows that were measured before are kept: run it
again to go on, with `--fresh` to start anew.
"""

import argparse
import gc
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from activations import TINY_WIDTH, random_rows, random_unit, tiny_problem
from baselines import SIDES, TEXTBOOK, Encode, Problem, Side, agreement
from common import (
    Results,
    arguments_for,
    child,
    forget_peak,
    gib,
    in_turn,
    labels_for,
    most_resident,
    number,
    paragraph,
    parse_bytes,
    ratio,
    resident,
    results_for,
    seconds,
    share,
    table,
)
from torch import Tensor

import itda

GRID = {"m": (4096, 16384, 65536), "d": (512, 768, 4096), "k": (10, 40)}
QUICK = {"m": (1024, 2048), "d": (256,), "k": (10,)}
LARGE = 65536
"""Dictionaries from here on are also encoded with in a process of their own, to see the memory that it takes."""
SLOW_FLOPS = 1.2e13
"""A recomputing side gets fewer activations where they would need more than this, some minute and a half."""
FEWEST_ROWS = 256
PLAIN_ROWS = 16
AGREEMENT_ROWS = 64

Configuration = dict[str, Any]


def configurations(only: dict[str, Any], quick: bool) -> Iterator[Configuration]:
    """The grid, or what `--only` leaves of it; a size in `--only` need not be in the grid."""
    grid = QUICK if quick else GRID
    sizes = {name: (only[name],) if name in only else values for name, values in grid.items()}
    for data in ("random", "tiny"):
        if only.get("data", data) != data:
            continue
        widths = sizes["d"] if data == "random" else (TINY_WIDTH,)
        for m, d, k in itertools.product(sizes["m"], widths, sizes["k"]):
            if d == only.get("d", d):
                yield {"data": data, "m": m, "d": d, "k": k}


def parse_only(text: str) -> dict[str, Any]:
    """m=16384,d=768,k=40 or data=tiny."""
    chosen: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name in GRID and value.isdecimal():
            chosen[name] = int(value)
        elif name == "data" and value in ("random", "tiny"):
            chosen[name] = value
        else:
            raise argparse.ArgumentTypeError(f"{part!r}: write m=16384, d=768, k=40 or data=random|tiny")
    return chosen


def data_for(key: Configuration) -> tuple[Tensor, Tensor]:
    """Atoms and activations."""
    if key["data"] == "tiny":
        return tiny_problem(key["m"], key["rows"])
    return random_unit(key["m"], key["d"], seed=1), random_rows(key["rows"], key["d"], seed=2)


def compile_kernels(pursuit: str, k: int) -> float:
    """Have everything compiled, on a small problem; returns the seconds."""
    model = itda.ITDA(random_unit(256, 32, seed=3), labels_for(256), k=k, pursuit=pursuit)  # pyright: ignore[reportArgumentType]
    return seconds(lambda: model.encode(random_rows(64, 32, seed=4)))


def measure(key: Configuration, repeats: int) -> dict[str, Any]:
    """All that is to be known about one configuration."""
    row: dict[str, Any] = {"alone": child(__file__, key) if key["m"] >= LARGE else None}
    row["compile_s"] = compile_kernels(key["pursuit"], key["k"])
    itda.set_memory(key["memory"])
    atoms, x = data_for(key)
    model = itda.ITDA(atoms, labels_for(len(atoms)), k=key["k"], pursuit=key["pursuit"])
    row["first_s"] = seconds(lambda: model.encode(x))
    row["as_plain"] = as_plain(model, x[:PLAIN_ROWS])
    row |= compare(model, x, repeats)
    return row


def as_plain(model: itda.ITDA, x: Tensor) -> bool:
    """Whether picks and coefficients are those of the plain pursuit, bit by bit."""
    ours, plain = model.encode(x), itda.pursue(x, model.atoms, model.k, model.pursuit)[0]
    return all(
        torch.equal(a, b)
        for a, b in ((ours.indices, plain.indices), (ours.coefficients, plain.coefficients), (ours.count, plain.count))
    )


def compare(model: itda.ITDA, x: Tensor, repeats: int) -> dict[str, Any]:
    """Time ours, one product and the other sides in turn."""
    problem = Problem(model.atoms, model.k)
    product = torch.empty(len(x), len(model))
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: model.encode(x),
        "product": lambda: torch.mm(x, model.atoms.T, out=product),
    }
    rows = {"ours": len(x), "product": len(x)}
    sides: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        if model.pursuit not in side.pursuits:
            continue
        sides[side.name] = {"title": side.title, "obstacle": side.obstacle(problem)}
        if sides[side.name]["obstacle"]:
            continue
        encode = side.prepare(problem)
        rows[side.name] = rows_for(side, problem, len(x))
        calls[side.name] = _call(encode, x[: rows[side.name]])
        sample = x[: min(AGREEMENT_ROWS, rows[side.name])]
        found = agreement(model.encode(sample), encode(sample))  # also what wakes it up
        sides[side.name] |= {"rows": rows[side.name], "same_rows": found.rows, "same_atoms": found.atoms}
    taken = in_turn(calls, repeats)
    each = {name: [value / rows[name] for value in values] for name, values in taken.items()}
    for name in sides.keys() & each.keys():
        sides[name] |= {"ms": _ms(each[name]), "by_ours": ratio(each[name], each["ours"])}
    return {
        "ms": _ms(each["ours"]),
        "product_ms": _ms(each["product"]),
        "ours_by_product": ratio(each["ours"], each["product"]),
        "sides": sides,
        "seconds": taken,
    }


def _call(encode: Encode, x: Tensor) -> Callable[[], Any]:
    return lambda: encode(x)


def _ms(values: list[float]) -> float:
    return 1000 * statistics.median(values)


def rows_for(side: Side, problem: Problem, rows: int) -> int:
    """As many activations as ours gets, but for sides that would take too long or too much memory."""
    most = side.rows(problem)
    if not side.needs_gram:
        flops = 2 * problem.atoms.numel() * problem.k
        most = min(most, max(FEWEST_ROWS, int(SLOW_FLOPS / flops)))
    return rows if most >= rows else 2 ** (most.bit_length() - 1)


def alone(key: Configuration) -> dict[str, Any]:
    """Ours by itself: seconds of the first and the second call, and memory."""
    compile_kernels(key["pursuit"], key["k"])
    itda.set_memory(key["memory"])
    atoms, x = data_for(key)
    gc.collect()
    forget_peak()
    before = resident()
    model = itda.ITDA(atoms, labels_for(len(atoms)), k=key["k"], pursuit=key["pursuit"])
    first, second = (seconds(lambda: model.encode(x)) for _ in range(2))
    others = None
    if key["data"] == "random":  # as in a long stream: none of them was seen before
        news = [random_rows(key["rows"], key["d"], seed=5 + i) for i in range(3)]
        others = [seconds(lambda new=new: model.encode(new)) for new in news]
    return {"first_s": first, "second_s": second, "new_s": others, "before": before, "peak": most_resident()}


def report(results: Results) -> str:
    """All tables, from the rows so far."""
    rows = sorted(results.rows, key=lambda row: [row["key"][name] for name in ("pursuit", "data", "m", "d", "k")])
    remarks = {side.name: f"{side.name}: {side.remark}." for side in SIDES}
    used = dict.fromkeys(name for row in rows for name in row["sides"])
    parts = [
        paragraph(
            "ms: milliseconds per activation of ours, once warm. textbook/ours and ours/product (one float32 product "
            "with all atoms): medians of ratios of times per activation, taken in turn. cold: seconds of the first "
            "call, all activations, which computes the Gram rows that are needed. bits: whether the codes are those of "
            f"the plain pursuit to the bit, for {PLAIN_ROWS} activations."
        ),
        speed_table(rows),
        paragraph(
            "side / ours: how many times as long the side takes per activation. rows: activations it was timed on, "
            "ours always on all. alike: the share of our atoms that it picks too, in at most "
            f"{AGREEMENT_ROWS} activations. " + " ".join(remarks[name] for name in used)
        ),
        side_table(rows),
    ]
    if any(row["alone"] for row in rows):
        parts += [
            paragraph(
                "Memory of ours in a process of its own, in GiB: before there is a model but with its atoms and "
                "activations, and the most. limit: that of the Gram rows, a dash where none was set. cold, warm: "
                "seconds of the first call and of the second; new: of a fifth, on other activations than any before, "
                "which may pick atoms whose Gram rows are not there."
            ),
            memory_table(rows),
        ]
    return results.write(parts)


def _where(row: dict[str, Any]) -> list[str]:
    key = row["key"]
    return [key["pursuit"], key["data"], f"{key['m']:,}", f"{key['d']:,}", str(key["k"])]


WHERE = ["pursuit", "data", "m", "d", "k"]


def speed_table(rows: list[dict[str, Any]]) -> str:
    return table(
        [*WHERE, "ms", "textbook/ours", "ours/product", "cold", "bits"],
        (
            [
                *_where(row),
                number(row["ms"]),
                number(row["sides"][TEXTBOOK.name]["by_ours"]),
                number(row["ours_by_product"]),
                number(row["first_s"]),
                "yes" if row["as_plain"] else "NO",
            ]
            for row in rows
        ),
    )


def side_table(rows: list[dict[str, Any]]) -> str:
    return table(
        [*WHERE, "side", "rows", "side / ours", "alike"],
        (
            [
                *_where(row),
                side["title"],
                f"{side['rows']:,}" if "rows" in side else "-",
                number(side["by_ours"]) if "by_ours" in side else side["obstacle"],
                share(side.get("same_atoms")),
            ]
            for row in rows
            for side in row["sides"].values()
        ),
    )


def memory_table(rows: list[dict[str, Any]]) -> str:
    return table(
        [*WHERE, "limit", "before", "most", "cold", "warm", "new"],
        (
            [
                *_where(row),
                gib(row["key"]["memory"]),
                gib(row["alone"]["before"]),
                gib(row["alone"]["peak"]),
                number(row["alone"]["first_s"]),
                number(row["alone"]["second_s"]),
                number(row["alone"]["new_s"][-1]) if row["alone"]["new_s"] else "-",
            ]
            for row in rows
            if row["alone"]
        ),
    )


def main() -> None:
    parser = arguments_for(__doc__, "pursuit")
    parser.add_argument(
        "--only", type=parse_only, default={}, help="m=16384,d=768,k=40 or data=tiny: parts of the grid"
    )
    parser.add_argument("--pursuit", choices=("mp", "mp_refit", "omp"), default="mp")
    parser.add_argument("--memory", type=parse_bytes, help="the most that Gram rows may take: 8G")
    parser.add_argument("--rows", type=int, help="activations; default 1024")
    parser.add_argument("--repeats", type=int, help="default 5")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(alone(arguments.child)))
        return
    results = results_for(arguments, "pursuit")
    repeats = arguments.repeats or (3 if arguments.quick else 5)
    for configuration in configurations(arguments.only, arguments.quick):
        rows = arguments.rows or (256 if arguments.quick else 1024)
        key = configuration | {"pursuit": arguments.pursuit, "rows": rows, "memory": arguments.memory}
        if results.find(key) is None:
            print(" ".join(f"{name}={value}" for name, value in key.items()), flush=True)
            results.add(key, measure(key, repeats) | {"repeats": repeats})
            gc.collect()
            report(results)
    print(report(results))


if __name__ == "__main__":
    main()
