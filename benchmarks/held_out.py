"""The verdict: the index that index_choice.py chose beside all others, on families that nothing was chosen on.

    python benchmarks/held_out.py                  the three held-out families of model_families.py
    python benchmarks/held_out.py --development    the same tables for the families that the choice was made on

For each site (the residual stream after a block) of a model: is the most similar site of another model of its family
the same one? Fingerprints are the product's (`itda.core.similarity.fingerprint`), the classical indices those of
`itda.core.similarity`, all on the same tokens. Rows are kept in the .jsonl beside the tables.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from classical import TITLES, classical_matrices
from common import RESULTS, Results, labels_for, paragraph, table
from families_read import FamilyRead, read_family
from family_data import Read
from label_indices import (
    LADDER,
    SHARES,
    adjusted,
    closeness,
    correlation,
    jaccard,
    most_novel,
    ranks,
    weighted,
)
from layer_matching import dictionaries
from layer_matching import label_matrices as old_matrices
from matching import difference, jackknife, over_families, score
from model_families import CACHE, development, held_out

from itda.core.similarity.fingerprint import LEFT_OUT, RUNGS, STEPS, FingerprintSettings, fingerprint_of

INDEX = "**the index: weighted Jaccard of novelty**"
WITHOUT = "the index without the mean removed"
EQUAL = "the index at equal sums"
LABELS = "labels alone: Jaccard at equal sizes"
TOKENS = 10_000
BUDGETS = (500, 1000, 2000, 5000, 10_000, 20_000)
CLASSICAL_BUDGETS = (1000, 10_000)
assert RUNGS == LADDER
OLD = {"weighted": "before: k = d/16, .05, weighted", "jaccard": "before: k = d/16, .05, Jaccard"}


def fingerprint_matrices(read: FamilyRead) -> dict[str, np.ndarray]:
    """Every index of fingerprints."""
    return matrices_of_sites(read.every_site(), len(read.activations))


def matrices_of_sites(several: list[torch.Tensor], models: int) -> dict[str, np.ndarray]:
    """Every index of the fingerprints of sites [tokens, d_model], those of the first model first."""
    found = [fingerprint_of(x) for x in several]
    novelty = np.stack([np.where(f.novelty == LEFT_OUT, 0, f.novelty) / STEPS for f in found])
    atoms = np.stack([[f.is_atom(rung) for rung in range(len(RUNGS))] for f in found])
    rungs = range(len(RUNGS))
    random = np.random.default_rng(0)
    orders = [random.permutation(novelty.shape[1]) for _ in range(models)]
    shuffled = np.concatenate([part[:, o] for part, o in zip(np.split(novelty, models), orders, strict=True)])
    sizes = np.log(np.maximum(atoms.sum(2), 1))
    raw = np.stack([fingerprint_of(x, FingerprintSettings(centred=False)).novelty for x in several])
    return {
        INDEX: weighted(novelty),
        WITHOUT: weighted(np.where(raw == LEFT_OUT, 0, raw) / STEPS),
        EQUAL: weighted(novelty / novelty.mean(1, keepdims=True)),
        LABELS: np.mean([jaccard(most_novel(novelty, share)) for share in SHARES], axis=0),
        "correlation of novelty": correlation(novelty),
        "correlation of ranks of novelty": correlation(ranks(novelty)),
        "Jaccard, mean over the rungs": np.mean([jaccard(atoms[:, r]) for r in rungs], axis=0),
        "Jaccard adjusted, mean over the rungs": np.mean([adjusted(atoms[:, r]) for r in rungs], axis=0),
        "control: sizes alone, rungs": np.mean([closeness(sizes[:, r]) for r in rungs], axis=0),
        "control: mean novelty alone": closeness(novelty.mean(1)),
        "control: novelty sorted, of whichever tokens": weighted(np.sort(novelty, axis=1)),
        "control: the index, tokens shuffled": weighted(shuffled),
    }


def before_matrices(read: FamilyRead) -> dict[str, np.ndarray]:
    """The indices that were documented before: dictionaries of k = d/16 at a threshold of .05, mean removed."""
    labels = labels_for(read.activations[0].shape[1])
    several = [Read([str(site) for site in range(read.sites)], x, labels) for x in read.activations]
    width = read.family.shape.width
    found = old_matrices(several, dictionaries(several, (width // 16, 0.05, 4096)))
    return {OLD[name]: found[name] for name in OLD}


def named_classical(read: FamilyRead) -> dict[str, np.ndarray]:
    return {TITLES[name]: m for name, m in classical_matrices(read.every_site(), read.document).items()}


TOKENS_BEFORE = 2000
PARTS: dict[str, Callable[[FamilyRead], dict[str, np.ndarray]]] = {
    "fingerprints": fingerprint_matrices,
    "classical": named_classical,
    "before": before_matrices,
}


def measured(results: Results, read: FamilyRead, part: str, tokens: int) -> dict[str, dict[str, dict[str, float]]]:
    """By index, by kind of score, by ordered pair of members."""
    key = {"family": read.family.name, "part": part, "tokens": tokens}
    row = results.find(key)
    if row is None:
        found = {}
        for name, matrix in PARTS[part](read.rows(slice(0, tokens))).items():
            scores = score(np.nan_to_num(matrix), len(read.activations), read.sites)
            kinds = ("accuracy", "within_one", "margin")
            found[name] = {
                kind: {f"{m} {n}": round(float(v), 6) for (m, n), v in getattr(scores, kind).items()} for kind in kinds
            } | {"self": float(matrix.diagonal().min())}
        row = results.add(key, {"scores": found})
        print(key, flush=True)
    return row["scores"]


def pairs(values: dict[str, float]) -> dict[tuple[int, int], float]:
    return {(int(pair.split()[0]), int(pair.split()[1])): value for pair, value in values.items()}


def main_table(scores: dict[str, dict[str, dict]]) -> str:
    """Of each index: the mean over families, its difference to the index, each family's accuracy."""
    families = list(scores)
    rows = []
    for name in scores[families[0]]:
        own = [pairs(scores[f][name]["accuracy"]) for f in families]
        reference = [pairs(scores[f][INDEX]["accuracy"]) for f in families]
        models = 1 + max(m for m, _ in own[0])
        mean, half = over_families([jackknife(values) for values in own], models)
        less, around = over_families([difference(a, b) for a, b in zip(own, reference, strict=True)], models)
        near = np.mean([np.mean(list(scores[f][name]["within_one"].values())) for f in families])
        margin = np.mean([np.mean(list(scores[f][name]["margin"].values())) for f in families])
        least = min(scores[f][name]["self"] for f in families)
        each = [f"{np.mean(list(values.values())):.3f}" for values in own]
        paired = "-" if name == INDEX else f"{less:+.3f} ± {around:.3f}"
        shown = [f"{near:.3f}", f"{margin:+.2f}", "-" if "control" in name else f"{least:.4f}"]
        rows.append((mean, [name, f"{mean:.3f} ± {half:.3f}", paired, *each, *shown]))
    rows.sort(key=lambda row: -row[0])
    header = ["index", "accuracy", "less the index", *families, "within one", "margin", "least self"]
    return table(header, [row for _, row in rows])


