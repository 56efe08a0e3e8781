"""What two dictionaries share that were made alike, of the same documents in another order or of other documents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meaning_bench import DECODED, Bench
from meaning_methods import ROWS, Made, reconstruction
from meaning_prompts import SEED, load_set, saved
from meaning_scores import by_mean_difference, cosines_to_nearest, split
from meaning_text import Text
from torch import Tensor

MATCHED = 40
"""Sets of prompts on which the choice of a feature is compared between dictionaries."""


@dataclass(eq=False)
class Reading:
    """One dictionary of a pair with a readout: what is asked of it, computed once."""

    bench: Bench
    wheel: Path
    name: str
    readout: str
    seed: int
    group: str

    @cached_property
    def made(self) -> Made:
        """The dictionary."""
        return self.bench.made(self.name, self.seed, self.group)

    @property
    def rows(self) -> np.ndarray | None:
        """The row of the activation that names each atom; None where nothing does."""
        return None if self.made.row is None else self.made.row.numpy()

    @cached_property
    def text(self) -> Text:
        """What it was made from."""
        return self.bench.text(self.group, self.seed)

    @cached_property
    def strongest(self) -> Tensor:
        """The strongest feature of each held-out token."""
        features = self.bench.features(self.name, self.readout, self.seed, self.group)
        return torch.cat([features(part).abs().argmax(dim=1) for part in self.bench.text("heldout").x.split(ROWS)])

    @cached_property
    def rebuilt(self) -> Tensor:
        """The reconstruction of the held-out tokens."""
        return reconstruction(self.made, self.readout, self.bench.text("heldout").x)

    @cached_property
    def probes(self) -> list[int]:
        """The feature chosen first for each set of prompts."""
        features = self.bench.features(self.name, self.readout, self.seed, self.group)
        found, folder = [], self.bench.folder / "prompts"
        for name in _first(saved(folder, self.wheel), MATCHED):
            x, y = load_set(folder, name, self.bench.layer)
            train = torch.from_numpy(split(y, SEED)[0])
            found.append(int(by_mean_difference(features(x[train]), torch.from_numpy(y)[train])[0]))
        return found


def replicated(one: Reading, other: Reading) -> dict[str, Any]:
    """What two dictionaries share, read in the same way."""
    atoms = one.made.model.atoms, other.made.model.atoms
    cosine, partner = cosines_to_nearest(*atoms)
    both = torch.cat([cosine, cosines_to_nearest(atoms[1], atoms[0])[0]])
    x = one.bench.text("heldout").x
    values: dict[str, Any] = {
        "mean": both.mean().item(),
        "above_8": (both > 0.8).double().mean().item(),
        "above_9": (both > 0.9).double().mean().item(),
        "strongest": (partner[one.strongest] == other.strongest).double().mean().item(),
        "labels": None,
        "token": None,
        "difference": None,
    }
    if one.rows is not None and other.rows is not None:
        named = one.text.token[one.rows], other.text.token[other.rows]
        values["token"] = float((named[0][one.strongest.numpy()] == named[1][other.strongest.numpy()]).mean())
        if one.group == other.group:
            values["labels"] = _shared_rows([one, other])
    if one.readout in DECODED:
        between, around = (one.rebuilt - other.rebuilt).square().sum(), (x - x.mean(dim=0)).square().sum()
        values["difference"] = float(between / around)
    pairs = list(zip(one.probes, other.probes, strict=True))
    cosines = [abs(float(atoms[0][a] @ atoms[1][b])) for a, b in pairs]
    same = [int(partner[a]) == b for a, b in pairs]
    probed = {"probe_same": float(np.mean(same)), "probe_cosine": float(np.mean(cosines))} if same else {}
    return values | {"probe_same": None, "probe_cosine": None, "probes": len(same)} | probed


def _shared_rows(both: Sequence[Reading]) -> float:
    """Jaccard similarity of the activations that name the atoms: the same document and place in it."""
    named = []
    for each in both:
        rows, document = each.rows, each.text.document
        assert rows is not None
        _, start = np.unique(document, return_index=True)
        first = np.zeros(int(document.max()) + 1, dtype=np.int64)
        first[np.unique(document)] = start
        named.append(set(zip(document[rows].tolist(), (rows - first[document[rows]]).tolist(), strict=True)))
    return len(named[0] & named[1]) / len(named[0] | named[1])


def _first(names: Iterator[str], most: int) -> list[str]:
    return [name for _, name in zip(range(most), names, strict=False)]
