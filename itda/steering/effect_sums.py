"""Changes of target tokens by atoms and by their controls, added up over contexts.

Each atom has targets of several kinds. What another atom does to *these* targets is a control, so for each context the
changes of an atom's targets are needed by the atom itself and by all of its controls: pairs of an atom with one of
those. They are kept ordered by the latter, as it is the one that is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Integer
from torch import Tensor

from itda.core.effects import TargetEffects
from itda.core.exceeding import bootstrapped, p_values

LEAST_CONTEXTS = 5
"""Contexts that an atom needs for an effect to be tested."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of an atom, whose targets are looked at, with one that is changed: itself (column 0), or a control."""

    of: Int64[np.ndarray, " pairs"]
    column: Int64[np.ndarray, " pairs"]
    starts: Int64[np.ndarray, " bounds"]
    """[atoms + 1]: the pairs in which atom i is changed are those from `starts[i]` to `starts[i + 1]`."""
    shape: tuple[int, int]
    """Atoms, and columns."""

    @staticmethod
    def with_controls(controls: Integer[np.ndarray, "atoms number"]) -> Pairs:
        """Pair each atom with itself and with its controls.

        >>> pairs = Pairs.with_controls(np.array([[1], [0], [1]]))
        >>> pairs.of.tolist(), pairs.column.tolist(), pairs.starts.tolist()
        ([0, 1, 0, 1, 2, 2], [0, 1, 1, 0, 1, 0], [0, 2, 5, 6])
        """
        atoms, number = controls.shape
        changed = np.concatenate([np.arange(atoms)[:, None], controls], axis=1).ravel()
        order = np.argsort(changed, kind="stable")
        starts = np.searchsorted(changed[order], np.arange(atoms + 1))
        return Pairs(order // (number + 1), order % (number + 1), starts, (atoms, number + 1))

    def changing(
        self, atoms: Int64[np.ndarray, " rows"]
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """Return the pairs in which each of some atoms is changed, and for each pair its place among those atoms."""
        counts = self.starts[atoms + 1] - self.starts[atoms]
        rows = np.repeat(np.arange(len(atoms)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self.starts[atoms], counts) + within, rows


def log_mass(
    log_p: Float32[Tensor, "rows vocabulary"], rows: Int64[np.ndarray, " n"], targets: Int64[Tensor, "n targets"]
) -> Float64[np.ndarray, " n"]:
    """Return the log of the summed probabilities of some targets (-1 for none), each in one row; NaN for no target.

    >>> log_mass(torch.tensor([[0.5, 0.25, 0.25]]).log(), np.array([0, 0]), torch.tensor([[1, 2], [-1, -1]])).tolist()
    [-0.6931471824645996, nan]
    """
    found = log_p[torch.from_numpy(rows)[:, None], targets.clamp(min=0)]
    if targets.shape[1] > 1:
        found = found.masked_fill(targets < 0, -torch.inf).logsumexp(dim=1, keepdim=True)
    return found[:, 0].masked_fill((targets < 0).all(dim=1), torch.nan).double().numpy()


class Sums:
    """Changes of each kind of target by one way to change atoms: by the atom, by its control, and by all controls."""

    def __init__(
        self, targets: Sequence[Int64[Tensor, "atoms targets"]], pairs: Pairs, contexts: int, *, sign: float
    ) -> None:
        """`sign` is 1 where a larger change means a larger effect, else -1."""
        atoms, columns = pairs.shape
        self.targets, self.pairs, self.sign = targets, pairs, sign
        self.own = np.full((len(targets), atoms, contexts), np.nan, np.float32)
        self.control = np.full((len(targets), atoms, contexts), np.nan, np.float32)
        self.total = np.zeros((len(targets), atoms, columns))
        """[kinds, atoms, columns]: sums of what the atom (column 0) and each control do to the atom's targets."""
        self.number = np.zeros((atoms, columns))
        """How many were added up; the same for all kinds."""

    ARRAYS = ("own", "control", "total", "number")

    def contexts(self, kind: int) -> Int32[np.ndarray, " atoms"]:
        """Return in how many contexts each atom's effect on one kind of target is known."""
        return (~np.isnan(self.own[kind])).sum(axis=1).astype(np.int32)

    def effects(self, kind: int, seed: int) -> TargetEffects:
        """Return means, intervals and ranks for one kind of target."""
        own, control = self.own[kind].astype(np.float64), self.control[kind].astype(np.float64)
        contexts = self.contexts(kind)
        few = contexts < LEAST_CONTEXTS
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(self.number >= LEAST_CONTEXTS, self.total[kind] / self.number, np.nan)
            middle = [np.where(few, np.nan, np.nansum(each, axis=1) / contexts) for each in (own, control)]
        low, high = bootstrapped(np.where(few[:, None], np.nan, own - control), seed)
        p = p_values(np.where(few, np.nan, self.sign * means[:, 0]), self.sign * means[:, 1:])
        return TargetEffects(*(each.astype(np.float32) for each in (*middle, low, high, p)))


class AddedSums(Sums):
    """Sums over contexts in each of which all atoms are added."""

    def __init__(
        self,
        targets: Sequence[Int64[Tensor, "atoms targets"]],
        pairs: Pairs,
        apart: Bool[np.ndarray, "atoms contexts"],
    ) -> None:
        """`apart` is True where a context counts for an atom's targets."""
        super().__init__(targets, pairs, apart.shape[1], sign=1.0)
        self.apart = apart
        self._changes = np.full(self.total.shape, np.nan)

    def add(
        self,
        atoms: Int64[np.ndarray, " rows"],
        log_p: Float32[Tensor, "rows vocabulary"],
        clean: Float32[Tensor, " vocabulary"],
    ) -> None:
        """Take what some atoms did in the present context."""
        pairs, rows = self.pairs.changing(atoms)
        of, column = self.pairs.of[pairs], self.pairs.column[pairs]
        for kind, targets in enumerate(self.targets):
            wanted = targets[torch.from_numpy(of)]
            before = log_mass(clean[None], np.zeros(len(of), np.int64), wanted)
            self._changes[kind, of, column] = log_mass(log_p, rows, wanted) - before

    def close(self, context: int) -> None:
        """End a context in which all atoms were added."""
        fit = self.apart[:, context]
        self.own[:, fit, context] = self._changes[:, fit, 0]
        self.control[:, fit, context] = self._changes[:, fit, 1:].mean(axis=2)
        self.total[:, fit] += self._changes[:, fit]
        self.number[fit] += 1


class AblatedSums(Sums):
    """Sums over tokens at which single atoms of a code are ablated, beside others of the same code."""

    def __init__(self, targets: Sequence[Int64[Tensor, "atoms targets"]], pairs: Pairs, contexts: int) -> None:
        super().__init__(targets, pairs, contexts, sign=-1.0)

    def add(
        self,
        atoms: Int64[np.ndarray, " entries"],
        context: Int64[np.ndarray, " entries"],
        log_p: Float32[Tensor, "rows vocabulary"],
        own: Int64[np.ndarray, " entries"],
        mates: Int64[np.ndarray, "entries mates"],
        clean: Float32[Tensor, "tokens vocabulary"],
        at: Int64[np.ndarray, " entries"],
    ) -> None:
        """Take what ablating some atoms did: `own` and `mates` are rows of `log_p`, `at` is the row of `clean`."""
        pairs, entries = self.pairs.changing(atoms)
        of, column = self.pairs.of[pairs], self.pairs.column[pairs]
        first = column == 0
        for kind, targets in enumerate(self.targets):
            wanted = targets[torch.from_numpy(of)]
            after = log_mass(log_p, own[entries], wanted)
            beside = np.mean([log_mass(log_p, each[entries], wanted) for each in mates.T], axis=0)
            np.add.at(self.total[kind], (of, column), after - beside)
            before = log_mass(clean, at, targets[torch.from_numpy(atoms)])
            self.own[kind, atoms, context] = after[first] - before
            self.control[kind, atoms, context] = beside[first] - before
        np.add.at(self.number, (of, column), 1)
