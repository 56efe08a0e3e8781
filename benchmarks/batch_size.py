"""How much does a dictionary depend on the batch size? Ours against the released procedure, on the same model.

    python benchmarks/batch_size.py [--tokens 50k] [--out benchmarks/results/batch_size.md]

For layers 2 and 4 of `tiny` on python-docs, three questions: (1) the same activations cut into blocks of 1, 7 and 64;
(2) the model itself run with batches of 1, 7 and 64 windows, which may change the last bits of the activations;
(3) the released procedure (mode `reference`) at several batch sizes. Jaccard indices of the sets of labels, against
the first of each list.
"""

import argparse
import platform
from datetime import date
from pathlib import Path

import torch

from itda import ITDA, ActivationBatch, Labels, ReferenceTrainer, Site, Trainer, jaccard
from itda.parsing import parse_count
from itda.sources.corpora.corpus import python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

SITES = [Site(2), Site(4)]
SIZES = (1, 7, 64)
WINDOW, K, THRESHOLD = 128, 16, 0.3
# 2 (1 - cos) / d_model at cos^2 = 1 - THRESHOLD, so that the two rules ask for about the same.
RELEASED_THRESHOLD = 2 * (1 - (1 - THRESHOLD) ** 0.5) / 192


def stream(model: LanguageModel, tokens: int, batch_size: int) -> dict[Site, ActivationBatch]:
    """All the activations, in one batch per site."""
    corpus = python_docs().split("train")
    source = ModelSource(model, corpus, SITES, window=WINDOW, batch_size=batch_size, tokens=tokens)
    parts = list(source)
    return {
        site: ActivationBatch(
            torch.cat([part[site].activations for part in parts]),
            Labels.concatenate([part[site].labels for part in parts]),
        )
        for site in SITES
    }


def ours(batch: ActivationBatch, block_size: int | None) -> ITDA:
    trainer = Trainer(batch.activations.shape[1], k=K, threshold=THRESHOLD, block_size=block_size)
    trainer.offer(batch)
    return trainer.finish()


def released(batch: ActivationBatch, windows: int) -> ITDA:
    trainer = ReferenceTrainer(batch.activations.shape[1], k=K, threshold=RELEASED_THRESHOLD)
    rows = windows * (WINDOW - 1)
    for start in range(0, len(batch), rows):
        part = slice(start, start + rows)
        trainer.offer(ActivationBatch(batch.activations[part], batch.labels[part]))
    return trainer.finish()


def row(name: str, models: list[ITDA]) -> str:
    sizes = ", ".join(f"{len(model):,}" for model in models)
    overlaps = ", ".join(f"{jaccard(models[0].labels, model.labels):.4f}" for model in models[1:])
    same = all(
        model.labels.keys() == models[0].labels.keys() and torch.equal(model.atoms, models[0].atoms) for model in models
    )
    return f"| {name} | {sizes} | {overlaps} | {'yes' if same else 'no'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=parse_count, default=50_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "batch_size.md")
    arguments = parser.parse_args()
    model = LanguageModel.load("tiny")
    lines = [
        f"tiny, python-docs (train part), {arguments.tokens:,} tokens, window {WINDOW}, k = {K},",
        f"threshold {THRESHOLD}; released procedure: its own threshold {RELEASED_THRESHOLD:.6f}.",
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{date.today().isoformat()}.",
        "",
        "| what varies | atoms | Jaccard with the first | same labels, order and bits |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)

    def add(name: str, models: list[ITDA]) -> None:
        lines.append(row(name, models))
        print(lines[-1], flush=True)

    streams = {size: stream(model, arguments.tokens, size) for size in SIZES}
    for site in SITES:
        add(f"{site}, ours: blocks of 1, 7, 64", [ours(streams[7][site], size) for size in SIZES])
        add(f"{site}, ours: model batches of 1, 7, 64", [ours(streams[size][site], None) for size in SIZES])
        add(f"{site}, released: batches of 4, 16", [released(streams[7][site], size) for size in (4, 16)])
        add(f"{site}, released: batches of 1, 7, 64", [released(streams[7][site], size) for size in SIZES])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
