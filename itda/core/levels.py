"""Two levels: a code whose first atoms are few and broad, and tell what an activation is like; then the details.

A pursuit in thousands of atoms names a concept by another atom each time. Here the first steps see only the atoms that
stand for clusters of the dictionary's, with coefficients that cannot be negative, so one concept keeps its atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA, UNKNOWN, check_width, target_of
from itda.core.pursuit.fixed_order import fixed_dot, fixed_sum, root, scaled, weighted_atoms
from itda.core.pursuit.gram_float64 import gram_of, picks
from itda.core.readout import best_cosines
from itda.errors import SettingError

ROUNDS = 20  # of k-means, at most
PRODUCTS = 2**20  # in memory at once, where activations are correlated with broad atoms


@dataclass(frozen=True, eq=False)
class TwoLevels:
    """A dictionary read on two levels; `two_levels` makes it. Its codes have the atoms and labels of `dictionary`."""

    dictionary: ITDA
    broad: Int64[Tensor, " broad"]
    """Indices of the broad atoms in the dictionary, ascending."""
    groups: Int64[Tensor, " atoms"]
    """The group of each atom: `broad[groups[i]]` is the broad atom that stands for atom i."""
    k_broad: int

    @torch.no_grad()
    def encode(self, activations: Float[Tensor, "*batch d_model"]) -> SparseCode:
        """Decompose activations [..., d_model] into codes [..., k]: `k_broad` steps, then the rest of k.

        First non-negative matching pursuit (`nn_mp`) in the broad atoms. Then
        matching pursuit of what is left in all other atoms, so a broad atom's coefficient is never negative. The bits
        of a row depend on that row alone. Raises `ActivationError` as `ITDA.encode`.
        """
        dictionary, device = self.dictionary, activations.device
        check_width(activations, dictionary.d_model)
        flat = activations.reshape(-1, dictionary.d_model)
        z = target_of(flat, dictionary.d_model, dictionary.offset).to(dictionary.atoms.device).double()
        # A power of two brings every row near 1 without rounding: no square under- or overflows.
        exponent = torch.frexp(z.abs().amax(dim=1)).exponent[:, None]
        left = scaled(z, -exponent)
        parts = [self._first(part) for part in left.split(max(1, PRODUCTS // (len(self.broad) * dictionary.d_model)))]
        indices, coefficients = (torch.cat(column) for column in zip(*parts, strict=True))
        found = coefficients > 0
        if self.k_broad < dictionary.k:
            rest = self._detail.encode(left - weighted_atoms(coefficients, dictionary.atoms, indices))
            taken = torch.arange(rest.k, device=left.device) < rest.count[:, None]
            chosen = self._others[rest.indices] if len(self._others) else rest.indices
            indices, found = torch.cat([indices, chosen], dim=1), torch.cat([found, taken], dim=1)
            coefficients = torch.cat([coefficients, rest.coefficients], dim=1)
        front = found.logical_not().to(torch.int8).argsort(dim=1, stable=True)  # the steps that were taken
        code = SparseCode.from_picks(indices.gather(1, front), coefficients.gather(1, front), found.sum(dim=1))
        total = scaled(code.coefficients, exponent).to(torch.promote_types(activations.dtype, torch.float32))
        return replace(code, coefficients=total).shaped(activations.shape[:-1], device)

    def decode(self, code: SparseCode) -> Float[Tensor, "*batch d_model"]:
        """Reconstruct activations [..., d_model]: as `ITDA.decode`."""
        return self.dictionary.decode(code)

    @torch.no_grad()
    def grouped(self, code: SparseCode) -> SparseCode:
        """Add up each group's coefficients in a code [..., k] of the dictionary, of whatever pursuit; as [..., k].

        Its indices are the broad atoms that stand for the groups.
        """
        device, k = code.indices.device, code.k
        stands = self.broad[self.groups].to(device)[code.indices].reshape(-1, k)
        summed = SparseCode.from_picks(stands, code.coefficients.reshape(-1, k), code.count.reshape(-1))
        return summed.shaped(code.count.shape, device)

    @torch.no_grad()
    def similar(self, activations: Float[Tensor, "*batch d_model"], *, top: int | None = None) -> SparseCode:
        """Return `top` (default: k) largest cosines of activations [..., d_model] to the broad atoms, as [..., top].

        For detection alone: it does not decode. Raises as `ITDA.similarity`.
        """
        top = min(self.dictionary.k if top is None else top, len(self.broad))
        found = self._coarse.similarity(activations, top=top)
        assert isinstance(found, SparseCode)
        return SparseCode(self.broad.to(found.indices.device)[found.indices], found.coefficients, found.count)

    def _first(self, z: Float64[Tensor, "batch d_model"]) -> tuple[Tensor, Tensor]:
        """Pick atoms [batch, k_broad], with coefficients: 0 where no correlation is positive. Sums have one order."""
        found, coefficients = picks(z, self._coarse.atoms.double(), self._gram, self.k_broad, "nn_mp")
        return self.broad[found], coefficients

    @cached_property
    def _gram(self) -> Float64[Tensor, "broad broad"]:
        return gram_of(self._coarse.atoms.double())

    @cached_property
    def _others(self) -> Int64[Tensor, " others"]:
        return (
            torch.isin(torch.arange(len(self.dictionary)), self.broad.cpu(), invert=True).nonzero()[:, 0].to(self.broad)
        )

    @cached_property
    def _detail(self) -> ITDA:
        return replace(
            _part(self.dictionary, self._others), k=self.dictionary.k - self.k_broad, pursuit="mp", offset=None
        )

    @cached_property
    def _coarse(self) -> ITDA:
        return _part(self.dictionary, self.broad)


@torch.no_grad()
def two_levels(dictionary: ITDA, *, broad: int | None = None, k_broad: int | None = None) -> TwoLevels:
    """Choose broad atoms among those of a dictionary: those nearest to the centres of `broad` clusters of its atoms.

    `broad` is 2 k by default, but at most a quarter of the atoms; `k_broad` is half of k. The clusters are those of
    spherical k-means that starts from atoms far from each other. They are a function of the dictionary alone, the same
    for any number of threads: there is nothing to save. Atoms that coincide may make them fewer than asked for. Raises
    `SettingError` for settings out of range.

    >>> import torch, itda
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(4)))
    >>> atoms = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    >>> levels = two_levels(itda.ITDA(atoms, labels, k=2), broad=1, k_broad=1)
    >>> levels.broad.tolist(), levels.groups.tolist()
    ([1], [0, 0, 0, 0])
    >>> code = levels.encode(torch.tensor([[4.0, 4.0]]))
    >>> code.indices[0, 0].item(), levels.grouped(code).count.tolist()
    (1, [1])
    """
    number = len(dictionary)
    broad = max(1, min(2 * dictionary.k, number // 4)) if broad is None else broad
    k_broad = max(1, dictionary.k // 2) if k_broad is None else k_broad
    if not 1 <= broad <= number:
        raise SettingError(f"broad is {broad}: it must be from 1 to {number}, the atoms of the dictionary")
    if not 1 <= k_broad <= dictionary.k:
        raise SettingError(f"k_broad is {k_broad}: it must be from 1 to {dictionary.k}, the k of the dictionary")
    atoms, device = dictionary.atoms.cpu(), dictionary.atoms.device
    centres, groups = grouped(atoms, atoms[_spread(atoms, broad)])
    members, chosen = stand_ins(atoms, centres, groups)
    for place, group in enumerate(order := chosen.argsort().tolist()):
        groups[members[group]] = place
    return TwoLevels(dictionary, chosen[order].to(device), groups.to(device), k_broad)


def grouped(
    atoms: Float32[Tensor, "atoms d_model"], centres: Float32[Tensor, "groups d_model"]
) -> tuple[Float32[Tensor, "groups d_model"], Int64[Tensor, " atoms"]]:
    """Group unit vectors by spherical k-means that starts from some centres: return the centres, and each one's group.

    The same bits for any number of threads. A group that loses all of its members keeps its centre.

    >>> atoms = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])
    >>> grouped(atoms, atoms[1:])[1].tolist()
    [0, 0, 1]
    """
    centres, groups = centres.clone(), torch.full((len(atoms),), -1)
    for _ in range(ROUNDS):
        before, groups = groups, best_cosines(atoms, centres, top=1).indices[:, 0]
        if torch.equal(before, groups):
            break
        for group in groups.unique().tolist():
            # numpy adds rows one after the other: the same sum for any number of threads.
            total = torch.as_tensor(atoms[groups == group].double().numpy().sum(axis=0))
            centres[group] = (total / root(fixed_dot(total, total)).clamp(min=1e-12)).float()
    return centres, groups


def stand_ins(
    atoms: Float32[Tensor, "atoms d_model"],
    centres: Float32[Tensor, "groups d_model"],
    groups: Int64[Tensor, " atoms"],
) -> tuple[list[Int64[Tensor, " members"]], Int64[Tensor, " found"]]:
    """Return the members of each group that has some, and the one nearest to its centre: no two groups share one."""
    found = groups.unique().tolist()
    members = [(groups == group).nonzero()[:, 0] for group in found]
    nearest = [
        best_cosines(centres[group : group + 1], atoms[m], top=1).indices[0, 0]
        for group, m in zip(found, members, strict=True)
    ]
    return members, torch.stack([m[i] for m, i in zip(members, nearest, strict=True)])


def _spread(atoms: Float32[Tensor, "atoms d_model"], number: int) -> list[int]:
    """Return the atom nearest to the mean of all, then each time the one farthest from those before it."""
    mean = torch.as_tensor(atoms.double().numpy().sum(axis=0))
    found = [int(best_cosines(mean[None], atoms, top=1).indices[0, 0])]
    nearest = np.full(len(atoms), -2.0)
    while len(found) < number:
        last = atoms[found[-1]].double()
        cosines = [fixed_sum(part.double() * last) for part in atoms.split(4096)]
        nearest = np.maximum(nearest, torch.cat(cosines).numpy())
        found.append(int(nearest.argmin()))  # of equals the first
    return found


def _part(dictionary: ITDA, atoms: Int64[Tensor, " part"]) -> ITDA:
    return replace(
        dictionary,
        atoms=dictionary.atoms[atoms],
        labels=dictionary.labels[atoms.cpu()],
        **UNKNOWN,
    )
