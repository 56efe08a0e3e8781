"""The tables of benchmarks/gpu.py: targets first, then a table for each part. Every row names its card and its day."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gpu_commands
from common import Results, gib, number, paragraph, table

Row = dict[str, Any]
Rows = Sequence[Row]
Tasks = Mapping[str, Sequence[dict[str, Any]]]

DONE, FAILED, CUT_OFF = "done", "failed", "cut off"


class Target(NamedTuple):
    """What a row is to show."""

    part: str
    of: dict[str, Any]
    """The task: these fields are in its key."""
    figure: str
    wanted: str
    value: Callable[[Row, Rows], float | str | None]
    """From the row, and all of the same card; None where it was not measured."""
    met: Callable[[Any], bool]


def _get(name: str) -> Callable[[Row, Rows], Any]:
    return lambda row, _: row.get(name)


def _at_most(most: float) -> Callable[[float], bool]:
    return lambda value: value <= most


def _at_least(least: float) -> Callable[[float], bool]:
    return lambda value: value >= least


def _near_one(value: float) -> bool:
    return 0.75 <= value <= 1.25


def _exact(value: str) -> bool:
    return value.startswith("every bit")


def _by_random(row: Row, rows: Rows) -> float | None:
    """Milliseconds by those of the same task without a mean."""
    key = {**row["key"], "data": "random"}
    other = next((other for other in rows if other["key"] == key), {})
    ours, theirs = row.get("ours_ms"), other.get("ours_ms")
    return ours / theirs if ours and theirs else None


def _by_textbook(which: str) -> Callable[[Row, Rows], float | None]:
    def ratio(row: Row, _: Rows) -> float | None:
        theirs = row.get(which)
        return row["tokens_per_s"] / theirs if theirs and "tokens_per_s" in row else None

    return ratio


def _whole_run(row: Row, _: Rows) -> float | None:
    """Seconds of a run that went through all of its tokens."""
    return row.get("seconds") if row["state"] == DONE else None


def _streamed(row: Row, _: Rows) -> str | None:
    sites = row.get("sites")
    return None if not sites else "yes" if all(site["streamed is the same"] for site in sites) else "NO"


def _planned(row: Row) -> dict[str, float | None]:
    """Seconds of all blocks and growth, measured and as `itda plan` says."""
    streamed = row.get("rows", {}).get("streamed", {})
    said = streamed.get("said")
    if not said:
        return {"measured": None, "planned": None}
    blocks = streamed["blocks"]
    measured = sum(each["waited"] + each["ran"] for each in blocks) + sum(streamed["growth"].values())
    planned = max(said["read"], said["ran"]) * len(blocks) + sum(said["growth"].values())
    return {"measured": measured, "planned": planned}


def _plan_by_measured(row: Row, _: Rows) -> float | None:
    found = _planned(row)
    return found["planned"] / found["measured"] if found["planned"] and found["measured"] else None


def _as_in_memory(row: Row, _: Rows) -> str | None:
    """Whether the dictionaries of the streamed model are those of the model in memory; None if that did not run."""
    streamed, memory = (row.get("rows", {}).get(part, {}).get("sha256") for part in ("streamed", "memory"))
    return None if not streamed or not memory else "every bit" if streamed == memory else "NOT TO THE BIT"


SIZE, EQUAL = "textbook_size_tokens_per_s", "textbook_tokens_per_s"
FULL = {"k": 40, "rows": 4096}
AT_16K = {"atoms": 16_384, **FULL}
NARROW, WIDE = {"d": 768, **AT_16K}, {"d": 4096, **AT_16K}
RANDOM, COHERENT = {"data": "random"}, {"data": "mean cosine .8"}
LARGE = {"d": 2304, "atoms": 65_536, **FULL}

TARGETS = [
    Target("encode", NARROW | RANDOM, "ms", "at most 6", _get("ours_ms"), _at_most(6)),
    Target("encode", NARROW | RANDOM, "times as fast as the textbook", "15", _get("by_textbook"), _at_least(15)),
    Target("encode", WIDE | RANDOM, "ms", "at most 22", _get("ours_ms"), _at_most(22)),
    Target("encode", WIDE | RANDOM, "ours / one product", "at most 2", _get("by_product"), _at_most(2)),
    Target("encode", WIDE | RANDOM, "times as fast as the textbook", "20", _get("by_textbook"), _at_least(20)),
    Target("encode", WIDE | COHERENT, "ms / ms of random", "at most 1.3", _by_random, _at_most(1.3)),
    Target("encode", NARROW | COHERENT, "ms / ms of random", "at most 1.3", _by_random, _at_most(1.3)),
    Target("encode", LARGE, "ms", "at most 48", _get("ours_ms"), _at_most(48)),
    Target("encode", LARGE, "ours / one product", "at most 2", _get("by_product"), _at_most(2)),
    Target("encode", {}, "as the plain pursuit on the CPU", "every bit", _get("agreement"), _exact),
    *(
        Target("train", of, f"tokens/s / the textbook's, {to}", wanted, _by_textbook(which), _at_least(float(wanted)))
        for of, wanted in (({"d": 4096, "k": 40, "pursuit": "mp"}, "3"), ({"d": 768, "k": 40, "pursuit": "mp"}, "8"))
        for to, which in (("to equal size", SIZE), ("over equal tokens", EQUAL))
    ),
    Target("train", {}, "atoms as on the CPU", "every bit", _get("bits"), _exact),
    Target("model", {"shape": "124M"}, "seconds for 12 layers", "at most 300", _whole_run, _at_most(300)),
    Target("streaming", {"shape": "405B"}, "itda plan / measured", ".75 to 1.25", _plan_by_measured, _near_one),
    Target("streaming", {}, "as the model in memory", "every bit", _as_in_memory, _exact),
    Target("commands", {}, "streamed is as in memory", "yes", _streamed, lambda value: value == "yes"),
]


def report(results: Results, wanted: Tasks, card: str) -> list[str]:
    """All tables: what was measured on any card, and on this one also what was not."""
    rows = [row for row in results.rows if row["key"]["part"] in wanted]
    known = [row["key"] for row in rows]
    for part, tasks in wanted.items():
        missing = [{"part": part, "card": card, **task} for task in tasks]
        rows += [{"key": key, "state": "not run yet"} for key in missing if key not in known]
    parts = [paragraph(ABOUT), target_table(rows)]
    for part in wanted:
        some = [row for row in rows if row["key"]["part"] == part]
        if some:
            title, about, header, cells = TABLES[part]
            body = [[*_where(row), *line, row["state"]] for row in some for line in cells(row)]
            parts += [f"## {title}", paragraph(about), table(["card", "date", *header.split(" | "), "state"], body)]
            parts += [text for row in some for text in row.get("tables", [])]
    return parts


ABOUT = (
    "A target is met, or it is not, or what it needs was not measured (a dash). Every row is of the card and the day "
    "that stand in it; all float32, without TF32 unless said."
)


def target_table(rows: Rows) -> str:
    """Each target for each row that it is of."""
    lines = []
    for target in TARGETS:
        for row in rows:
            key = row["key"]
            if key["part"] != target.part or any(key.get(name) != value for name, value in target.of.items()):
                continue
            value = target.value(row, [other for other in rows if other["key"]["card"] == key["card"]])
            shown = value if isinstance(value, str) else number(value)
            met = "-" if value is None else "yes" if target.met(value) else "NO"
            lines.append([*_where(row), target.part, _task(key), target.figure, shown, target.wanted, met])
    return table(["card", "date", "part", "task", "figure", "measured", "target", "met"], lines)


def _where(row: Row) -> list[str]:
    return [row["key"]["card"], row.get("date", "-")]


def _task(key: dict[str, Any]) -> str:
    """What tells a task from the others of its part."""
    names = ("data", "shape", "blocks", "what", "model", "pursuit", "d", "atoms", "tokens", "threshold")
    shown = [f"{key[name]:,}" if isinstance(key[name], int) else str(key[name]) for name in names if name in key]
    return " ".join(shown)


def _encode(row: Row) -> list[list[str]]:
    names = ("ours_ms", "product_ms", "by_product", "textbook_ms", "by_textbook", "fast_ms", "gram_ms", "first_ms")
    key = row["key"]
    found = [number(row.get(name)) for name in names]
    method = str(row.get("method", "-")).removeprefix("pursuit: ")
    where = [key["data"], f"{key['d']:,}", f"{key['atoms']:,}", f"{key['rows']:,}", str(key["k"])]
    return [[*where, *found, gib(row.get("peak")), row.get("agreement", "-"), method]]


def _train(row: Row) -> list[list[str]]:
    key = row["key"]
    rates = [row.get(name) for name in ("tokens_per_s", SIZE, EQUAL)]
    ratios = [_by_textbook(which)(row, []) for which in (SIZE, EQUAL)]
    sizes = [_count(row.get(name)) for name in ("atoms", "textbook_atoms", "textbook_size_tokens")]
    where = [key["data"], f"{key['d']:,}", str(key["k"]), key["pursuit"], str(key["threshold"]), f"{key['tokens']:,}"]
    found = [number(row.get("first_s")), *sizes, *map(_count, rates), *map(number, ratios)]
    found.append(_count(row.get("cpu_tokens_per_s")))
    return [[*where, *found, gib(row.get("peak")), row.get("bits", "-"), "; ".join(row.get("log", [])) or "-"]]


def _model(row: Row) -> list[list[str]]:
    key, sizes = row["key"], row.get("atoms_found")
    atoms = "-" if not sizes else f"{min(sizes):,} to {max(sizes):,}"
    found = [_count(row.get(name)) for name in ("layers", "d_model", "tokens_done")]
    rates = [number(row.get("seconds")), _count(row.get("tokens_per_s")), _count(row.get("model_tokens_per_s"))]
    at = row.get("at", "") if row["state"] != DONE else ""
    return [[key["shape"], key["mode"], *found, f"{key['tokens']:,}", atoms, *rates, gib(row.get("peak")), at or "-"]]


def _profile(row: Row) -> list[list[str]]:
    parts = "; ".join(f"{name} {number(ms)}" for name, ms in row.get("parts_ms", {}).items())
    kernels = "; ".join(f"`{name}` {number(ms)} ({calls:,})" for name, ms, calls in row.get("kernels", []))
    times = [number(row.get(name)) for name in ("wall_ms", "busy_ms", "host_ms")]
    return [[_task(row["key"]), *times, parts or "-", kernels or row.get("no_kernels", "-")]]


def _lens(row: Row) -> list[list[str]]:
    times = [number(row.get(name)) for name in ("ours_ms", "lens_ms", "by_lens")]
    return [[_task(row["key"]), row.get("side", "-"), *times, row.get("obstacle") or "-"]]


def _streaming(row: Row) -> list[list[str]]:
    key = row["key"]
    times = [number(_planned(row)[name]) for name in ("measured", "planned")]
    streamed = row.get("rows", {}).get("streamed", {})
    size = [key["shape"], str(key["blocks"]), f"{key['tokens']:,}"]
    return [[*size, *times, gib(streamed.get("card")), _as_in_memory(row, []) or "-"]]


def _commands(row: Row) -> list[list[str]]:
    spent = ", ".join(f"{name} {number(seconds)}" for name, seconds in row.get("seconds", {}).items())
    sites = [gpu_commands.cells(site) for site in row.get("sites", [])] or [["-"] * len(gpu_commands.HEADER)]
    return [[*site, spent or "-"] for site in sites]


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


TABLES: dict[str, tuple[str, str, str, Callable[[Row], list[list[str]]]]] = {
    "encode": (
        "Encoding",
        "Random directions, without and with a mean in common; pursuit mp; medians of repetitions in turn, ms. ours: "
        "GpuPursuit with its Gram matrix there already. product: one with all atoms. textbook: a product per step, "
        "dense codes. fast: itda's approximate mode, TF32. Gram: a new GpuPursuit and one activation. first: the "
        "first call, with compiling and the Gram matrix. peak: GiB of the card's memory.",
        "data | d | atoms | rows | k | ours | product | ours / product | textbook | textbook / ours | fast | Gram | "
        "first | peak | as plain on the CPU | method",
        _encode,
    ),
    "train": (
        "Training",
        "Structured activations, centred, or with a mean that makes their mean cosine .8. ours: the trainer over all "
        "tokens, offered 4,096 at a time, after a first pass that compiles. textbook: batches of 2,048 on the same "
        "card, all misses of a batch appended, "
        "until it has as many atoms as ours (equal size), then without appending to the end of the same tokens (equal "
        "tokens). CPU: the trainer on this machine's cores over the first tokens, whose atoms are compared.",
        "data | d | k | pursuit | threshold | tokens | first pass, s | atoms | textbook's atoms | "
        "its tokens to that size | "
        "ours, tokens/s | textbook, equal size | textbook, equal tokens | ours / equal size | ours / equal tokens | "
        "CPU, tokens/s | peak | bits | log",
        _train,
    ),
    "model": (
        "A model of GPT-2 small's shape, every layer at once",
        "Random weights, python-docs, windows of 128; `itda train` in one process, from the first text to the "
        "finished dictionaries in memory. model alone: tokens/s with all layers read and labelled, no dictionary.",
        "shape | mode | layers | d | tokens done | of | atoms | seconds | tokens/s | model alone, tokens/s | "
        "peak | where it was",
        _model,
    ),
    "profile": (
        "Where the time goes",
        "ms. clock: without any marks. kernels: all kernels together, by torch's profiler; host: the clock beyond "
        "that. parts: by marks on the device's clock, waiting for the host included, so that they may add up to more "
        "than the clock.",
        "task | clock | kernels | host | parts | longest kernels (calls)",
        _profile,
    ),
    "streaming": (
        "Streaming blocks of Llama-3.1-405B's shape",
        "By benchmarks/streaming.py: reading, model and growth in seconds, and what `itda plan` says of them. A card "
        "is limited to 24 GiB. Its own tables follow.",
        "shape | blocks | tokens | measured | planned | peak of the card, GiB | as the model in memory",
        _streaming,
    ),
    "commands": (
        "Commands",
        "tiny, python-docs, mode best, k 16, float32. Jaccard: with the labels of the first device. Seconds of whole "
        "commands that run at the same time, start and compiling included.",
        " | ".join([*gpu_commands.HEADER, "seconds"]),
        _commands,
    ),
    "saelens": (
        "SAELens' matching pursuit",
        "It picks the largest positive correlation; without its stops, so that it takes k steps, and with its Gram "
        "matrix, which it makes at every call. ms.",
        "task | side | ours | SAELens | SAELens / ours | obstacle",
        _lens,
    ),
}
TABLES["best"] = ("The same in mode best", *TABLES["model"][1:])
"""Of each part: title, explanation, header, and the cells of a row, of which there may be several."""
