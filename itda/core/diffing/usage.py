"""Use: atoms of one dictionary that two models use more or less often, or more or less strongly.

Both models' activations are read with the same dictionary, which asks for a shared basis: the changed model is a
fine-tune of the base. Differences are paired by document, and documents are what is resampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from itda.core.bootstrap import Interval, interval
from itda.core.code import SparseCode
from itda.core.diffing.significance import findings
from itda.core.similarity.fingerprint_index import GROUPS
from itda.errors import SettingError

LEAST_USED = 20
"""Atoms that fewer tokens use, in both models together, are not tested."""


@dataclass(frozen=True, eq=False)
class Usage:
    """How often, and how strongly, two models use each atom."""

    frequency: Float[np.ndarray, "models atoms"]
    """[2, atoms]: the share of tokens that use it, in the base model and in the changed one."""
    strength: Float[np.ndarray, "models atoms"]
    """[2, atoms]: the mean |coefficient| of the tokens that use it; 0 where none does."""
    change: Interval
    """[atoms]: the difference of the mean |coefficient| over all tokens, changed less base, with a 95% interval."""
    tested: Bool[np.ndarray, " atoms"]
    """True for atoms that enough tokens use to test."""
    found: Bool[np.ndarray, " atoms"]
    """True for atoms whose change stands out from that of the others, at the false discovery rate asked for."""
    score: Float[np.ndarray, " atoms"]
    """The change in standard errors; 0 where nothing was tested."""

    def first(self, atoms: int) -> Usage:
        """Return the use of the first atoms alone."""
        low, high, value = (each[:atoms] for each in (self.change.low, self.change.high, self.change.value))
        return Usage(
            self.frequency[:, :atoms],
            self.strength[:, :atoms],
            Interval(value, low, high),
            self.tested[:atoms],
            self.found[:atoms],
            self.score[:atoms],
        )


class UsageTally:
    """Counts the use of atoms by two models, over documents; `usage` says what differs.

    The dictionary may grow meanwhile: an atom counts from when it is there.

    >>> import torch
    >>> code = lambda at, x: SparseCode(torch.tensor([[at]]), torch.tensor([[x]]), torch.tensor([1]))
    >>> tally = UsageTally(2)
    >>> tally.add(np.array(["essay"]), code(0, 1.0), code(1, -3.0))
    >>> tally.usage().frequency.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, atoms: int) -> None:
        if atoms < 1:
            raise SettingError(f"{atoms} atoms to count the use of: there must be at least 1")
        self.atoms = atoms
        self._groups: dict[str, int] = {}
        self._sums = np.zeros((GROUPS, 2, 2, atoms))
        """By group, model, and [count, sum of |coefficient|]."""
        self._tokens = np.zeros(GROUPS)

    def add(self, documents: Shaped[np.ndarray, " batch"], base: SparseCode, changed: SparseCode) -> None:
        """Count the codes of the same tokens in both models, each token with its document."""
        group = np.array([self._groups.setdefault(str(each), len(self._groups)) % GROUPS for each in documents], int)
        self._tokens += np.bincount(group, minlength=GROUPS)
        for model, code in enumerate((base, changed)):
            used = np.arange(code.k) < code.count.cpu().numpy()[:, None]
            cell = group[:, None] * self.atoms + code.indices.cpu().numpy()
            size = np.abs(code.coefficients.double().cpu().numpy())
            for what, weight in enumerate((None, size[used])):
                counted = np.bincount(cell[used], weight, GROUPS * self.atoms)
                self._sums[:, model, what] += counted.reshape(GROUPS, self.atoms)

    def usage(self, *, rate: float = 0.05) -> Usage:
        """Return what differs, at a false discovery rate. Raises `SettingError` if no token was counted."""
        tokens = self._tokens.sum()
        if not tokens:
            raise SettingError("no token was counted: read some first")
        total = self._sums.sum(axis=0)
        count, size = total[:, 0], total[:, 1]
        here = self._tokens > 0
        paired = self._sums[here, 1, 1] - self._sums[here, 0, 1]
        columns = np.concatenate([paired, self._tokens[here, None]], axis=1)
        change = interval(columns, lambda sums: sums[..., :-1] / np.maximum(sums[..., -1:], 1))
        tested = count.sum(axis=0) >= LEAST_USED
        score = _scores(paired, self._tokens[here])
        found = np.zeros(self.atoms, dtype=bool)
        if tested.any():
            found[tested] = findings(score[tested], rate=rate)
        strength = np.divide(size, count, out=np.zeros_like(size), where=count > 0)
        return Usage(count / tokens, strength, change, tested, found, np.where(tested, score, 0.0))


def _scores(
    paired: Float[np.ndarray, "groups atoms"], tokens: Float[np.ndarray, " groups"] | Int[np.ndarray, " groups"]
) -> Float[np.ndarray, " atoms"]:
    """Return each atom's mean change over tokens in standard errors, groups of documents being what varies."""
    mean = paired.sum(axis=0) / tokens.sum()
    left = paired - tokens[:, None] * mean
    error = np.sqrt((left**2).sum(axis=0) * len(tokens) / max(1, len(tokens) - 1)) / tokens.sum()
    return np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
