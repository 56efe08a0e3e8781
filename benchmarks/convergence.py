"""When does a layer take its final form? Fingerprints of the checkpoints of one training run, against the last one and
against the checkpoint before, layer by layer; beside them labels of dictionaries, linear CKA and the noise floor.

    python benchmarks/convergence.py                          gpt2-0 of the tiny family
    python benchmarks/convergence.py --checkpoints DIR ...    folders of one model, the last one final

A number at the end of a folder's name is its step. The noise floor is the last checkpoint with itself, run in batches
of another size. Rows are kept in results/convergence.jsonl; the plots go to docs/images/convergence.png and .svg.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, Results, paragraph, table
from family import BATCH as WINDOWS
from family import CACHE, CHECKPOINTS, CONTEXT, STEPS, WITH_CHECKPOINTS, trained
from family_data import BATCH, Read, beginnings, read
from layer_matching import SETTINGS, dictionaries

from itda import ITDA
from itda.core.similarity import Linear, Statistics
from itda.core.similarity.fingerprint import fingerprint_of
from itda.core.similarity.overlap import OVERLAPS, Members, Universe, sums_of

SHOWN = ("novelty", "weighted", "jaccard", "cka")
TITLES = {"novelty": "shared novelty", "weighted": "weighted Jaccard", "jaccard": "Jaccard", "cka": "linear CKA"}
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def compared(a: Read, models_a: list[ITDA], b: Read, models_b: list[ITDA]) -> dict[str, list[float]]:
    """Every index, layer by layer."""
    universe = Universe.of([a.tokens, b.tokens], by_end=False)
    found: dict[str, list[float]] = {name: [] for name in SHOWN}
    for site, (one, other) in enumerate(zip(models_a, models_b, strict=True)):
        total = sums_of(Members.of(one, universe), Members.of(other, universe), universe).sum(axis=0)
        for name in ("weighted", "jaccard"):
            found[name].append(float(OVERLAPS[name](total)))
        found["novelty"].append(shared_novelty(a.activations[site], b.activations[site]))
        parts = [a.activations[site], b.activations[site]]
        statistics = Statistics([x.shape[1] for x in parts])
        statistics.add(parts)
        found["cka"].append(Linear(statistics).cka(0, 1))
    return found


def shared_novelty(a: torch.Tensor, b: torch.Tensor) -> float:
    """The index of `itda compare` for two sites that have read the same tokens."""
    one, other = (fingerprint_of(x) for x in (a, b))
    there = ~one.massive & ~other.massive
    values = np.stack([each.novelty[there].astype(np.int64) for each in (one, other)])
    return float(values.min(axis=0).sum() / values.max(axis=0).sum())


def step_of(folder: Path) -> int:
    found = re.search(r"(\d+)$", folder.name)
    if found is None:
        raise SystemExit(f"{folder} does not end with its step: rename it, to step-1000 for example")
    return int(found[1])


def draw(rows: list[dict], floor: dict[str, list[float]], layers: int, per_step: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, len(SHOWN), sharey=True)
    colours = [f"C{i}" if layers <= 10 else None for i in range(layers)]
    for line, (kind, about) in zip(
        axes, (("final", "to the last checkpoint"), ("previous", "to the one before")), strict=True
    ):
        for panel, name in zip(line, SHOWN, strict=True):
            for layer in range(layers):
                points = [
                    (row["key"]["step"] * (per_step / 1e6 if per_step > 1 else 1), row[kind][name][layer])
                    for row in rows
                    if row[kind]
                ]
                panel.plot(
                    *zip(*points, strict=True), color=colours[layer], lw=1.3, marker="o", ms=2.5, label=f"layer {layer}"
                )
            panel.axhline(min(floor[name]), color="black", lw=0.8, ls=":", label="noise floor")
            panel.set_title(f"{TITLES[name]}, {about}", fontsize=9)
            panel.set_ylim(0, 1.03)
            panel.set_xlabel("million tokens trained on" if per_step > 1 else "step", fontsize=8)
    axes[0][0].legend(fontsize=7)
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / "convergence.png", dpi=130)
    figure.savefig(IMAGES / "convergence.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", type=Path, help="folders, the last one final")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--characters", type=int, default=1500, help="of the beginning of each document")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--fresh", action="store_true", help="forget the rows that were measured before")
    parser.add_argument("--out", type=Path, default=RESULTS / "convergence.md")
    a = parser.parse_args()
    if a.checkpoints:
        steps = {step_of(folder): folder for folder in a.checkpoints}
        name, per_step = a.checkpoints[-1].name, 1
    else:
        last = trained(WITH_CHECKPOINTS, a.cache)
        steps = {step: last / f"step-{step}" for step in CHECKPOINTS} | {STEPS: last}
        name, per_step = WITH_CHECKPOINTS, WINDOWS * CONTEXT
    results, corpus = Results(a.out, fresh=a.fresh), beginnings(a.corpus, a.characters)
    made: dict[tuple[int, int], tuple[Read, list[ITDA]]] = {}

    def dictionary(step: int, batch: int = BATCH) -> tuple[Read, list[ITDA]]:
        if (step, batch) not in made:
            one = read(str(steps[step]), corpus, a.tokens, False, a.cache, batch=batch)
            made[step, batch] = one, dictionaries([one], SETTINGS)[0]
        return made[step, batch]

    order = sorted(steps)
    common = {"model": name, "corpus": a.corpus, "characters": a.characters, "tokens": a.tokens}
    common |= {"settings": list(SETTINGS)}
    rows = []
    for before, step in zip([None, *order[:-1]], order, strict=True):
        key = {**common, "step": step}
        if (row := results.find(key)) is None:
            print(f"step {step}", flush=True)
            final = compared(*dictionary(step), *dictionary(order[-1]))
            previous = compared(*dictionary(step), *dictionary(before)) if before is not None else None
            sizes = [len(model) for model in dictionary(step)[1]]
            row = results.add(key, {"final": final, "previous": previous, "sizes": sizes})
            for old in [each for each in made if each[0] not in (step, order[-1])]:
                del made[old]
        rows.append(row)
    key = {**common, "step": "floor"}
    floor_row = results.find(key)
    if floor_row is None:
        floor_row = results.add(key, {"final": compared(*dictionary(order[-1]), *dictionary(order[-1], BATCH - 1))})
    floor = floor_row["final"]
    layers = len(floor["cka"])
    draw(rows, floor, layers, per_step)
    parts = [
        paragraph(
            f"{name}, {a.tokens:,} tokens of the first {a.characters:,} characters of held-out documents; "
            f"dictionaries: k = {SETTINGS[0]}, threshold {SETTINGS[1]}. Noise floor, the last checkpoint in batches of "
            f"{BATCH} and of {BATCH - 1} windows: "
            + ", ".join(f"{TITLES[n]} {min(floor[n]):.4f}" for n in SHOWN)
            + " (least layer)."
        )
    ]
    for index in SHOWN:
        for kind in ("final", "previous"):
            found = [row for row in rows if row[kind] and row["key"]["step"] != order[-1] * (kind == "final")]
            parts.append(f"### {TITLES[index]}, to the {'last checkpoint' if kind == 'final' else 'one before'}")
            parts.append(
                table(
                    ["tokens", *(f"layer {i}" for i in range(layers))],
                    [[f"{row['key']['step'] * per_step:,}", *(f"{v:.3f}" for v in row[kind][index])] for row in found],
                )
            )
    # The step at which a layer has come half the way from where it began to its end.
    halves = []
    for index in SHOWN:
        cells = []
        for layer in range(layers):
            values = np.array([row["final"][index][layer] for row in rows])
            half = (values[0] + 1) / 2
            cells.append(f"{rows[int(np.argmax(values >= half))]['key']['step'] * per_step:,}")
        halves.append([TITLES[index], *cells])
    parts += ["### Tokens after which a layer is half way from its beginning to its final form"]
    parts += [table(["index", *(f"layer {i}" for i in range(layers))], halves)]
    print(results.write(parts))


if __name__ == "__main__":
    main()
