"""A dictionary of any matrix, in one call: no model, no corpus, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from itda.core.batch import ActivationBatch, labels_of
from itda.core.dictionary import ITDA
from itda.core.intake import check_finite, rows_of
from itda.core.labels import Labels
from itda.core.massive import Use
from itda.core.pursuit import Pursuit
from itda.core.site import Site
from itda.core.training.trainer import Trainer
from itda.errors import ActivationError, SettingError

FitMode = Literal["best", "paper"]

PASSES, MIN_FIDELITY = 8, 0.9
"""Refinement in mode best, as `itda train` has it."""

STEP = 4096
"""Rows between two calls of `progress`; no result depends on it."""


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
    massive: Use | None = None,
    site: Site | None = None,
    provenance: Mapping[str, Any] | None = None,
    memory: int | None = None,
    progress: Callable[[int], object] = lambda _rows: None,
) -> ITDA:
    """Build a dictionary from the rows of a matrix [n, d]: each atom is a row, and says which.

    - `atoms` is how many to have, or `threshold` the share of a row's energy (after the offset) that `k` atoms may
      leave unexplained; give one of the two. The threshold for a number of atoms is searched for, and of a few too
      many the least needed are left out. A few less may be found, as where rows are repeated: a row that is an atom
      already is never one again.
    - `labels` are one string per row, `Labels`, or None for "row 0", "row 1" ... (`Labels.of_texts`).
    - `mode` "best" subtracts the mean of all rows, fits the coefficients of the picked atoms by least squares
      (`mp_refit`), and improves the atoms by 8 `passes` of refinement that keep each within a cosine of 0.9
      (`min_fidelity`) of its own row. "paper" does none of this, as the paper: `mp`, no offset, no refinement.
      `pursuit`, `centred`, `passes` and `min_fidelity` overrule the mode.
    - `massive` is None: no row is set apart for its norm, for in a matrix of unknown kind a large row is not known to
      be an accident. "skip" and "atoms" are as in `itda.Trainer`, for activations of a language model.
    - `memory` is what the Gram matrix may take, in bytes; `progress` is called with numbers of rows gone through.

    Rows are gone through once in their order, and there is no chance in it: the same matrix gives the same bits. The
    order matters, as earlier rows become atoms first. For a sorted matrix, shuffle rows and labels together:
    `order = np.random.default_rng(0).permutation(len(x))`, then `x[order]` and `[texts[i] for i in order]`.

    Raises `ActivationError` for a matrix that is none, has no rows, or is not finite, and `SettingError` for settings
    out of range.

    >>> import itda, torch
    >>> texts = [f"sentence {i}" for i in range(200)]
    >>> x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    >>> model = itda.fit(x, atoms=32, k=4, labels=texts)
    >>> model
    <ITDA of 32 atoms of width 16, k 4, pursuit mp_refit, mode best, refined>
    >>> model.atom(3)
    atom 3 of 32: «sentence 3»
    >>> model.encode(x).indices.shape
    torch.Size([200, 4])
    """
    rows = _checked(x, mode, atoms, threshold)
    named = labels_of(labels, len(rows))
    best = mode == "best"
    if centred is None:
        centred = best
    trainer = Trainer(
        rows.shape[1],
        tokens=len(rows),
        k=k,
        threshold=threshold,
        atoms=atoms,
        pursuit=pursuit if pursuit is not None else "mp_refit" if best else "mp",
        offset_tokens=len(rows) if centred else 0,
        passes=passes if passes is not None else PASSES if best else 0,
        min_fidelity=min_fidelity if min_fidelity is not None else MIN_FIDELITY if best else 0.0,
        massive=massive,
        memory=memory,
    )
    for start in range(0, len(rows), STEP):
        part = slice(start, start + STEP)
        trainer.offer(ActivationBatch(rows[part], named[part]))
        progress(len(rows[part]))
    return trainer.finish(mode=mode, site=site, provenance=dict(provenance or {}))


def _checked(x: Any, mode: str, atoms: int | None, threshold: float | None) -> Tensor:
    """The rows of the matrix, once it and the settings that depend on it are known to be sound."""
    rows = rows_of(x, "x")
    if 0 in rows.shape:
        raise ActivationError(f"x is of shape {list(rows.shape)}: give at least one row and one column")
    check_finite(rows, "row")
    if mode not in ("best", "paper"):
        raise SettingError(f"no mode {mode!r}: use best or paper")
    if (atoms is None) == (threshold is None):
        raise SettingError("give atoms= or threshold=, one of the two")
    if atoms is not None and not 1 <= atoms <= len(rows):
        raise SettingError(f"{atoms:,} atoms of {len(rows):,} rows: each atom is a row, so ask for 1 to {len(rows):,}")
    return rows
