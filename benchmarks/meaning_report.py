"""The tables of the benchmark of meaning."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from common import number, paragraph, table
from meaning_methods import METHODS
from meaning_prompts import ROWS, TOKENS
from meaning_scores import paired
from meaning_text import ANSWER, BEFORE

Row = dict[str, Any]
TITLES = {
    "neurons": "the activation's own coordinates",
    "whitened": "whitened coordinates",
    "random": "random activations",
    "random_refined": "random activations, refined",
    "best": "itda `best`",
    "recipe_2": "itda `best`, recipe 2",
    "exemplars": "exemplar partitioning",
    "kmeans": "spherical k-means",
    "topk": "TopK SAE",
    "batchtopk": "BatchTopK SAE",
    "matryoshka": "Matryoshka SAE",
    "topk_10x": "TopK SAE, 10 times as long",
    "batchtopk_10x": "BatchTopK SAE, 10 times as long",
    "matryoshka_10x": "Matryoshka SAE, 10 times as long",
    "own_topk": "TopK SAE, our short script",
    "own_topk_10x": "TopK SAE, our short script, 10 times",
    "difference of means": "difference of the classes' means",
}
READ = {
    "code": "our pursuit",
    "similarity": "cosines",
    "largest": "k largest cosines",
    "features": "itda `features`",
    "one-hot": "nearest atom, one-hot",
    "latents": "its own encoder",
    "dense": "chosen coordinates",
    "all": "all, logistic regression",
    "with labels": "mean difference",
}
ORDER = [
    ("neurons", "all"),
    ("difference of means", "with labels"),
    ("neurons", "dense"),
    ("whitened", "dense"),
    *METHODS,
]
SIZES = ("1", "5", "16")


def title(key: Row) -> list[str]:
    """The first two cells of a row."""
    return [TITLES.get(key["dictionary"]) or key["dictionary"], READ.get(key["readout"]) or key["readout"]]


def report(rows: list[Row]) -> list[str]:
    """Paragraphs and tables, part by part."""
    parts = [paragraph(ABOUT)]
    for part, tables in PARTS.items():
        mine = [row for row in rows if row["key"]["part"] == part]
        for layer, m in sorted({(row["key"]["layer"], row["key"]["m"]) for row in mine}):
            here = [row for row in mine if (row["key"]["layer"], row["key"]["m"]) == (layer, m)]
            parts += [f"## {NAMES[part]}: layer {layer}, {m:,} atoms", *tables(here)]
    return parts


ABOUT = """SmolLM2-135M-Instruct with 4-bit weights (d 576), k 20. Dictionaries are of 40,000 tokens of WikiText-2's
validation split, massive activations (over 10 medians) left out; all of them have the same activations. Prompts and
answers are read with products in bfloat16, and no token of the beginning before them."""


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows as the tables have them."""
    known = {pair: place for place, pair in enumerate(ORDER)}

    def place(row: Row) -> tuple[int, str]:
        name = row["key"]["dictionary"], row["key"]["readout"]
        return known.get(name, len(known)), str(name)

    return sorted(rows, key=place)


