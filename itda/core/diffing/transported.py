"""The base's dictionary, read again in the changed model: what it leaves unexplained there, and not in the base.

A label names a token, so an atom of the base has an activation in the changed model: that of the same token. As the
base's dictionary grows, these make the *transported* dictionary, atom for atom, with no alignment of the two spaces;
the models may have other widths. A token that the base explains by its own dictionary, and the changed model does not
by the transported one, at the same threshold, shows what the base's text has no part for: it is appended to the
transported dictionary alone, and is an atom that only the changed model needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Shaped
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.diffing.blocks import Blocks
from itda.core.diffing.units import unit_rows
from itda.core.diffing.usage import Usage, UsageTally
from itda.core.pursuit import encoder
from itda.core.training.growth import growth_for
from itda.errors import SettingError

OPENING = 2048
"""Number of first tokens that give the offsets and the threshold."""

THRESHOLDS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05)
"""Errors above which a token becomes an atom: the largest at which the first tokens give enough atoms is taken."""

SHARE = 0.1
"""Share of the first tokens that are to become atoms."""

MOST = 2048
"""Atoms of the base's dictionary, at most."""

BLOCK = 512
"""Tokens that are gone through together; the result depends on it, so it is no setting."""


@dataclass(frozen=True, eq=False)
class Transported:
    """What the transported dictionary found. Rows are numbers of tokens, from 0, as they were offered."""

    threshold: float
    rows: Int64[np.ndarray, " atoms"]
    """The tokens of the base's atoms."""
    changed_rows: Int64[np.ndarray, " extra"]
    """The tokens of the atoms that only the changed model needs."""
    base_atoms: Float32[Tensor, "atoms base_width"]
    changed_atoms: Float32[Tensor, "all changed_width"]
    """The transported atoms, then those that only the changed model needs; unit vectors, as all atoms."""
    base_error: Float64[np.ndarray, " tokens"]
    changed_error: Float64[np.ndarray, " tokens"]
    """The error of each token once its block was gone through: in the base by its dictionary, in the changed model by
    the transported one. An atom's own token has error 0 in both."""
    explained: Float64[np.ndarray, " extra"]
    """Of each atom that only the changed model needs: the energy that it explains in later tokens, as a share of all
    energy."""
    users: Int64[np.ndarray, " extra"]
    """The number of later tokens that use it."""


class TransportedPass:
    """Takes the activations of both models at the same tokens, in order, in pieces of any size.

    >>> one = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    >>> both = TransportedPass(8, 8, k=2)
    >>> both.offer(one, one)
    >>> len(both.finish().changed_rows)  # a model that did not change needs no atom of its own
    0
    """

    def __init__(
        self, base_width: int, changed_width: int, *, k: int, threshold: float | None = None, usage: bool = False
    ) -> None:
        if k < 1:
            raise SettingError(f"k is {k}: a code needs at least 1 atom")
        if usage and base_width != changed_width:
            raise SettingError("use is compared by one dictionary, so both models must have one width")
        self.k, self.threshold = k, threshold
        self._blocks = Blocks(OPENING, BLOCK)
        self._documents: list[np.ndarray] = []
        self._tally = UsageTally(MOST) if usage else None
        self._growing: _Growing | None = None

    @torch.no_grad()
    def offer(
        self,
        base: Float[Tensor, "batch base_width"],
        changed: Float[Tensor, "batch changed_width"],
        documents: Shaped[np.ndarray, " batch"] | None = None,
    ) -> None:
        """Take some tokens; their documents are needed where use is counted."""
        if self._tally is not None:
            if documents is None:
                raise SettingError("no documents to count the use of atoms by: give them")
            self._documents.append(np.asarray(documents))
        for x, y in self._blocks.add(base, changed):
            self._take(x, y)

    @torch.no_grad()
    def finish(self) -> Transported:
        """Return what was found. Raises `SettingError` if no token came."""
        for x, y in self._blocks.rest():
            self._take(x, y)
        if self._growing is None:
            raise SettingError("there are no tokens: give at least one")
        return self._growing.found()

    def _take(self, x: Tensor, y: Tensor) -> None:
        if self._growing is None:
            first = x.mean(dim=0)
            threshold = self.threshold if self.threshold is not None else _threshold(x - first, self.k)
            self._growing = _Growing(first, y.mean(dim=0), self.k, threshold)
        for start in range(0, len(x), BLOCK):
            part = x[start : start + BLOCK], y[start : start + BLOCK]
            self._growing.block(*part)
            if self._tally is not None:
                self._tally.add(self._next_documents(len(part[0])), *self._growing.codes_in_base(*part))

    def _next_documents(self, number: int) -> np.ndarray:
        """Return the documents of the next tokens that are gone through."""
        joined = np.concatenate(self._documents)
        self._documents = [joined[number:]]
        return joined[:number]

    def usage(self, *, rate: float = 0.05) -> Usage | None:
        """Return how both models use the base's atoms; None unless it was counted. After `finish`."""
        return self._tally.usage(rate=rate).first(self._atoms()) if self._tally is not None else None

    def _atoms(self) -> int:
        return self._growing.growth.number if self._growing is not None else 0


