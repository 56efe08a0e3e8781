"""Tables of results/versus_sae.jsonl, and the curves of quality by training time and tokens."""

import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, number, paragraph, table
from versus_cells import BEST_PASSES, METHODS, Cell, Log, built, measured, prepare, sae
from versus_data import Data, extract, language_model

from itda.core.bootstrap import interval

Row = dict[str, Any]
PLACE = ("corpus", "layer", "size", "k", "order")
NAMES = {"best_0.9": "best", "best": "best, free"}
"""As shown: mode best holds the fidelity of its atoms at 0.9; the other does not hold it."""
SHOWN = ("best_0.9", "best", "paper", "topk", "batchtopk", "topk_pursuit", "topk_10x")
PUBLISHED = {
    "EleutherAI/pythia-160m-deduped": {
        4096: {20: (0.936, 0.740), 40: (0.959, 0.793), 80: (0.974, 0.842)},
        16384: {20: (0.956, 0.780), 40: (0.972, 0.828), 80: (0.982, 0.869)},
        65536: {20: (0.966, 0.802), 40: (0.980, 0.851), 80: (0.987, 0.886)},
    },
    "google/gemma-2-2b": {
        4096: {20: (0.947, 0.555), 40: (0.967, 0.613), 80: (0.980, 0.668)},
        16384: {20: (0.970, 0.621), 40: (0.982, 0.680), 80: (0.989, 0.734)},
        65536: {20: (0.977, 0.652), 40: (0.987, 0.715), 80: (0.992, 0.773)},
    },
}
"""SAEBench's TopK SAEs by size and k: CE loss score and explained variance, in its own definition (`legacy`).

500M tokens, layers 8 and 12, measured on OpenWebText. From results.json of the ITDA authors' repository, for
SAEBench's suite of 01/2025.
"""


def report(model: str, tokens: int, heldout: int, only: dict[str, set[str]], methods: Sequence[str], out: Path) -> str:
    """All tables, also saved to a file."""
    kept: dict[tuple, dict[str, Row]] = {}
    for row in Log().rows.values():
        key = row["key"]
        same = (key["model"], key["tokens"], key["heldout"]) == (model, tokens, heldout)
        if not same or key.get("passes", BEST_PASSES) != BEST_PASSES or key["method"] not in methods:
            continue
        if all(str(key[field]) in values for field, values in only.items()):
            kept.setdefault(tuple(key[name] for name in PLACE), {})[key["method"]] = row
    if not kept:
        raise SystemExit(f"no results for {model}, {tokens:,} tokens: run it without --report first")
    rows = [row for cell in kept.values() for row in cell.values()]
    parts = [_about(model, tokens, rows), "### Summary", *_summary(kept)]
    for corpus, size in sorted({(cell[0], cell[2]) for cell in kept}):
        parts += [f"### {corpus}, {size:,} atoms", _means(kept, corpus, size)]
    parts += [f"### Cells in which {NAMES['best_0.9']} is worse", *_losses(kept, "best_0.9")]
    parts += [f"### Cells in which {NAMES['best']} is worse", *_losses(kept, "best")]
    if model in PUBLISHED:
        parts += ["### Published: SAEBench's TopK, 500M tokens", _published(model)]
    text = "\n\n".join(parts) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return text


def _about(model: str, tokens: int, rows: list[Row]) -> str:
    dates = sorted({row["date"] for row in rows})
    machines = sorted({f"{row['machine']['cpu']}, {row['machine']['threads']} thread" for row in rows})
    commits = sorted({row["commit"] for row in rows})
    scored = sorted({row["scored_tokens"] for row in rows})
    return paragraph(
        f"`{model}`, {tokens:,} tokens to train on, {' or '.join(f'{n:,}' for n in scored)} held out. Means over "
        f"layers and orders of documents (n of them); s: processor seconds of training; tok/s: held-out tokens "
        f"encoded per second. {'; '.join(machines)}; {dates[0]} to {dates[-1]}; {', '.join(commits)}."
    )


def _aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return table(padded[0], padded[1:])


