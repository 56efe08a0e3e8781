"""A dictionary of any matrix, in one call: no model, no corpus, no files.

What is sound for a matrix of unknown kind differs from what `itda train` does for a language model in three settings.
The offset is the mean of all rows, for all are there. No row is set apart for its norm (`massive=None`), for a large
row is not known to be an accident. And mode `best` is of recipe 1, for a matrix may have few rows for each atom, whose
groups have no middle: below about ten recipe 1 reconstructs better (docs/method.md). There is no seed and no shuffling:
rows are gone through once in their order, and the same matrix gives the same bits. The order matters, as earlier rows
become atoms first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from torch import Tensor

from itda.core.batch import ActivationBatch, labels_of
from itda.core.dictionary import ITDA
from itda.core.intake import check_finite, rows_of
from itda.core.labels import Labels
from itda.core.massive import Use
from itda.core.pursuit import Pursuit
from itda.core.training.centres import ROUNDS
from itda.core.training.trainer import Trainer
from itda.errors import ActivationError, SettingError

FitMode = Literal["best", "paper"]

MODES: dict[FitMode, dict[str, Any]] = {
    "best": {"pursuit": "mp_refit", "centred": True, "passes": 8, "min_fidelity": 0.9},
    "paper": {"pursuit": "mp", "centred": False, "passes": 0, "min_fidelity": 0.0},
}
"""The settings that a mode stands for, as `itda train` has them."""

RECIPE_2: dict[str, Any] = {"passes": ROUNDS, "min_fidelity": 0.0}
"""What mode best has in place of these in recipe 2."""


def fit(
    x: Tensor | np.ndarray,
    *,
    atoms: int | None = None,
    threshold: float | None = None,
    k: int = 8,
    labels: Labels | Iterable[str] | None = None,
    mode: FitMode = "best",
    pursuit: Pursuit | None = None,
    centred: bool | None = None,
    passes: int | None = None,
    min_fidelity: float | None = None,
    recipe: int = 1,
    steps: int | None = None,
    massive: Use | None = None,
) -> ITDA:
    """Build a dictionary from the rows of a matrix [n, d]: each atom is a row, and says which.

    - `atoms`: how many to have; a few less are found where rows repeat. Or `threshold`: the share of a row's energy,
      after the offset, that `k` atoms may leave unexplained.
    - `labels`: one string per row, `Labels`, or None for "row 0", "row 1" ... (`Labels.of_texts`).
    - `mode`: "best" subtracts the mean of all rows (`centred`), fits coefficients by least squares (`pursuit` mp_refit)
      and refines the atoms in 8 `passes`, each within a cosine of 0.9 of its row (`min_fidelity`). "paper" does none
      of this. Settings that are given overrule the mode; `massive` is as in `itda.Trainer`.
    - `recipe` 2 of mode "best", for a matrix with tens of rows for each atom: atoms are not rows but centres of groups
      of rows, each labelled by the row nearest to it. `passes` are then rounds of k-means, 12 by default. These atoms
      are found again in other rows of the same kind. More `steps` at the end lower the error, and fewer are found
      again: the default is 3, or 8 where there are 35 rows or more for each atom.

    Earlier rows become atoms first. Shuffle a sorted matrix together with its labels:
    `order = np.random.default_rng(0).permutation(len(x))`, then `x[order]` and `[texts[i] for i in order]`.
    Raises `ActivationError` for a matrix that is not one, is empty or not finite, `SettingError` for settings.

    >>> import itda, torch
    >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    >>> dictionary = itda.fit(x, atoms=32, k=4, labels=[f"sentence {i}" for i in range(200)])
    >>> dictionary.atom(3)
    atom 3 of 32: «sentence 3»
    >>> dictionary.encode(x).indices.shape
    torch.Size([200, 4])
    """
    rows = _checked(x, mode, atoms, threshold)
    if recipe != 1 and mode != "best":
        raise SettingError(f"recipe {recipe} is only for mode best: leave out recipe, or mode={mode!r}")
    batch = ActivationBatch(rows, labels_of(labels, len(rows)))
    given = {"pursuit": pursuit, "centred": centred, "passes": passes, "min_fidelity": min_fidelity}
    settings = {**MODES[mode], **{name: value for name, value in given.items() if value is not None}}
    if recipe == 2:
        settings |= RECIPE_2 | {name: given[name] for name in RECIPE_2 if given[name] is not None}
    settings["offset_tokens"] = len(rows) if settings.pop("centred") else 0
    settings |= {"k": k, "threshold": threshold, "atoms": atoms, "recipe": recipe, "steps": steps, "massive": massive}
    trainer = Trainer(rows.shape[1], tokens=len(rows), **settings)
    trainer.offer(batch)
    return trainer.finish(mode=mode)


def _checked(x: Any, mode: str, atoms: int | None, threshold: float | None) -> Tensor:
    """Return the rows of the matrix. Raises an error unless they, and the settings that depend on them, are sound."""
    rows = rows_of(x, "x")
    if 0 in rows.shape:
        raise ActivationError(f"x is of shape {list(rows.shape)}: give at least one row and one column")
    check_finite(rows, "row")
    if mode not in MODES:
        raise SettingError(f"no mode {mode!r}: use {' or '.join(MODES)}")
    if (atoms is None) == (threshold is None):
        raise SettingError("give atoms= or threshold=, one of the two")
    if atoms is not None and not 1 <= atoms <= len(rows):
        raise SettingError(f"{atoms:,} atoms of {len(rows):,} rows: each atom is a row, so ask for 1 to {len(rows):,}")
    return rows
