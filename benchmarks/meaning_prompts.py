"""The data sets of sae-probes, from its wheel: prompts with two classes, and their activations.

The wheel is fetched by pip and only unpacked. As its own code has it: a prompt's activation is that of its last token,
a long prompt loses its beginning, and only the first 5,000 rows of a set are used. To save time, and said in the
tables: `ROWS` rows a set, as many of either class, drawn by a seed; `TOKENS` tokens a prompt instead of 1,024; no token
of the beginning is put before a prompt, since the dictionaries are trained without one too. Sets are taken in the
order of a hash, so that those that are ready are a fair sample of all.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from itda.sources.models.transformers import LanguageModel

PACKAGE = "sae-probes==0.4.2"
INSIDE = "sae_probes/data/"
FIRST, ROWS, TOKENS, SEED = 5000, 400, 128, 42


def fetch(folder: Path) -> Path:
    """The wheel in a folder; downloaded by pip unless it is there."""
    found = sorted(folder.glob("sae_probes-*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=True)
        found = sorted(folder.glob("sae_probes-*.whl"))
    return found[0]


def table_of(wheel: Path, name: str) -> Any:
    """A table in the wheel, read by pandas and zstandard."""
    import pandas as pd

    with zipfile.ZipFile(wheel) as packed:
        return pd.read_csv(io.BytesIO(packed.read(INSIDE + name)), compression="zstd")


@cache
def names(wheel: Path) -> list[str]:
    """The names of the sets with two classes, in the order of a hash."""
    index = table_of(wheel, "probing_datasets_MASTER.csv.zst")
    binary = index[index["Data type"] == "Binary Classification"]["Dataset save name"]
    return sorted((Path(name).stem for name in binary), key=lambda name: hashlib.sha256(name.encode()).digest())


def rows_of(wheel: Path, name: str, rows: int = ROWS) -> tuple[list[str], np.ndarray]:
    """Prompts and classes (0 or 1) of a set: as many of either class, drawn by the seed, in a shuffled order."""
    table = table_of(wheel, f"cleaned_data/{name}.csv.zst")[:FIRST]
    classes, y = np.unique(table["target"].to_numpy(), return_inverse=True)
    assert len(classes) == 2, name
    chosen = drawn(y, rows)
    return [str(prompt) for prompt in table["prompt"].to_numpy()[chosen]], y[chosen]


def drawn(y: np.ndarray, rows: int, seed: int = SEED) -> np.ndarray:
    """Row numbers, as many of class 0 as of class 1, in a shuffled order."""
    generator = np.random.RandomState(seed)
    each = min(rows // 2, *np.bincount(y, minlength=2))
    sides = [generator.choice(np.flatnonzero(y == side), each, replace=False) for side in (0, 1)]
    return generator.permutation(np.concatenate(sides))


def saved(folder: Path, wheel: Path) -> Iterator[str]:
    """The names of the sets whose activations are there, in their order up to the first that is not."""
    for name in names(wheel):
        if not (folder / f"{name}.pt").exists():
            return
        yield name


def load_set(folder: Path, name: str, layer: int) -> tuple[Tensor, np.ndarray]:
    """Activations [rows, d_model] of a set at a layer, and classes."""
    kept = torch.load(folder / f"{name}.pt")
    return kept[f"x{layer}"], kept["y"].numpy()


def make(folder: Path, wheel: Path, model: LanguageModel) -> None:
    """Write the activations of each set that is not there yet: FOLDER/NAME.pt."""
    from meaning_model import last_tokens

    folder.mkdir(parents=True, exist_ok=True)
    for name in names(wheel):
        target = folder / f"{name}.pt"
        if target.exists():
            continue
        prompts, y = rows_of(wheel, name)
        texts = [model.tokenizer(prompt, add_special_tokens=False)["input_ids"][-TOKENS:] for prompt in prompts]
        x = last_tokens(model, texts)
        kept = {f"x{layer}": rows for layer, rows in x.items()} | {"y": torch.from_numpy(y)}
        torch.save(kept, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
        print(name, len(y), sum(map(len, texts)), flush=True)