def curve(results: Results, reads: list[FamilyRead], part: str, budgets: tuple[int, ...]) -> str:
    found = {n: [measured(results, read, part, n) for read in reads] for n in budgets}
    rows = []
    for name in found[budgets[0]][0]:
        means = [np.mean([np.mean(list(one[name]["accuracy"].values())) for one in found[n]]) for n in budgets]
        rows.append([name, *(f"{mean:.3f}" for mean in means)])
    return table(["index", *(f"{n:,}" for n in budgets)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--development", action="store_true", help="the families that the choice was made on")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    kind = "development" if a.development else "held-out"
    results = Results(a.out or RESULTS / f"{kind.replace('-', '_')}.md")
    reads = [read_family(f, a.cache) for f in (development() if a.development else held_out())]
    scores = {
        read.family.name: {
            name: s
            for part in ("fingerprints", "classical")
            for name, s in measured(results, read, part, TOKENS).items()
        }
        for read in reads
    }
    before = {
        read.family.name: measured(results, read, "before", TOKENS_BEFORE)
        | {INDEX: measured(results, read, "fingerprints", TOKENS_BEFORE)[INDEX]}
        for read in reads
    }
    shapes = "; ".join(
        f"{r.family.name}: {r.family.shape.architecture}, {r.sites} blocks, d_model {r.family.shape.width}, "
        f"{r.family.kind}, chance {1 / r.sites:.3f}"
        for r in reads
    )
    parts = [
        paragraph(
            f"Layer matching within {kind} families of five models. {shapes}. {TOKENS:,} tokens of "
            f"{', '.join(str(len(set(r.document[:TOKENS].tolist()))) for r in reads)} held-out documents. ± is half a "
            "95% interval by the jackknife over models, families taken as given; differences are paired."
        ),
        main_table(scores),
        "## Beside what was documented before",
        paragraph(f"Dictionaries of k = d_model / 16 at a threshold of .05, mean removed; {TOKENS_BEFORE:,} tokens."),
        main_table(before),
        "## Fingerprints by tokens",
        paragraph("Mean accuracy over the families."),
        curve(results, reads, "fingerprints", BUDGETS),
        "## Classical indices by tokens",
        curve(results, reads, "classical", CLASSICAL_BUDGETS),
    ]
    print(results.write(parts))


if __name__ == "__main__":
    main()
