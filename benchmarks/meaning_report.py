"""The tables of the benchmark of meaning."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from common import number, paragraph, table
from meaning_methods import METHODS
from meaning_prompts import ROWS, TOKENS
from meaning_scores import paired, ratio
from meaning_text import ANSWER, BEFORE

Row = dict[str, Any]
TITLES = {
    "neurons": "the activation's own coordinates",
    "whitened": "whitened coordinates",
    "random": "random activations",
    "random_refined": "random activations, refined",
    "best": "itda `best`, recipe 1",
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
    "lasting": "lasting similarity",
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
        for layer, m, twice in sorted({_bench(row) for row in mine}):
            here = [row for row in mine if _bench(row) == (layer, m, twice)]
            of = ", of twice the documents" if twice else ""
            parts += [f"## {NAMES[part]}: layer {layer}, {m:,} atoms{of}", *tables(here)]
    return parts


def _bench(row: Row) -> tuple[int, int, bool]:
    """Layer, atoms, and whether the dictionary is of twice as many documents."""
    key = row["key"]
    return key["layer"], key["m"], "documents" in key


ABOUT = """SmolLM2-135M-Instruct with 4-bit weights (d 576), k 20. Dictionaries are of 40,000 tokens of WikiText-2's
validation split, or of 80,000 where twice the documents are said, massive activations (over 10 medians) left out; all
of them have the same activations. Prompts and answers are read with products in bfloat16, and no token of the beginning
before them."""


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
    sets = shared_sets(rows)
    values = {_name(group): areas_of(group, sets) for group in groups}
    first = [group for group in groups if group[0]["key"]["readout"] != "all"]
    body = []
    for group in groups:
        mean = np.mean([area.mean(axis=0) for area in values[_name(group)].values()], axis=0)
        cells = ["-", "-", number(mean[0])] if group not in first else [number(each) for each in mean]
        body.append([*title(group[0]["key"]), *cells])
    about = f"""Test AUC, mean over {len(sets)} of the 113 sets of sae-probes, of probes on 1, 5 or 16 features. The
    choice of features, the split and the penalty are those of its code; {ROWS} rows a set, 300 of them to train on,
    and the last {TOKENS} tokens of a prompt; mean over the seeds that were run. All coordinates: in the last column."""
    parts = [paragraph(about), table(["atoms", "read by", *SIZES], body)]
    for other, what in AGAINST:
        body = []
        for group in first:
            against = other or ("random", group[0]["key"]["readout"])
            if against in values and _name(group) != against:
                cells = over(values[_name(group)], values[against])
                body.append([*title(group[0]["key"]), *cells])
        if body:
            parts += [f"Less {what} (± standard error over sets):", table(["atoms", "read by", *SIZES], body)]
    return [*parts, *by_seed(first, values)]


AGAINST = [
    (("topk", "latents"), "the TopK SAE of equal time, by its own encoder"),
    (("topk_10x", "latents"), "the TopK SAE of ten times the time, by its own encoder"),
    (("neurons", "dense"), "the activation's own coordinates"),
    (None, "random activations, read the same way"),
]
"""What the methods are compared with; None: random activations with the readout of each."""


def by_seed(groups: list[list[Row]], values: dict[tuple[str, str], dict[int, np.ndarray]]) -> list[str]:
    """The methods that were run with several seeds: how much a seed moves them."""
    body = []
    for group in groups:
        areas = [area.mean(axis=0) for area in values[_name(group)].values()]
        if len(areas) > 1:
            spread = np.std(areas, axis=0, ddof=1)
            cells = [f"{mean:.3f} ± {each:.3f}" for mean, each in zip(np.mean(areas, axis=0), spread, strict=True)]
            body.append([*title(group[0]["key"]), len(areas), *cells])
    header = ["atoms", "read by", "seeds", *SIZES]
    return ["Mean and standard deviation over seeds:", table(header, body)] if body else []


def shared_sets(rows: list[Row]) -> list[str]:
    """The sets of prompts that all rows have."""
    return sorted(set.intersection(*(set(row["sets"]) for row in rows)))


def _name(group: list[Row]) -> tuple[str, str]:
    return group[0]["key"]["dictionary"], group[0]["key"]["readout"]


def areas_of(group: list[Row], sets: Sequence[str]) -> dict[int, np.ndarray]:
    """Areas [sets, sizes] by seed."""
    width = 1 if group[0]["key"]["readout"] == "all" else len(SIZES)
    return {row["key"]["seed"]: np.array([row["sets"][name][:width] for name in sets]) for row in group}


def over(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> list[str]:
    """The difference of two methods at each size, over the seeds that both have; the error is over sets."""
    seeds = sorted(set(one) & set(other))
    means = [np.mean([areas[seed] for seed in seeds], axis=0) for areas in (one, other)]
    return [_over(*(mean[:, at] for mean in means)) for at in range(len(SIZES))]


def _over(one: np.ndarray, other: np.ndarray) -> str:
    mean, error = paired(one.tolist(), other.tolist())
    return f"{mean:+.3f} ± {error:.3f}"


def axbench(rows: list[Row]) -> list[str]:
    """Means over concepts, and differences."""
    about = f"""AUROC of one feature for each concept, chosen on the training texts, by its largest value over an
    answer's tokens; mean over the concepts of three of AxBench's folders, ± standard error over concepts. Instructions
    are cut to their last {BEFORE} tokens, answers to their first {ANSWER}."""
    return [paragraph(about), table(["atoms", "read by", "AUROC", "less TopK", "less random"], axbench_cells(rows))]


def axbench_cells(rows: list[Row]) -> list[list[str]]:
    """A line for each method."""
    values = {_name(group): np.mean([row["concepts"] for row in group], axis=0) for group in methods(rows)}
    body = []
    for group in methods(rows):
        own = values[_name(group)]
        cells = [number(float(own.mean()))]
        for against in (("topk", "latents"), ("random", group[0]["key"]["readout"])):
            cells.append(_over(own, values[against]) if against in values and against != _name(group) else "-")
        body.append([*title(group[0]["key"]), *cells])
    return body


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


def ce(rows: list[Row]) -> list[str]:
    """What the model predicts with reconstructions in the place of activations."""
    against = next((row for row in rows if _name([row]) == ("random_refined", "code")), None)
    body = []
    for group in methods(rows):
        row = group[0]
        score, kl = (ratio(*(row[name] for name in pair)) for pair in (CE_SCORE, CE_KL))
        cells = [f"{mean:.4f} ± {error:.4f}" for mean, error in (score, kl)]
        if against is None or against is row:
            cells.append("-")
        else:
            mean, error = ratio(np.subtract(row["gained"], against["gained"]).tolist(), row["lost"])
            cells.append(f"{mean:+.4f} ± {error:.4f}")
        body.append([*title(row["key"]), *cells])
    predicted, documents = int(sum(rows[0]["predicted"])), len(rows[0]["predicted"])
    about = f"""CE loss score, (CE with zeros - CE with reconstructions) / (CE with zeros - CE of the model), and KL
    in nats a token, on {predicted:,} predictions in the first window of each of {documents} held-out documents; massive
    activations stay what they are. ± standard errors over documents, by leaving one out."""
    header = ["atoms", "read by", "CE loss score", "KL", "score less random, refined"]
    return [paragraph(about), table(header, body)]


CE_SCORE, CE_KL = ("gained", "lost"), ("kl", "predicted")


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
            [*title(group[0]["key"]), *(_mean([row[name] for row in group]) for name in SHARED), len(group)]
            for group in methods(mine)
        ]
        if body:
            parts += [f"{what}:", table(["atoms", "read by", *SHARED.values(), "pairs"], body)]
    return parts


REPLICATED = """Two dictionaries made alike. Mean cosine of an atom to the nearest of the other dictionary, and shares
above .8 and .9; Jaccard similarity of the activations that name atoms; share of held-out tokens whose strongest
feature in one is the partner of that in the other, and whose label's token is the same; squared difference of the
reconstructions over the variance; and, over up to 40 sets of sae-probes, how often the one feature that is chosen in
one dictionary is the partner of that in the other, and the cosine of the two. Mean ± standard deviation over pairs,
where there are several; the first dictionary is the same in all."""


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) > 1:
        return f"{np.mean(known):.3f} ± {np.std(known, ddof=1):.3f}"
    return number(known[0]) if known else "-"


NAMES = {
    "probes": "Sparse probing",
    "axbench": "Concepts",
    "reconstruction": "Reconstruction",
    "ce": "Predictions",
    "replication": "Replication",
}
PARTS: dict[str, Callable[[list[Row]], list[str]]] = {
    "probes": probes,
    "axbench": axbench,
    "reconstruction": reconstruction,
    "ce": ce,
    "replication": replication,
}
