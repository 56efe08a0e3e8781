"""Which layer, which k, how many atoms, how many tokens: what each is worth on a real model, in fvu.

    python benchmarks/real_model_choices.py models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2-valid.txt

SmolLM2-135M-Instruct with 4-bit weights, sections of WikiText-2 (validation, raw) in the order of a hash; dictionaries
of mode `best` around one in the middle: layer 15, k 20, 2,048 atoms, 40,000 tokens; one setting is changed at a time.
The fvu is on the ordinary ones of 12,000 other tokens (`docs/measures.md`). A second table has the norms of each layer.
Activations are read once and kept in runs/; rows are kept, so that the script goes on where it was stopped.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from common import BEST, arguments_for, labels_for, number, paragraph, results_for, share, table
from real_model import HERE, MASSIVE, fvu, ordinary, sections

from itda import ActivationBatch, Trainer
from itda.core.batch import Site
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

WORK = HERE / "runs" / "real_model_choices"
MIDDLE = {"layer": 15, "k": 20, "atoms": 2048, "tokens": 40_000}
OTHERS: dict[str, list[int]] = {
    "layer": [1, 5, 10, 15, 20, 25, 28],
    "k": [10, 20, 40],
    "atoms": [512, 1024, 2048, 4096],
    "tokens": [10_000, 20_000, 40_000],
}
HELD_OUT = 12_000


def activations(model: str, text: Path, tokens: int) -> Path:
    """The folder of the activations of all layers, read if they are not there: held-out ones first, then the others."""
    folder = WORK / f"{tokens}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        sites = [Site(layer) for layer in OTHERS["layer"]]
        corpus = Corpus.from_texts(sections(text.read_text(encoding="utf-8")))
        source = ModelSource(LanguageModel.load(model), corpus, sites, window=128, tokens=HELD_OUT + tokens)
        parts: dict[Site, list[torch.Tensor]] = {site: [] for site in sites}
        for batches in source:
            for site, batch in batches.items():
                parts[site].append(batch.activations)
        for site, found in parts.items():
            torch.save(torch.cat(found), folder / f"{site.layer}.pt")
        (folder / "done").touch()
    return folder


def norms(x: torch.Tensor) -> dict[str, float]:
    """Of activations: the median norm, the largest in medians, and what the massive ones hold."""
    n = x.double().norm(dim=1)
    huge = n > MASSIVE * n.median()
    return {
        "median": n.median().item(),
        "largest": (n.max() / n.median()).item(),
        "massive": int(huge.sum()),
        "energy": (n[huge].square().sum() / n.square().sum()).item(),
    }


def measure(x: torch.Tensor, k: int, atoms: int, tokens: int) -> dict[str, Any]:
    """A dictionary of the first tokens after those held out, and its fvu on these."""
    held, stream = ordinary(x[:HELD_OUT]), x[HELD_OUT : HELD_OUT + tokens]
    trainer = Trainer(x.shape[1], tokens=len(stream), k=k, atoms=atoms, **BEST, passes=8, min_fidelity=0.9)
    for start in range(0, len(stream), 1024):
        part = stream[start : start + 1024]
        trainer.offer(ActivationBatch(part, labels_for(len(part), start)))
    dictionary = trainer.finish()
    return {"fvu": fvu(dictionary, held), "atoms": len(dictionary), "found": trainer.found, "tokens": len(stream)}


def main() -> None:
    parser: argparse.ArgumentParser = arguments_for(__doc__, "real_model_choices")
    parser.add_argument("model", help="what `itda train` takes")
    parser.add_argument("--text", type=Path, required=True, help="the validation split of WikiText-2, raw")
    arguments = parser.parse_args()
    results = results_for(arguments, "real_model_choices")
    most = max(OTHERS["tokens"]) if not arguments.quick else 20_000
    folder = activations(arguments.model, arguments.text, most)
    lines = []
    for name, values in OTHERS.items():
        for value in values:
            task = {**MIDDLE, name: value}
            if arguments.quick:
                task |= {"tokens": min(task["tokens"], most), "atoms": min(task["atoms"], 1024)}
            if results.find(task) is None:
                x = torch.load(folder / f"{task['layer']}.pt", mmap=True)
                row = results.add(task, measure(x, task["k"], task["atoms"], task["tokens"]) | norms(x))
                print(task, number(row["fvu"]), flush=True)
        found = [results.find({**MIDDLE, name: value}) for value in values]
        if all(found):
            lines.append(
                [name, *(f"{value:,}: {number(row['fvu'])}" for value, row in zip(values, found, strict=True) if row)]
            )
    about = paragraph(
        f"SmolLM2-135M-Instruct, 4-bit weights, WikiText-2, mode best; layer {MIDDLE['layer']}, k {MIDDLE['k']}, "
        f"{MIDDLE['atoms']:,} atoms and {MIDDLE['tokens']:,} tokens unless said otherwise; fvu on the ordinary ones of "
        f"{HELD_OUT:,} held-out tokens. One dictionary each."
    )
    sinks = [
        [
            f"{layer}",
            number(row["median"]),
            number(row["largest"]),
            f"{row['massive']:,} of {HELD_OUT + most:,}",
            share(row["energy"]),
        ]
        for layer in OTHERS["layer"]
        if (row := results.find({**MIDDLE, "layer": layer})) is not None
    ]
    width = max(map(len, lines), default=1)
    header = ["changed", *["value: fvu"] * (width - 1)]
    choices = table(header, [line + [""] * (width - len(line)) for line in lines])
    of_norms = table(["layer", "median norm", "largest, in medians", "massive", "their share of all energy"], sinks)
    print(results.write([about, choices, of_norms]))


if __name__ == "__main__":
    main()
