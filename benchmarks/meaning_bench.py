"""One layer and size of the benchmark of meaning: its activations, its dictionaries in the cache, and its measures."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meaning_methods import (
    AUTOENCODERS,
    DICTIONARIES,
    READOUTS,
    ROWS,
    Made,
    Neurons,
    Task,
    measured,
    of_sae,
    reconstruction,
)
from meaning_prompts import SEED, load_set, saved
from meaning_saelens import load_sae, save_sae
from meaning_scores import auroc, choose, probed
from meaning_text import Concepts, Text, joined, load_concepts, load_text
from real_model import MASSIVE
from torch import Tensor

from itda import fit_features

SIZES = (1, 5, 16)
SETS = 5
"""Sets of prompts whose features are computed at once."""

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bench:
    """Where everything of one layer and size is; what is slow is made once."""

    folder: Path
    layer: int
    m: int
    k: int

    def text(self, group: str, seed: int = 0) -> Text:
        """Running text: a group of documents, or groups one after the other such as "ac", in the order of a seed."""
        return _text(self.folder / "text", group, self.layer, seed)

    def file(self, name: str, seed: int, group: str) -> Path:
        """Where a dictionary is kept; an autoencoder as plain tensors."""
        suffix = ".pt" if name in AUTOENCODERS else ".pkl"
        return self.folder / "made" / f"{self.layer}_{self.m}_{self.k}_{group}_{name}_{seed}{suffix}"

    def has(self, name: str, seed: int, group: str = "a") -> bool:
        """True if a dictionary is in the cache, or needs no making."""
        return name in ("neurons", "whitened") or self.file(name, seed, group).exists()

    def made(self, name: str, seed: int, group: str = "a") -> Made:
        """A dictionary of a group of documents, in the order of a seed and with that seed."""
        file = self.file(name, seed, group)
        if not file.exists():
            budget = lambda: self.made("best", seed, group).seconds  # noqa: E731
            task = Task(self.m, self.k, seed, budget, lambda: self.text("heldout").x)
            made = DICTIONARIES[name](self.text(group, seed).x, task)
            file.parent.mkdir(parents=True, exist_ok=True)
            if made.sae is not None:
                save_sae(file, made.sae)
            else:
                file.with_suffix(".new").write_bytes(pickle.dumps(made))
                file.with_suffix(".new").replace(file)
        return of_sae(load_sae(file), self.k) if name in AUTOENCODERS else pickle.loads(file.read_bytes())

    def features(self, name: str, readout: str, seed: int, group: str = "a") -> Features:
        """What turns activations into features [rows, m]."""
        if name in ("neurons", "whitened"):
            return Neurons(self.text(group).x, whitened=name == "whitened").features
        made = self.made(name, seed, group)
        if readout in ("features", "lasting"):
            fitted = fit_features(made.model, self.text(group, seed).x)
            if readout == "lasting":
                return fitted.lasting_similarity
            return lambda x: fitted.features(x).dense(len(fitted))
        return lambda x: READOUTS[readout](made, x)

    def rebuilder(self, name: str, readout: str, seed: int, group: str = "a") -> Features:
        """What turns activations into their reconstructions [rows, d_model]."""
        made = self.made(name, seed, group)
        return lambda x: reconstruction(made, readout, x)

    def massive_norm(self) -> float:
        """The norm above which an activation is massive."""
        return MASSIVE * float(self.text("heldout").x.norm(dim=1).median())


@cache
def _text(folder: Path, group: str, layer: int, seed: int) -> Text:
    names = [group] if group == "heldout" else list(group)
    return joined([load_text(folder, name, layer) for name in names]).in_order(seed)


# Parts


def probes(bench: Bench, wheel: Path, features: Features, known: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """By set of prompts: the test AUC with 1, 5 and 16 features (`whole`: with all), and the first feature."""
    folder = bench.folder / "prompts"
    most, sizes = (None, (None,)) if whole else (max(SIZES), SIZES)
    missing = [name for name in saved(folder, wheel) if name not in known]
    chosen = []
    for start in range(0, len(missing), SETS):
        data = [load_set(folder, name, bench.layer) for name in missing[start : start + SETS]]
        found = features(torch.cat([x for x, _ in data])).split([len(x) for x, _ in data])
        chosen += [choose(part, y, most, SEED) for part, (_, y) in zip(found, data, strict=True)]
    areas = probed(chosen, sizes)
    return known | {
        name: [round(area, 4) for area in row] + each.order[:1]
        for name, row, each in zip(missing, areas, chosen, strict=True)
    }


def concepts(bench: Bench, features: Features) -> list[float]:
    """AUROC of the best feature of each concept, chosen on the training texts, by the largest value over an answer."""
    data = load_concepts(bench.folder / "concepts" / f"all_{bench.layer}.pt")
    pooled = over_texts(features, data)
    found = []
    for concept in range(int(data.concept.max()) + 1):
        train, test = data.rows(concept, train=True), data.rows(concept, train=False)
        best = int(np.argmax(auroc(pooled[train], data.positive[train])))
        found.append(round(float(auroc(pooled[test][:, [best]], data.positive[test])[0]), 4))
    return found


def over_texts(features: Features, data: Concepts) -> np.ndarray:
    """The largest value of each feature over the tokens of each text [texts, m]."""
    best: Tensor | None = None
    text = torch.from_numpy(data.text)
    for start in range(0, len(data.x), ROWS):
        values = features(data.x[start : start + ROWS])
        if best is None:
            best = torch.full((len(data.concept), values.shape[1]), -torch.inf)
        best.index_reduce_(0, text[start : start + ROWS], values, "amax")
    assert best is not None
    return best.numpy()


def with_labels(bench: Bench) -> list[float]:
    """AUROC by the difference of the classes' means, the ceiling that knows the labels."""
    data = load_concepts(bench.folder / "concepts" / f"all_{bench.layer}.pt")
    found = []
    for concept in range(int(data.concept.max()) + 1):
        train, test = data.rows(concept, train=True), data.rows(concept, train=False)
        ours = np.isin(data.text, train)
        side = data.positive[data.text]
        direction = data.x[torch.from_numpy(ours & side)].mean(dim=0) - data.x[torch.from_numpy(ours & ~side)].mean(0)
        scores = over_texts(lambda x, w=direction: (x @ w)[:, None], data)
        found.append(round(float(auroc(scores[test], data.positive[test])[0]), 4))
    return found


def rebuilt(bench: Bench, name: str, readout: str, seed: int, group: str = "a") -> dict[str, Any]:
    """Reconstruction of held-out text, and costs."""
    made = bench.made(name, seed, group)
    values: dict[str, Any] = measured(made, readout, bench.text("heldout").x)
    return values | {"seconds": made.seconds, "steps": made.steps, "atoms": len(made.model)}


DECODED = {"code", "latents", "one-hot"}
"""The readouts that decode."""
