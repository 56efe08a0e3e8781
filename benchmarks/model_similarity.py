"""How similar are models, all layers together? Within an architecture and across three of them.

    python benchmarks/model_similarity.py

Families of model_families.py that read code, on the same tokens. A token is as novel to a model as to the site where
it is most novel; two models are compared by the weighted Jaccard of that (`All sites together` of `itda compare`).
Beside it: the mean over sites of the same relative depth, linear CKA there, and the mean novelty alone. The held-out
family may be taken in since nothing is chosen here. Rows are kept in results/model_similarity.jsonl.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, Results, paragraph, table
from families_model import member_state, new_parameters
from families_read import held_out_text, read_family, read_model
from families_text import tokenizer
from families_train import Family
from label_indices import closeness, weighted
from model_families import CACHE, FAMILIES

from itda.core.similarity import Linear, Statistics
from itda.core.similarity.fingerprint import LEFT_OUT, STEPS, fingerprint_of
from itda.sources.models.transformers import LanguageModel

TOKENS, UNTRAINED = 10_000, 2
GROUPS = {"d-gpt2": "GPT-2", "d-neox": "NeoX", "h-llama": "Llama"}
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the depth at which sites are compared: the first site, the last, and three between."""


def untrained(family: Family, cache: Path) -> list[torch.Tensor]:
    """Activations of models as they begin."""
    from transformers import AutoModelForCausalLM

    found = []
    for seed in range(UNTRAINED):
        model = AutoModelForCausalLM.from_config(family.shape.config()).eval()
        model.load_state_dict(member_state(new_parameters(family.shape, [seed]), 0), strict=False)
        model.tie_weights()
        read = read_model(LanguageModel(model, tokenizer(cache), "untrained"), held_out_text(family.kind), TOKENS)
        found.append(read["x"])
    return found


def similarities(models: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """Matrices [model, model] by index."""
    novelty, sites = [], []
    for x in models:
        found = np.stack([fingerprint_of(site).novelty for site in x])
        novelty.append(np.where(found == LEFT_OUT, 0, found) / STEPS)
        sites.append([round(depth * (len(x) - 1)) for depth in DEPTHS])
    union = np.stack([own.max(0) for own in novelty])
    at_depth = [np.stack([own[chosen[i]] for own, chosen in zip(novelty, sites, strict=True)]) for i in range(5)]
    cka = []
    for i in range(len(DEPTHS)):
        rows = [x[chosen[i]] for x, chosen in zip(models, sites, strict=True)]
        statistics = Statistics([x.shape[1] for x in rows])
        for part in torch.arange(TOKENS).split(1024):
            statistics.add([x[part] for x in rows])
        cka.append(Linear(statistics).matrix("cka").numpy())
    return {
        "shared novelty, all sites": weighted(union),
        "shared novelty, same depth": np.mean([weighted(values) for values in at_depth], axis=0),
        "sizes alone": np.exp(closeness(np.log(union.mean(1)))),
        "linear CKA, same depth": np.mean(cka, axis=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget the rows that were measured before")
    parser.add_argument("--out", type=Path, default=RESULTS / "model_similarity.md")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    results = Results(a.out, fresh=a.fresh)
    key = {"families": list(GROUPS), "tokens": TOKENS}
    row = results.find(key)
    if row is None:
        models, groups = [], []
        for family in FAMILIES:
            if family.name in GROUPS:
                models += [x[:, :TOKENS] for x in read_family(family, a.cache).activations]
                groups += [GROUPS[family.name]] * len(family.seeds)
        family = next(family for family in FAMILIES if family.name == "d-gpt2")
        models += untrained(family, a.cache)
        groups += ["untrained GPT-2"] * UNTRAINED
        found = {name: matrix.tolist() for name, matrix in similarities(models).items()}
        row = results.add(key, {"groups": groups, "matrices": found})
    pairs: dict[str, list[tuple[int, int]]] = {}
    for i, j in combinations(range(len(row["groups"])), 2):
        names = dict.fromkeys((row["groups"][i], row["groups"][j]))
        pairs.setdefault(" and ".join(names) if len(names) == 2 else f"within {next(iter(names))}", []).append((i, j))
    cells = []
    for name, members in pairs.items():
        values = [[matrix[i][j] for i, j in members] for matrix in row["matrices"].values()]
        shown = [f"{np.mean(v):.3f}" + (f" ({min(v):.3f}-{max(v):.3f})" if len(v) > 1 else "") for v in values]
        cells.append([name, str(len(members)), *shown])
    about = f"{TOKENS:,} tokens of held-out code. Means over pairs of models, with the least and the largest."
    print(results.write([paragraph(about), table(["models", "pairs", *row["matrices"]], cells)]))


if __name__ == "__main__":
    main()
