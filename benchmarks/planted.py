"""Planted layers with known truth: what each index survives.

    python benchmarks/planted.py

Tokens of a Zipf vocabulary have a latent vector, to which a context is added block by block; a *model* is a random map
of these latents to activations, with noise of its own: so site i of one model and site i of another are the same by
construction. Each condition is done to every other model. Rows are kept in results/planted.jsonl.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from classical import classical_matrices
from common import RESULTS, Results, paragraph, table
from held_out import EQUAL, INDEX, LABELS, TITLES, matrices_of_sites
from matching import score

MODELS, SITES, TOKENS, LATENTS, WIDTH, WORDS = 4, 6, 2000, 32, 64, 300
CONTROLS = ("control: mean novelty alone", "control: novelty sorted, of whichever tokens")
SHOWN = (INDEX, EQUAL, LABELS, "correlation of novelty", "Jaccard, mean over the rungs", *CONTROLS)
CLASSICAL = (
    "cka",
    "cka_zscored",
    "svcca",
    "cca",
    "procrustes",
    "relative",
    "relative_centred",
    "rbf_cka",
    "neighbours",
)


def latents(seed: int) -> list[torch.Tensor]:
    """What the sites of all models have in common: [tokens, latents] of each."""
    random = torch.Generator().manual_seed(seed)
    words = torch.multinomial(1 / torch.arange(1, WORDS + 1).float(), TOKENS, True, generator=random)
    x, inputs = (torch.randn(WORDS, LATENTS, generator=random)[words] for _ in range(2))
    context = torch.zeros(TOKENS, LATENTS)
    for token in range(1, TOKENS):
        context[token] = 0.6 * context[token - 1] + 0.4 * inputs[token - 1]
    found = []
    for _ in range(SITES):
        found.append(x)
        x = x + 0.5 * torch.tanh(1.5 * (x + context) @ torch.randn(LATENTS, LATENTS, generator=random) / LATENTS**0.5)
    return found


def models(seed: int) -> list[list[torch.Tensor]]:
    """Activations [tokens, d_model] of each site of each model."""
    random = torch.Generator().manual_seed(1000 + seed)
    truth, found = latents(seed), []
    for _ in range(MODELS):
        spread = torch.exp(0.5 * torch.randn(LATENTS, 1, generator=random))
        sites = []
        for z in truth:
            x = z @ (torch.randn(LATENTS, WIDTH, generator=random) * spread)
            noise = 0.1 * x.std() * torch.randn(x.shape, generator=random)
            sites.append(x + noise + x.std() * torch.randn(WIDTH, generator=random))
        found.append(sites)
    return found


def rotated(x: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return x @ torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q


def outlier_tokens(x: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Ten tokens of a hundred times the norm, in a direction of the model's own: massive activations."""
    found, rows = x.clone(), torch.randperm(len(x), generator=random)[:10]
    direction = torch.nn.functional.normalize(torch.randn(WIDTH, generator=random), dim=0)
    found[rows] += 100 * x.norm(dim=1).median() * direction
    return found


def outlier_dimension(x: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """One dimension with three times the norm of all others together, and a value that says nothing."""
    found = x.clone()
    found[:, 0] = 3 * x.norm(dim=1).mean() * torch.randn(len(x), generator=random)
    return found


CONDITIONS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "as planted": lambda x, _: x,
    "rotated": rotated,
    "scaled by 1000": lambda x, _: 1000 * x,
    "shifted": lambda x, r: x + 5 * x.std() * torch.randn(WIDTH, generator=r),
    "dimensions scaled": lambda x, r: x * torch.exp(torch.randn(WIDTH, generator=r)),
    "noise of half the size": lambda x, r: x + 0.5 * x.std() * torch.randn(x.shape, generator=r),
    "outlier tokens": outlier_tokens,
    "outlier dimension": outlier_dimension,
    "tokens shuffled": lambda x, _: x,
}


def accuracies(condition: str, seed: int) -> dict[str, float]:
    """By index: the share of sites that are matched, over all ordered pairs of models."""
    several, random = models(seed), torch.Generator().manual_seed(2000 + seed)
    sites = [CONDITIONS[condition](x, random) if m % 2 else x for m, own in enumerate(several) for x in own]
    if condition == "tokens shuffled":
        orders = [torch.randperm(TOKENS, generator=random) for _ in range(MODELS)]
        sites = [x[orders[place // SITES]] for place, x in enumerate(sites)]
    ours = matrices_of_sites(sites, MODELS)
    classical = classical_matrices(sites, np.arange(TOKENS) // 100)
    found = {name: ours[name] for name in SHOWN} | {TITLES[name]: classical[name] for name in CLASSICAL}
    return {
        name: float(np.mean(list(score(np.nan_to_num(m), MODELS, SITES).accuracy.values())))
        for name, m in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "planted.md")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    results, means = Results(a.out), {}
    for condition in CONDITIONS:
        rows = []
        for seed in range(a.seeds):
            key = {"condition": condition, "seed": seed}
            row = results.find(key) or results.add(key, {"accuracy": accuracies(condition, seed)})
            rows.append(row["accuracy"])
        means[condition] = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
        print(condition, flush=True)
    names = list(means["as planted"])
    about = f"Share of sites matched: {MODELS} models of {SITES} sites, {TOKENS:,} tokens, {a.seeds} draws; chance "
    about += f"{1 / SITES:.3f}. A condition is done to every other model, each site on its own."
    cells = [[name, *(f"{means[condition][name]:.2f}" for condition in CONDITIONS)] for name in names]
    print(results.write([paragraph(about), table(["index", *CONDITIONS], cells)]))


if __name__ == "__main__":
    main()