def _summary(kept: dict[tuple, dict[str, Row]]) -> list[str]:
    """Cells won; and both measures, means over the layers of one order of documents, where all have run."""
    wins = []
    for method in (each for each in METHODS if each not in NAMES):
        row = [method]
        for ours in NAMES:
            pairs = [(found[ours], found[method]) for found in kept.values() if ours in found and method in found]
            lower = sum(one["fvu"] < other["fvu"] for one, other in pairs)
            higher = sum(one["ce_score"] > other["ce_score"] for one, other in pairs)
            ratio = statistics.median(one["fvu"] / other["fvu"] for one, other in pairs) if pairs else float("nan")
            row += [str(len(pairs)), str(lower), str(higher), f"{ratio:.2f}"] if ours == "best_0.9" else []
            row += [str(lower), str(higher)] if ours == "best" else []
        if row[1] != "0":
            wins.append(row)
    header = ["than", "cells", "best: lower fvu", "higher CE score", "fvu ratio, median"]
    header += ["best, free: lower fvu", "higher CE score"]
    order = min(place[4] for place in kept)
    layers = {place[1] for place in kept}
    parts = [f"Cells: {len(kept)}. In how many of them ours wins:", _aligned(header, wins)]
    for measure, title in (("fvu", "Held-out fvu"), ("ce_score", "CE loss score")):
        body = []
        for corpus, size, k in sorted({(place[0], place[2], place[3]) for place in kept}):
            here = [kept.get((corpus, layer, size, k, order), {}) for layer in layers]
            means = [
                f"{statistics.mean(found[method][measure] for found in here):.3f}"
                if all(method in found for found in here)
                else "-"
                for method in SHOWN
            ]
            body.append([f"{corpus}, {size:,}, {k}", *means])
        parts += [f"{title}, order {order} of the documents:"]
        parts += [_aligned(["corpus, atoms, k", *(NAMES.get(method, method) for method in SHOWN)], body)]
    return parts


def _means(kept: dict[tuple, dict[str, Row]], corpus: str, size: int) -> str:
    body = []
    for k in sorted({cell[3] for cell in kept}):
        for method in METHODS:
            rows = [
                found[method]
                for (name, _, atoms, picks, _), found in kept.items()
                if (name, atoms, picks) == (corpus, size, k) and method in found
            ]
            if not rows:
                continue
            mean = {
                name: statistics.mean(row[name] for row in rows)
                for name in ("fvu", "ce_score", "l0", "seconds", "encode_per_second", "unused")
            }
            figures = [f"{mean['fvu']:.4f}", f"{mean['ce_score']:.4f}", f"{mean['l0']:.1f}", number(mean["seconds"])]
            figures += [f"{mean['encode_per_second']:,.0f}", f"{mean['unused']:.0f}", str(len(rows))]
            body.append([str(k), NAMES.get(method, method), *figures])
    return _aligned(["k", "method", "fvu", "CE score", "L0", "s", "tok/s", "unused", "n"], body)


def _losses(kept: dict[tuple, dict[str, Row]], ours: str) -> list[str]:
    """How often ours is worse than each method, and each such cell, with the interval of the paired difference."""
    counts, cells = [], []
    for method in METHODS:
        pairs = [
            (place, found[ours], found[method])
            for place, found in sorted(kept.items())
            if ours in found and method in found and method not in NAMES
        ]
        if not pairs:
            continue
        lost = {"fvu": 0, "ce_score": 0}
        for place, best, other in pairs:
            for measure, sign in (("fvu", 1), ("ce_score", -1)):
                if sign * best[measure] <= sign * other[measure]:
                    continue
                lost[measure] += 1
                both, difference = f"{best[measure]:.4f} {other[measure]:.4f}", _difference(best, other, measure)
                cells.append([" ".join(map(str, place)), method, "fvu" if sign > 0 else "CE", both, difference])
        gain = statistics.median(best["fvu"] / other["fvu"] for _, best, other in pairs)
        ce = statistics.median((1 - best["ce_score"]) / (1 - other["ce_score"]) for _, best, other in pairs)
        counts.append([method, str(len(pairs)), str(lost["fvu"]), str(lost["ce_score"]), f"{gain:.3f}", f"{ce:.3f}"])
    header = ["than", "cells", "fvu", "CE score", "fvu ratio", "CE loss ratio"]
    note = f"Ratios: {NAMES[ours]} over the method, medians of cells; CE loss is 1 - CE score."
    header_cells = ["corpus layer atoms k order", "than", "in", "ours, it", "95% of diff."]
    return [_aligned(header, counts), paragraph(note), _aligned(header_cells, cells) if cells else "None."]


def _difference(best: Row, other: Row, measure: str) -> str:
    """Best less the other, resampling documents."""
    name = "fvu" if measure == "fvu" else "ce"
    ours, theirs = np.array(best["by_document"][name]), np.array(other["by_document"][name])
    sums = np.concatenate([ours[:, :1] - theirs[:, :1], ours[:, 1:]], axis=1)
    found = interval(sums)
    return f"{found.low:+.3f} {found.high:+.3f}" if len(sums) > 1 else "-"


