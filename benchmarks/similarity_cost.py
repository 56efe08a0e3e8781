"""What do all similarity indices cost? Six models of 12 sites, 20,000 tokens, d_model 128, each pair of sites.

    python benchmarks/similarity_cost.py [--tokens 20000] [--threads 2]

Activations are made up: the sites of a model drift, models are rotations of each other with noise, so that dictionaries
have some thousands of atoms. Every index of layer_matching.py but those of transported dictionaries is computed. With
`--tokens` twice as large, the peak of memory above the activations themselves shows what depends on it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from classical import classical_matrices
from common import RESULTS, Results, forget_peak, gib, labels_for, most_resident, paragraph, resident, table
from family_data import Read
from layer_matching import dictionaries, label_matrices

MODELS, SITES, WIDTH, LATENTS = 6, 12, 128, 40


def made_up(tokens: int) -> list[Read]:
    random = torch.Generator().manual_seed(0)
    base = torch.randn(tokens, LATENTS, generator=random) ** 3
    drift = torch.randn(tokens, LATENTS, generator=random) ** 3
    names = [str(i) for i in range(SITES)]
    labels = labels_for(tokens)
    labels.document[:] = [f"document {i // 500}" for i in range(tokens)]
    found = []
    for _ in range(MODELS):
        x = torch.empty(SITES, tokens, WIDTH)
        basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random))[0][:LATENTS]
        for site in range(SITES):
            angle = torch.tensor(site / SITES * np.pi / 2)
            x[site] = (angle.cos() * base + angle.sin() * drift) @ basis
            x[site] += 0.3 * torch.randn(tokens, WIDTH, generator=random)
        found.append(Read(names, x, labels))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "similarity_cost.md")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    results = Results(a.out, fresh=a.fresh)
    # Compiled, and warm.
    small = [Read(["0"], torch.randn(1, 600, 8), labels_for(600))]
    dictionaries(small, (2, 0.2, 100))
    several = made_up(a.tokens)
    rows: dict[str, float] = {}
    forget_peak()
    before, began = resident(), time.perf_counter()
    models = dictionaries(several, (8, 0.1, 4096))
    rows["dictionaries"] = time.perf_counter() - began
    started = time.perf_counter()
    label_matrices(several, models)
    rows["labels: five indices and sizes"] = time.perf_counter() - started
    sizes = [len(model) for row in models for model in row]
    del models
    started = time.perf_counter()
    classical_matrices([x for one in several for x in one.activations], several[0].documents)
    rows["classical: 14 matrices"] = time.perf_counter() - started
    total = time.perf_counter() - began
    peak = most_resident() - before
    results.add(
        {"tokens": a.tokens}, {"seconds": rows, "total": total, "peak": peak, "sizes": [min(sizes), max(sizes)]}
    )
    shown = sorted(results.rows, key=lambda row: row["key"]["tokens"])
    names = list(rows)
    parts = [
        paragraph(
            f"{MODELS} models, {SITES} sites, d_model {WIDTH}, every pair of the {MODELS * SITES} sites; wall "
            "seconds. Memory: the peak above the activations, which are there before."
        ),
        table(
            ["tokens", "atoms", *names, "all", "memory, GiB"],
            [
                [
                    f"{row['key']['tokens']:,}",
                    f"{row['sizes'][0]:,}-{row['sizes'][1]:,}",
                    *(f"{row['seconds'][name]:.0f}" for name in names),
                    f"{row['total']:.0f}",
                    gib(row["peak"]),
                ]
                for row in shown
            ],
        ),
    ]
    print(results.write(parts))


if __name__ == "__main__":
    main()
