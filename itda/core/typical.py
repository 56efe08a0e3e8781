"""Typical coefficients: the unit in which the strength of steering is given.

The typical coefficient of an atom is the median of |coefficient| over the activations whose code has it. Strength 1
adds as much of the atom as an activation that uses it has of it; strength 4 adds four times that. Activations of
another site, or of another model, may be a hundred times as long: so are the coefficients then, and a strength means
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64

from itda.core.code import SparseCode
from itda.errors import SettingError

LEAST_USES = 5
"""Uses that an atom needs for a typical coefficient of its own; with fewer it has that of the dictionary."""
SAMPLE_ATOMS = 512
"""Atoms, evenly spaced over those used, whose median gives the dictionary's own typical coefficient."""


@dataclass(frozen=True, eq=False)
class Typical:
    """The typical coefficients of a dictionary's atoms, by how a sample of activations used them.

    >>> import torch
    >>> code = SparseCode(torch.tensor([[0, 1]] * 6), torch.tensor([[2.0, -3.0]] * 6), torch.tensor([2] * 6))
    >>> typical = Typical.of_code(code, atoms=3)
    >>> typical.of(1), typical.of(2)  # atom 2 has no use: the dictionary's own
    (3.0, 2.5)
    """

    uses: Int64[np.ndarray, " atoms"]
    """Number of activations whose code has each atom."""
    coefficients: Callable[[int], Float[np.ndarray, " uses"]]
    """Returns the coefficients of an atom where it is used."""
    source: str = "a sample"
    """What the sample is, in words."""
    _known: dict[int, float] = field(default_factory=dict, repr=False)

    @staticmethod
    def of_code(code: SparseCode, atoms: int, source: str = "a sample") -> Typical:
        """Return the typical coefficients of a dictionary with so many atoms, in codes [activations, k]."""
        column = np.arange(code.k)
        within = column < code.count.cpu().numpy()[:, None]
        used, values = code.indices.cpu().numpy()[within], code.coefficients.float().cpu().numpy()[within]
        order = np.argsort(used, kind="stable")
        values, uses = values[order], np.bincount(used, minlength=atoms)
        ends = np.cumsum(uses)
        return Typical(uses, lambda atom: values[ends[atom] - uses[atom] : ends[atom]], source)

    def of(self, atom: int) -> float:
        """Return the typical coefficient of an atom, or that of the dictionary for one that is used too little.

        Raises `SettingError` if no atom is used.
        """
        if self.uses[atom] < LEAST_USES:
            return self.whole
        if atom not in self._known:
            self._known[atom] = float(np.median(np.abs(self.coefficients(atom))))
        return self._known[atom]

    @property
    def whole(self) -> float:
        """The dictionary's own typical coefficient: the median of those of its used atoms. Raises `SettingError`."""
        if -1 not in self._known:
            used = np.flatnonzero(self.uses >= LEAST_USES)
            used = used if len(used) else np.flatnonzero(self.uses)
            if not len(used):
                raise SettingError("no atom is used in the sample, so strength has no unit: give a larger sample")
            some = used[np.linspace(0, len(used) - 1, min(SAMPLE_ATOMS, len(used))).astype(np.int64)]
            medians = [float(np.median(np.abs(self.coefficients(int(atom))))) for atom in some]
            self._known[-1] = float(np.median(medians))
        return self._known[-1]
