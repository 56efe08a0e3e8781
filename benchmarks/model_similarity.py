"""How similar are models, all layers together (the paper's Eq. 10)? Within two architectures and across them.

    python benchmarks/model_similarity.py

Labels of the dictionaries of all layers are united. k is d_model / 16, the threshold and the offset those of
layer_matching.py. Beside it: chance-adjusted, weighted, the mean over layers of the same depth, and two controls, the
sizes alone and untrained models. Rows are kept in results/model_similarity.jsonl.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from common import RESULTS, Results, paragraph, table
from family import CACHE, new_model, shared_tokenizer, trained
from family_data import beginnings, read
from layer_matching import SETTINGS, dictionaries

from itda.core.similarity.overlap import OVERLAPS, Members, Universe, index_interval, sums_of
from itda.sources.models.transformers import LanguageModel

GROUPS = {
    "GPT-2": tuple(f"gpt2-{seed}" for seed in range(4)),
    "Llama": ("llama-0", "llama-1"),
    "untrained GPT-2": ("untrained gpt2-0", "untrained gpt2-1"),
}
SHOWN = ("jaccard", "adjusted", "weighted", "size_only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--characters", type=int, default=1500)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--fresh", action="store_true", help="forget the rows that were measured before")
    parser.add_argument("--out", type=Path, default=RESULTS / "model_similarity.md")
    a = parser.parse_args()
    results, corpus = Results(a.out, fresh=a.fresh), beginnings("python-docs", a.characters)
    members: dict[str, list[Members]] = {}
    universe: Universe | None = None

    def found(name: str) -> list[Members]:
        nonlocal universe
        if name not in members:
            model = None
            if name.startswith("untrained"):
                model = LanguageModel(new_model(name.split()[1]).eval(), shared_tokenizer(a.cache), name)
            path = name.replace(" ", "-") if model else str(trained(name, a.cache))
            one = read(path, corpus, a.tokens, False, a.cache, model)
            universe = universe or Universe.of([one.tokens], by_end=False)
            k = one.activations.shape[2] // 16
            models = dictionaries([one], (k, *SETTINGS[1:]))[0]
            members[name] = [Members.of(each, universe) for each in models]
        return members[name]

    group_of = {name: group for group, names in GROUPS.items() for name in names}
    rows = []
    for left, right in combinations(group_of, 2):
        key = {"models": [left, right], "tokens": a.tokens, "characters": a.characters, "settings": list(SETTINGS[1:])}
        if (row := results.find(key)) is None:
            print(left, right, flush=True)
            one, other = found(left), found(right)
            assert universe is not None
            sums = sums_of(Members.union(one), Members.union(other), universe)
            values = {"union": {name: float(OVERLAPS[name](sums.sum(axis=0))) for name in SHOWN}}
            ends = index_interval("jaccard", sums)
            values["interval"] = [float(ends.low), float(ends.high)]
            layers = [sums_of(x, y, universe).sum(axis=0) for x, y in zip(one, other, strict=True)]
            values["layers"] = {name: float(np.mean([OVERLAPS[name](s) for s in layers])) for name in SHOWN}
            row = results.add(key, values)
        rows.append((" and ".join(dict.fromkeys((group_of[left], group_of[right]))), row))
    cells = []
    for pair in dict.fromkeys(name for name, _ in rows):
        these = [row for name, row in rows if name == pair]
        shown = []
        for kind in ("union", "layers"):
            for name in SHOWN:
                values = [row[kind][name] for row in these]
                few = f"{np.mean(values):.3f}"
                shown.append(few if len(values) == 1 else f"{few} ({min(values):.3f}-{max(values):.3f})")
        kind = pair if " and " in pair else f"within {pair}"
        cells.append((kind, str(len(these)), *shown))
    parts = [
        paragraph(
            f"{a.tokens:,} tokens, 8 layers each, k = d_model / 16, threshold {SETTINGS[1]}, offset. Means over "
            "pairs of models, with the least and the largest."
        ),
        "### All layers together",
        table(["models", "pairs", *SHOWN], [cell[:6] for cell in cells]),
        "### Mean over layers of the same number",
        table(["models", "pairs", *SHOWN], [(*cell[:2], *cell[6:]) for cell in cells]),
    ]
    print(results.write(parts))


if __name__ == "__main__":
    main()