def methods(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one method together: those of its seeds."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in in_order(rows):
        found.setdefault((row["key"]["dictionary"], row["key"]["readout"]), []).append(row)
    return list(found.values())


def probes(rows: list[Row]) -> list[str]:
    """Means over sets of prompts, and differences."""
    groups = methods(rows)
    sets = sorted(set.intersection(*(set(row["sets"]) for group in groups for row in group)))
    values = {_name(group): _areas(group, sets) for group in groups}
    first = [group for group in groups if group[0]["key"]["readout"] != "all"]
    body = []
    for group in groups:
        mean = values[_name(group)].mean(axis=0)
        cells = ["-", "-", number(mean[0])] if group not in first else [number(each) for each in mean]
        body.append([*title(group[0]["key"]), *cells])
    seeds = max(len(group) for group in groups)
    about = f"""Test AUC, mean over {len(sets)} of the 113 sets of sae-probes, of probes on 1, 5 or 16 features. The
    choice of features, the split and the penalty are those of its code; {ROWS} rows a set, 300 of them to train on,
    and the last {TOKENS} tokens of a prompt; {seeds} seed(s). All coordinates: in the last column."""
    parts = [paragraph(about), table(["atoms", "read by", *SIZES], body)]
    for other in (("topk", "latents"), ("random", "")):
        body = []
        for group in first:
            against = other if other[1] else ("random", group[0]["key"]["readout"])
            if against in values and _name(group) != against:
                both = values[_name(group)], values[against]
                body.append([*title(group[0]["key"]), *(_over(*(v[:, at] for v in both)) for at in range(3))])
        what = "the TopK SAE of equal time, by its own encoder" if other[1] else "random activations, read the same way"
        if body:
            parts += [f"Less {what} (± standard error over sets):", table(["atoms", "read by", *SIZES], body)]
    return parts


def _name(group: list[Row]) -> tuple[str, str]:
    return group[0]["key"]["dictionary"], group[0]["key"]["readout"]


def _areas(group: list[Row], sets: Sequence[str]) -> np.ndarray:
    """Areas [sets, sizes], mean over seeds."""
    width = 1 if group[0]["key"]["readout"] == "all" else len(SIZES)
    return np.mean([[row["sets"][name][:width] for name in sets] for row in group], axis=0)


def _over(one: np.ndarray, other: np.ndarray) -> str:
    mean, error = paired(one.tolist(), other.tolist())
    return f"{mean:+.3f} ± {error:.3f}"


def axbench(rows: list[Row]) -> list[str]:
    """Means over concepts, and differences."""
    values = {_name(group): np.mean([row["concepts"] for row in group], axis=0) for group in methods(rows)}
    body = []
    for group in methods(rows):
        own = values[_name(group)]
        cells = [number(float(own.mean()))]
        for against in (("topk", "latents"), ("random", group[0]["key"]["readout"])):
            cells.append(_over(own, values[against]) if against in values and against != _name(group) else "-")
        body.append([*title(group[0]["key"]), *cells])
    about = f"""AUROC of one feature for each concept, chosen on the training texts, by its largest value over an
    answer's tokens; mean over the ten concepts of AxBench's folder for this layer, ± standard error over concepts.
    Instructions are cut to their last {BEFORE} tokens, answers to their first {ANSWER}."""
    return [paragraph(about), table(["atoms", "read by", "AUROC", "less TopK", "less random"], body)]


def reconstruction(rows: list[Row]) -> list[str]:
    """Held-out text."""
    cells: dict[str, Callable[[Row], Any]] = {
        "fvu": lambda row: row["fvu"],
        "active": lambda row: row["active"],
        "seconds to make": lambda row: row["seconds"],
        "µs to read a token": lambda row: row["microseconds"],
    }
    body = [
        [*title(group[0]["key"]), *(number(float(np.mean([cell(row) for row in group]))) for cell in cells.values())]
        for group in methods(rows)
    ]
    about = """Fraction of variance unexplained on 12,000 held-out tokens of other documents; features that are not
    zero; processor seconds of one thread of a machine that others used too. A code's time is for a sparse code, all
    others' for dense features."""
    return [paragraph(about), table(["atoms", "read by", *cells], body)]


SHARED = {
    "mean": "mean cosine",
    "above_8": "above .8",
    "above_9": "above .9",
    "labels": "labels",
    "strongest": "strongest feature",
    "token": "its token",
    "difference": "reconstructions",
    "probe_same": "same atom for a probe",
    "probe_cosine": "cosine of the two",
}


def replication(rows: list[Row]) -> list[str]:
    """What two dictionaries share."""
    parts = [paragraph(REPLICATED)]
    for kind, what in (("orders", "Two orders of the same documents"), ("documents", "Disjoint documents")):
        mine = [row for row in rows if row["key"]["kind"] == kind]
        body = [
            [*title(group[0]["key"]), *(_mean([row[name] for row in group]) for name in SHARED)]
            for group in methods(mine)
        ]
        if body:
            pairs = max(len(group) for group in methods(mine))
            parts += [f"{what}, {pairs} pair(s):", table(["atoms", "read by", *SHARED.values()], body)]
    return parts


REPLICATED = """Two dictionaries made alike. Mean cosine of an atom to the nearest of the other dictionary, and shares
above .8 and .9; Jaccard similarity of the activations that name atoms; share of held-out tokens whose strongest
feature in one is the partner of that in the other, and whose label's token is the same; squared difference of the
reconstructions over the variance; and, over up to 40 sets of sae-probes, how often the one feature that is chosen in
one dictionary is the partner of that in the other, and the cosine of the two."""


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(float(np.mean(known))) if known else "-"


NAMES = {
    "probes": "Sparse probing",
    "axbench": "Concepts",
    "reconstruction": "Reconstruction",
    "replication": "Replication",
}
PARTS: dict[str, Callable[[list[Row]], list[str]]] = {
    "probes": probes,
    "axbench": axbench,
    "reconstruction": reconstruction,
    "replication": replication,
}
