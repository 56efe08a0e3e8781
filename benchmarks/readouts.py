"""Sparse probing of a dictionary's readouts on activations of a real model, beside the same readouts of random atoms.

    python benchmarks/readouts.py train.pt heldout.pt sets/ --names x10 x20

Files are of `torch.save`: `train.pt` and `heldout.pt` a dict with activations [tokens, d_model] for each name, say of
a layer; each file of the folder `sets` a dict with activations [rows, d_model] of the last token of each text for each
name, and the classes `y` [rows], 0 or 1. Tokens with a norm above 5 medians are left out.

Features are ranked by the difference of class means over their deviation, on a random half of the rows; a logistic
regression reads the best 1, 5 and 16; its AUC is on the other half, the mean over three halvings. The rule for
`features` (what is fitted, the ridge, the unit) was chosen on the sets in `CHOSEN`; the others confirm it.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments_for, labels_for, paragraph, results_for, table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

import itda
from itda import ITDA, SparseCode

ATOMS, K, SIZES, HALVINGS, MEDIANS = 2048, 20, (1, 5, 16), 3, 5
CHOSEN = {"22", "51", "52", "59", "62", "82", "90", "96", "125", "138", "139", "156"}
"""Numbers of the sets of sae-probes, as its files begin with them."""
BASE = "random: features"


def ordinary(x: Tensor) -> Tensor:
    norms = x.norm(dim=1)
    return x[norms <= MEDIANS * norms.median()]


def dictionaries(x: Tensor) -> Iterator[tuple[str, ITDA]]:
    """The dictionary of mode best, and one of activations drawn at random, with the same offset."""
    best = itda.fit(x, atoms=ATOMS, k=K)
    assert best.offset is not None
    drawn = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: len(best)]] - best.offset
    atoms = drawn / drawn.norm(dim=1, keepdim=True)
    random = ITDA(atoms, labels_for(len(atoms)), k=K, pursuit="mp_refit", offset=best.offset)
    for name, each in (("best", replace(best, labels=labels_for(len(best)))), ("random", random)):
        started = time.process_time()
        fitted = itda.fit_features(each, x)
        print(f"{name}: features fitted in {time.process_time() - started:.1f} s of processor time", flush=True)
        yield name, fitted


def readouts(model: ITDA, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Readouts [rows, atoms] by name."""
    yield "code", model.encode(x).dense(len(model))
    yield "similarity (dense)", model.similarity(x)
    yield "20 largest similarities", model.similarity(x, top=K).dense(len(model))
    yield "features", model.features(x).dense(len(model))


def areas(features: np.ndarray, y: np.ndarray) -> list[float]:
    """The test AUC with the best 1, 5 and 16 features, the mean over halvings."""
    found = np.zeros((HALVINGS, len(SIZES)))
    for seed in range(HALVINGS):
        generator, fit = np.random.default_rng(seed), np.zeros(len(y), dtype=bool)
        for kind in (0, 1):
            rows = generator.permutation(np.flatnonzero(y == kind))
            fit[rows[: len(rows) // 2]] = True
        train, test = features[fit], features[~fit]
        apart, deviation = np.abs(train[y[fit] == 1].mean(0) - train[y[fit] == 0].mean(0)), train.std(0)
        order = np.argsort(-np.where(deviation > 1e-9, apart / np.maximum(deviation, 1e-9), 0), kind="stable")
        for place, size in enumerate(SIZES):
            some = order[:size]
            mean, scale = train[:, some].mean(0), train[:, some].std(0) + 1e-9
            probe = LogisticRegression(max_iter=200).fit((train[:, some] - mean) / scale, y[fit])
            said = probe.decision_function((test[:, some] - mean) / scale)
            found[seed, place] = roc_auc_score(y[~fit], said)
    return found.mean(0).tolist()


def fitted_fvu(model: ITDA, x: Tensor, code: SparseCode) -> float:
    """The fvu of x by least squares on the atoms of a code."""
    assert model.offset is not None
    left, z = 0.0, (x - model.offset).double()
    for row, indices, count in zip(z, code.indices, code.count.tolist(), strict=True):
        atoms = model.atoms[indices[:count]].double()
        left += float((row - torch.linalg.lstsq(atoms.T, row).solution @ atoms).square().sum())
    return left / float((z - z.mean(0)).square().sum())


def measured(arguments: Any, name: str) -> dict[str, Any]:
    """For each readout the AUC of each set, and the fvu of sparse ones on a sample of held-out tokens."""
    files = sorted(arguments.sets.glob("*.pt"))[: 3 if arguments.quick else None]
    heldout = ordinary(torch.load(arguments.heldout)[name])[::8]
    found: dict[str, dict[str, list[float]]] = {}
    fvu: dict[str, float] = {}
    for which, model in dictionaries(ordinary(torch.load(arguments.train)[name].float())):
        for file in files:
            data = torch.load(file)
            y = np.asarray(data["y"])
            for readout, features in readouts(model, data[name].float()):
                found.setdefault(f"{which}: {readout}", {})[file.stem] = areas(features.numpy(), y)
            if which == "best":
                found.setdefault("neurons (dense)", {})[file.stem] = areas(data[name].float().numpy(), y)
        fvu[f"{which}: code"] = fitted_fvu(model, heldout, model.encode(heldout))
        fvu[f"{which}: features"] = fitted_fvu(model, heldout, model.features(heldout))
    return {"auc": found, "fvu": fvu}


def rows_of(row: dict[str, Any], chosen: bool) -> Iterator[list[str]]:
    """Lines of a table: mean AUC, the difference to `BASE` with its standard error over sets, and fvu."""
    sets = [each for each in row["auc"][BASE] if (each.split("_")[0] in CHOSEN) == chosen]
    base = np.array([row["auc"][BASE][each] for each in sets])
    for name, found in row["auc"].items():
        auc = np.array([found[each] for each in sets])
        gap = auc - base
        error = gap.std(0, ddof=1) / np.sqrt(len(sets)) if len(sets) > 1 else np.zeros(len(SIZES))
        gaps = [f"{g:+.3f} ± {e:.3f}" for g, e in zip(gap.mean(0), error, strict=True)]
        fvu = f"{row['fvu'][name]:.3f}" if name in row["fvu"] else "-"
        yield [name, " / ".join(f"{a:.3f}" for a in auc.mean(0)), " / ".join(gaps) if name != BASE else "-", fvu]


def main() -> None:
    parser = arguments_for(__doc__, "readouts")
    parser.add_argument("train", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--names", nargs="+", required=True, help="of the activations in the files")
    arguments = parser.parse_args()
    results, parts = results_for(arguments, "readouts"), []
    for name in arguments.names:
        row = results.find({"name": name}) or results.add({"name": name}, measured(arguments, name))
        for chosen, of in ((True, "sets that the rule was chosen on"), (False, "other sets")):
            lines = list(rows_of(row, chosen))
            number = sum((each.split("_")[0] in CHOSEN) == chosen for each in row["auc"][BASE])
            said = f"{name}, {number} {of}: AUC with the best 1 / 5 / 16 features, and paired differences to {BASE}."
            header = ["readout", "AUC", "less random features", "fvu by least squares"]
            parts += [paragraph(said), table(header, lines)] if number else []
    print(results.write(parts))


if __name__ == "__main__":
    main()
