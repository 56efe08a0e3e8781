"""The tables of docs/meaning.md, cut to what a reader takes in: written between marks, from rows that were measured.

What stands between a line `<!-- meaning: PART LAYER -->` and the next `<!-- end -->` is replaced.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import RESULTS, Results, number, table
from meaning_report import CE_KL, CE_SCORE, Row, areas_of, axbench_cells, methods, over, shared_sets, title
from meaning_scores import ratio

DOCS = Path(__file__).parent.parent / "docs" / "meaning.md"
MARK = re.compile(r"(<!-- meaning: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = {
    ("neurons", "all"),
    ("neurons", "dense"),
    ("whitened", "dense"),
    ("random", "code"),
    ("random", "similarity"),
    ("random", "lasting"),
    ("random", "features"),
    ("random_refined", "code"),
    ("best", "code"),
    ("best", "similarity"),
    ("best", "lasting"),
    ("best", "features"),
    ("recipe_2", "code"),
    ("recipe_2", "similarity"),
    ("recipe_2", "lasting"),
    ("recipe_2", "features"),
    ("exemplars", "one-hot"),
    ("exemplars", "similarity"),
    ("kmeans", "similarity"),
    ("kmeans", "lasting"),
    ("kmeans", "features"),
    ("topk", "latents"),
    ("topk", "similarity"),
    ("topk", "lasting"),
    ("batchtopk", "latents"),
    ("matryoshka", "latents"),
    ("topk_10x", "latents"),
    ("topk_10x", "similarity"),
    ("own_topk", "latents"),
}
"""The methods whose probes and concepts stand in the docs; the others are in benchmarks/results/meaning.md."""


def name_of(row: Row) -> tuple[str, str]:
    """Dictionary and readout of a row."""
    return row["key"]["dictionary"], row["key"]["readout"]


def probes(rows: list[Row]) -> str:
    """AUC, and AUC less that of the TopK SAE's latents."""
    rows = [row for row in rows if name_of(row) in SHORT]
    sets = shared_sets(rows)
    values = {name_of(group[0]): areas_of(group, sets) for group in methods(rows)}
    body = []
    for group in methods(rows):
        own = values[name_of(group[0])]
        mean = np.mean([areas.mean(axis=0) for areas in own.values()], axis=0)
        if name_of(group[0])[1] == "all":
            body.append([*title(group[0]["key"]), "-", "-", number(mean[0]), *"---"])
            continue
        topk = values.get(("topk", "latents"))
        less = over(own, topk) if topk and own is not topk else list("---")
        body.append([*title(group[0]["key"]), *(number(each) for each in mean), *less])
    return table(["atoms", "read by", "1", "5", "16", "1 less TopK", "5 less TopK", "16 less TopK"], body)


def axbench(rows: list[Row]) -> str:
    """AUROC of one feature a concept."""
    rows = [row for row in rows if name_of(row) in SHORT or name_of(row)[0] == "difference of means"]
    return table(["atoms", "read by", "AUROC", "less TopK", "less random"], axbench_cells(rows))


def decoded(rows: list[Row], others: list[Row]) -> str:
    """fvu and cost, and what the model predicts with the reconstructions."""
    predicted = {name_of(row): row for row in others if row["key"]["seed"] == 0}
    body = []
    for group in methods(rows):
        cells = [number(float(np.mean([row["fvu"] for row in group])))]
        row = predicted.get(name_of(group[0]))
        for pair in (CE_SCORE, CE_KL):
            cells.append("{:.3f} ± {:.3f}".format(*ratio(*(row[each] for each in pair))) if row else "-")
        cells += [number(float(np.mean([row[each] for row in group]))) for each in ("seconds", "microseconds")]
        body.append([*title(group[0]["key"]), *cells])
    return table(["atoms", "read by", "fvu", "CE loss score", "KL", "seconds to make", "µs a token"], body)


def replication(rows: list[Row]) -> str:
    """What two dictionaries share, by orders and by documents."""
    shown = {"code": 0, "latents": 0, "one-hot": 0, "features": 1}
    columns = ("mean", "above_8", "above_9", "strongest", "probe_same")
    body = []
    for group in methods([row for row in rows if name_of(row)[1] in shown]):
        for kind in ("orders", "documents"):
            mine = [row for row in group if row["key"]["kind"] == kind]
            if mine:
                cells = [number(float(np.mean([row[column] for row in mine]))) for column in columns]
                body.append([*title(group[0]["key"]), kind, *cells, len(mine)])
    header = ["mean cosine", "above .8", "above .9", "strongest feature", "same atom for a probe", "pairs"]
    return table(["atoms", "read by", "other", *header], body)


def true_features() -> str:
    """MCC and F1 on planted features, from the rows of `true_features.py`."""
    rows = Results(RESULTS / "true_features.md").rows
    body = []
    for group in methods(rows):
        seeds = {kind: [row for row in group if row["key"]["kind"] == kind] for kind in KINDS}
        cells = [
            number(float(np.mean([row[column] for row in seeds[kind]])) if seeds[kind] else None)
            for column in ("mcc", "f1")
            for kind in KINDS
        ]
        body.append([*title(group[0]["key"]), *cells])
    header = [f"{column}, {kind}" for column in ("MCC", "F1") for kind in KINDS]
    return table(["atoms", "read by", *header], body)


def twice(rows: list[Row]) -> str:
    """fvu, predictions and replication over documents, of dictionaries of twice as many documents."""
    body = []
    for group in methods([row for row in rows if row["key"]["part"] == "reconstruction"]):
        mine = {row["key"]["part"]: row for row in rows if name_of(row) == name_of(group[0])}
        made, predicted, shared = (mine.get(part) for part in ("reconstruction", "ce", "replication"))
        assert made is not None
        cells = [number(made["fvu"])]
        for pair in (CE_SCORE, CE_KL):
            cells.append("{:.3f} ± {:.3f}".format(*ratio(*(predicted[each] for each in pair))) if predicted else "-")
        cells += [number(shared[each]) if shared else "-" for each in ("mean", "above_8", "above_9", "strongest")]
        body.append([*title(made["key"]), *cells, number(made["seconds"])])
    header = [
        "fvu",
        "CE loss score",
        "KL",
        "mean cosine",
        "above .8",
        "above .9",
        "strongest feature",
        "seconds to make",
    ]
    return table(["atoms", "read by", *header], body)


KINDS = ("independent", "correlated", "hierarchical")


def written(text: str, rows: list[Row], m: int = 2048) -> str:
    """The document with its tables replaced by those of the rows."""

    def of(part: str, layer: str) -> list[Row]:
        wanted = {"part": part, "layer": int(layer), "m": m}
        return [row for row in rows if wanted.items() <= row["key"].items() and "documents" not in row["key"]]

    def at(row: Row, layer: str) -> bool:
        return (row["key"]["layer"], row["key"]["m"]) == (int(layer), m)

    tables: dict[str, Callable[[str], str]] = {
        "probes": lambda layer: probes(of("probes", layer)),
        "axbench": lambda layer: axbench(of("axbench", layer)),
        "decoded": lambda layer: decoded(of("reconstruction", layer), of("ce", layer)),
        "replication": lambda layer: replication(of("replication", layer)),
        "features": lambda _: true_features(),
        "twice": lambda layer: twice([row for row in rows if row["key"].get("documents") and at(row, layer)]),
    }
    return MARK.sub(lambda found: f"{found[1]}\n{tables[found[2]](found[3])}\n\n{found[4]}", text)


def write(rows: Sequence[Row]) -> None:
    """Bring docs/meaning.md up to date."""
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8"), list(rows)), encoding="utf-8")