def _threshold(first: Float[Tensor, "tokens width"], k: int) -> float:
    """Return the largest of `THRESHOLDS` at which enough of the first tokens become atoms."""
    for threshold in THRESHOLDS:
        growth = growth_for(torch.device("cpu"), "mp")(first.shape[1], k, threshold, "mp", most=len(first))
        if len(growth.offer(first)) >= SHARE * len(first):
            return threshold
    return THRESHOLDS[-1]


class _Growing:
    """The two dictionaries on their way."""

    def __init__(self, base_mean: Tensor, changed_mean: Tensor, k: int, threshold: float) -> None:
        self.means, self.k, self.threshold = (base_mean, changed_mean), k, threshold
        self.growth = growth_for(torch.device("cpu"), "mp")(len(base_mean), k, threshold, "mp", most=MOST)
        self.rows: list[int] = []
        self.extra_rows: list[int] = []
        self.transported = torch.zeros(0, len(changed_mean))
        self.extra = torch.zeros(0, len(changed_mean))
        self.errors: list[tuple[Tensor, Tensor]] = []
        self.explained: list[float] = []
        self.users: list[int] = []
        self.energy, self.seen = 0.0, 0

    def block(self, base: Tensor, changed: Tensor) -> None:
        """Go through some tokens: grow the base's dictionary, carry its atoms over, and append what is left."""
        x, y = base - self.means[0], changed - self.means[1]
        new = self.growth.offer(x)
        base_error = self.growth.encode(x)[1] if self.growth.number else torch.ones(len(x), dtype=torch.float64)
        self.transported = torch.cat([self.transported, unit_rows(y[new])])
        error, indices, coefficients = self._encoded(y)
        self._count(y, indices, coefficients)
        self.errors.append((base_error, error))
        self.rows += [self.seen + row for row in new]
        left = (error > self.threshold) & (base_error <= self.threshold)
        self._append(y, left.nonzero()[:, 0])
        self.seen += len(x)

    def codes_in_base(self, base: Tensor, changed: Tensor) -> tuple[SparseCode, SparseCode]:
        """Return the codes of some tokens of both models in the base's dictionary, about the base's mean."""
        first = self.growth.encode(base - self.means[0])[0]
        return first, self.growth.encode(changed - self.means[0])[0]

    def _encoded(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        atoms = torch.cat([self.transported, self.extra])
        if not len(atoms):
            return torch.ones(len(y), dtype=torch.float64), torch.zeros(len(y), 1).long(), torch.zeros(len(y), 1)
        code, error = encoder(atoms, min(self.k, len(atoms)), "mp")(y)
        return error, code.indices, code.coefficients.double()

    def _count(self, y: Tensor, indices: Tensor, coefficients: Tensor) -> None:
        """Count the use of the extra atoms that were there before this block."""
        self.energy += float(y.double().square().sum())
        number, first = len(self.extra), len(self.transported)
        if not number:
            return
        own = (indices >= first) & (coefficients != 0)
        at = indices[own] - first
        energy = torch.bincount(at, coefficients[own] ** 2, minlength=number)
        count = torch.bincount(at, minlength=number)
        for atom in range(number):
            self.explained[atom] += float(energy[atom])
            self.users[atom] += int(count[atom])

    def _append(self, y: Tensor, candidates: Tensor) -> None:
        """Append candidates in order, each unless the atoms before it explain it."""
        while len(candidates):
            first, rest = int(candidates[0]), candidates[1:]
            self.extra = torch.cat([self.extra, unit_rows(y[first : first + 1])])
            self.extra_rows.append(self.seen + first)
            self.explained.append(0.0)
            self.users.append(0)
            if len(rest):
                rest = rest[self._encoded(y[rest])[0] > self.threshold]
            candidates = rest

    def found(self) -> Transported:
        base, changed = (torch.cat([each[i] for each in self.errors]).numpy() for i in range(2))
        return Transported(
            self.threshold,
            np.array(self.rows, dtype=np.int64),
            np.array(self.extra_rows, dtype=np.int64),
            self.growth.atoms.clone(),
            torch.cat([self.transported, self.extra]),
            base,
            changed,
            np.array(self.explained) / max(self.energy, 1e-300),
            np.array(self.users, dtype=np.int64),
        )
