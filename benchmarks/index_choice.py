"""Which index of labels finds the same layer best: variants and indices, tried on the development families alone.

    python benchmarks/index_choice.py [--tokens 2000]

For each site of a model, is the most similar site of another model of its family the same one? Rows are kept in
results/index_choice.jsonl.

The rule, fixed before the held-out families were looked at (benchmarks/held_out.py): accuracy is the mean over the
three families and the budgets of 1,000, 2,000 and 4,000 tokens. Of the variants `mean` and `none` and all indices but
controls, those count as best whose difference to the very best is within its 95% interval (jackknife over models,
families taken as given). Of these the variant `mean` goes first, as then a shift of all activations changes nothing;
then novelty before novelty to four, which is simpler; then the higher accuracy.
"""

import argparse
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from classical import classical_matrices
from common import RESULTS, Results, labels_for, paragraph, table
from families_read import FamilyRead, read_family
from families_train import Family
from family_data import Read
from label_indices import label_matrices
from layer_matching import dictionaries
from layer_matching import label_matrices as matrices_of_dictionaries
from matching import difference, jackknife, over_families, score
from model_families import CACHE, development
from novelty import Variant, novelty_of

VARIANTS = {
    "mean": Variant("mean"),
    "none": Variant("none"),
    "half whitened": Variant("half"),
    "whitened": Variant("white"),
    "1 direction less": Variant("pc1"),
    "same side only": Variant("mean", signed=True),
    "other order": Variant("mean", order=1),
    "segments of 1,000": Variant("mean", segment=1000),
}
BUDGETS = (1000, 2000, 4000)
"""Tokens at which the variants `mean` and `none` are measured."""


PURSUITS = {f"k = {k}, {t}": (k, t) for k in (1, 2, 4, 8) for t in (0.05, 0.2)}
"""Dictionaries of `itda.Trainer`, mean removed, at a threshold: does a larger k help?"""
PAIRS = tuple(permutations(range(5), 2))


def accuracies(matrices: dict[str, np.ndarray], read: FamilyRead) -> dict[str, dict[str, float]]:
    """By index, by ordered pair of members."""
    found = {}
    for name, matrix in matrices.items():
        values = score(matrix, len(read.activations), read.sites).accuracy
        found[name] = {f"{m} {n}": round(value, 6) for (m, n), value in values.items()}
    return found


def pursuit_matrices(read: FamilyRead, k: int, threshold: float) -> dict[str, np.ndarray]:
    """Indices of the labels of dictionaries, by the names of layer_matching.py."""
    labels = labels_for(read.activations[0].shape[1])
    several = [Read([str(site) for site in range(read.sites)], x, labels) for x in read.activations]
    return matrices_of_dictionaries(several, dictionaries(several, (k, threshold, 4096)))


def measured(results: Results, family: Family, read: FamilyRead, variant: str, tokens: int) -> dict[str, dict]:
    """Accuracies of all indices of one variant, or of the classical ones."""
    key = {"family": family.name, "variant": variant, "tokens": tokens}
    row = results.find(key)
    if row is None:
        some = read.rows(slice(0, tokens))
        if variant == "classical":
            matrices = classical_matrices(some.every_site(), some.document)
        elif variant in PURSUITS:
            matrices = pursuit_matrices(some, *PURSUITS[variant])
        else:
            matrices = label_matrices([novelty_of(x, VARIANTS[variant], some.document) for x in some.every_site()])
        row = results.add(key, {"accuracy": accuracies(matrices, some)})
        print(key, flush=True)
    return row["accuracy"]


def chosen(budgets: dict[str, dict[str, dict[str, dict]]], families: list[Family]) -> tuple[str, str]:
    """What the rule gives of `budgets[variant][tokens][family][index]`: a line for each of the best, and its name."""
    pooled: dict[tuple[str, str], list[dict[tuple[int, int], float]]] = {}
    for variant, rows in budgets.items():
        for name in next(iter(rows.values()))[families[0].name]:
            if not name.startswith("control"):
                pooled[variant, name] = [
                    {pair: float(np.mean([_pairs(row[f.name][name])[pair] for row in rows.values()])) for pair in PAIRS}
                    for f in families
                ]
    means = {key: float(np.mean([list(values.values()) for values in own])) for key, own in pooled.items()}
    top = max(means, key=lambda key: means[key])
    best = []
    for key, own in pooled.items():
        several = [difference(a, b) for a, b in zip(own, pooled[top], strict=True)]
        less, half = over_families(several, len(families[0].seeds))
        if key == top or less + half >= 0:
            best.append((key[0] != "mean", "to four" in key[1], -means[key], key, f"{less:+.3f} ± {half:.3f}"))
    best.sort()
    lines = [[key[0], key[1], f"{-mean:.3f}", less] for _, _, mean, key, less in best]
    return table(["variant", "index", "accuracy", "less the very best"], lines), f"{best[0][3][1]}, {best[0][3][0]}"


def mean_of(values: dict[str, float]) -> float:
    return float(np.mean(list(values.values())))


def by_index(rows: dict[str, dict[str, dict]], families: list[Family]) -> str:
    """Rows of `rows[column][family][index]`: the mean over families, and each family's own in the first column."""
    names = list(next(iter(next(iter(rows.values())).values())))
    first = next(iter(rows))
    cells = []
    for name in names:
        means = [np.mean([mean_of(rows[column][f.name][name]) for f in families]) for column in rows]
        own = [jackknife(_pairs(rows[first][f.name][name])) for f in families]
        cells.append((means[0], [name, *(f"{v:.3f}" for v in means), *(f"{m:.3f} ± {h:.3f}" for m, h in own)]))
    cells.sort(key=lambda row: -row[0])
    return table(["index", *rows, *(f"{first}: {f.name}" for f in families)], [row for _, row in cells])


def _pairs(values: dict[str, float]) -> dict[tuple[int, int], float]:
    return {(int(pair.split()[0]), int(pair.split()[1])): value for pair, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000, help="for the other variants")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "index_choice.md")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    results, families = Results(a.out), development()
    reads = {f.name: read_family(f, a.cache) for f in families}

    def all_families(variant: str, tokens: int) -> dict[str, dict]:
        return {f.name: measured(results, f, reads[f.name], variant, tokens) for f in families}

    classical = {f"{a.budgets[-1]:,}": all_families("classical", a.budgets[-1])}
    budgets = {variant: {f"{n:,}": all_families(variant, n) for n in a.budgets} for variant in ("mean", "none")}
    variants = {variant: all_families(variant, a.tokens) for variant in a.variants}
    pursuits = {variant: all_families(variant, a.tokens) for variant in PURSUITS}
    chance = ", ".join(f"{1 / reads[f.name].sites:.3f} ({f.name})" for f in families)
    about = f"Layer matching within development families of five models, {a.tokens:,} tokens. Chance: {chance}. "
    about += (
        "± is half a 95% interval by the jackknife over models. Without a name of a family: the mean over families."
    )
    best, name = chosen(budgets, families)
    parts = [paragraph(about), "## Chosen by the rule", paragraph(f"**{name}**. As good as the very best:"), best]
    parts += ["## Variants", by_index(variants, families)]
    parts += ["## Classical indices", by_index(classical, families)]
    parts += ["## Dictionaries of larger k", by_index(pursuits, families)]
    for variant, rows in budgets.items():
        parts += [f"## By tokens, variant {variant}", by_index(rows, families)]
    print(results.write(parts))


if __name__ == "__main__":
    main()