def _published(model: str) -> str:
    body = [
        [f"{size:,}", str(k), f"{1 - explained:.3f}", f"{ce:.3f}"]
        for size, by_k in PUBLISHED[model].items()
        for k, (ce, explained) in by_k.items()
    ]
    return _aligned(["latents", "k", "1 - EV (legacy)", "CE score"], body)


# Curves

CURVES = RESULTS / "versus_curves.jsonl"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
PASSES = (0, 2, 8)
TOKENS = (25_000, 100_000)
BUDGETS = tuple(2.5 * 2**i for i in range(6))


def _point(cell: Cell, method: str, at: dict[str, Any]) -> str:
    """Measure one point of a curve and keep it."""
    x = torch.load(cell.data.train_file(cell.order, cell.layer))
    if method == "best":
        settings = {"k": cell.k, "atoms": cell.size, "pursuit": "mp_refit", "passes": at["passes"]}
        model, costs = built(x[: at["first"]], **settings)
    else:
        model, costs = sae(method, x, cell, at["budget"])
    row = costs | measured(cell, model)
    Log(CURVES).add((_curve_key(cell, method, at), row))
    return f"{cell.size} {method} {at} fvu {row['fvu']:.4f} ce {row['ce_score']:.4f} {row['seconds']:.1f} s"


def _curve_key(cell: Cell, method: str, at: dict[str, Any]) -> Row:
    key = cell.key("") | {"method": method}
    return key | at


def curves(preset: Any, cache: Path, workers: int) -> None:
    """One setting: `best` by passes and tokens, TopK by seconds; then both plots."""
    name, source = preset.corpora[0]
    data = Data(preset.model, name, source, str(cache), max(TOKENS), preset.heldout)
    layer, k = preset.layers[-1], preset.ks[len(preset.ks) // 2]
    cells = [Cell(data, layer, preset.development, size, k, 0) for size in preset.sizes[:2]]
    points = [
        (cell, "best", {"passes": passes, "first": first}) for cell in cells for first in TOKENS for passes in PASSES
    ]
    points += [(cell, "topk", {"budget": budget}) for budget in BUDGETS for cell in cells]
    log = Log(CURVES)
    todo = [point for point in points if log.find(_curve_key(*point)) is None]
    if todo:
        extract(data, [0], [layer])
        language_model.cache_clear()
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        with ProcessPoolExecutor(workers, get_context("spawn"), prepare) as pool:
            for done in as_completed([pool.submit(_point, *point) for point in todo]):
                print(done.result(), flush=True)
        log = Log(CURVES)
    rows = [(point, row) for point in points if (row := log.find(_curve_key(*point))) is not None]
    IMAGES.mkdir(parents=True, exist_ok=True)
    for x, label in (("seconds", "processor seconds of training"), ("seen", "activations gone through in training")):
        _plot(cells, rows, x, label, IMAGES / f"versus_sae_{'seconds' if x == 'seconds' else 'tokens'}.png")


def _plot(cells: list[Cell], rows: list[tuple[Any, Row]], x: str, label: str, out: Path) -> None:
    import matplotlib as mpl  # pyright: ignore[reportMissingImports]

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]

    figure, axes = plt.subplots(2, len(cells), figsize=(4.5 * len(cells), 6.5), sharex=True, squeeze=False)
    colours = plt.get_cmap("Blues")(np.linspace(0.4, 1, len(TOKENS)))
    for column, cell in enumerate(cells):
        here = [(at, method, row) for (other, method, at), row in rows if other == cell]
        for line, (measure, title) in enumerate((("fvu", "held-out fvu"), ("ce_score", "held-out CE loss score"))):
            plot = axes[line][column]
            for first, colour in zip(TOKENS, colours, strict=True):
                mine = sorted((row[x], row[measure]) for at, m, row in here if m == "best" and at["first"] == first)
                if mine:
                    name = f"itda, {first // 1000}k tokens, {PASSES[0]} to {PASSES[-1]} passes"
                    plot.plot(*zip(*mine, strict=True), "o-", color=colour, label=name, markersize=4)
            mine = sorted((row[x], row[measure]) for _, method, row in here if method == "topk")
            if mine:
                plot.plot(*zip(*mine, strict=True), "s--", color="tab:orange", label="TopK SAE", markersize=4)
            plot.set_xscale("log")
            plot.grid(alpha=0.3)
            if line == 0:
                plot.set_title(f"{cell.data.corpus}, layer {cell.layer}, {cell.size:,} atoms, k {cell.k}", fontsize=10)
            else:
                plot.set_xlabel(label)
            if column == 0:
                plot.set_ylabel(title)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=130)
    print(out)
