"""SparseCode: a decomposition as atom indices and coefficients, never as a dense vector."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseCode:
    """At most k atoms and signed coefficients per activation, in the order they were first picked.

    Only the first `count` entries of a row mean anything; the rest are index 0 with coefficient 0, so that sums over
    a row need no mask.

    >>> code = SparseCode.from_picks(torch.tensor([[4, 2, 4]]), torch.tensor([[3.0, 1.0, -0.5]]), torch.tensor([3]))
    >>> code.indices.tolist(), code.coefficients.tolist(), code.count.tolist()
    ([[4, 2, 0]], [[2.5, 1.0, 0.0]], [2])
    >>> code.dense(6).shape
    torch.Size([1, 6])
    """

    indices: Int64[Tensor, "*batch k"]
    coefficients: Float[Tensor, "*batch k"]
    count: Int64[Tensor, "*batch"]

    @staticmethod
    def from_picks(
        indices: Int64[Tensor, "batch k"], coefficients: Float[Tensor, "batch k"], count: Int64[Tensor, " batch"]
    ) -> "SparseCode":
        """Merge atoms that were picked more than once: their coefficients add up, in pick order, at the first pick."""
        steps = torch.arange(indices.shape[1], device=indices.device)
        picked = steps < count[:, None]  # batch k
        # Picks of one atom become neighbours, in the order of the steps.
        by_atom = torch.where(picked, indices, -1).argsort(dim=1, stable=True)
        atom, sums = indices.gather(1, by_atom), torch.where(picked, coefficients, 0).gather(1, by_atom)
        taken, terms = picked.gather(1, by_atom), sums
        sums = sums + 0.0  # -0.0 becomes 0.0, as in a sum that begins with it
        for later in range(1, indices.shape[1]):  # one term at a time: the order of a sum decides its last bit
            same = taken[:, :-later] & taken[:, later:] & (atom[:, :-later] == atom[:, later:])
            if not bool(same.any()):
                break
            sums[:, :-later] += torch.where(same, terms[:, later:], 0)
        first = taken.clone()
        first[:, 1:] &= ~taken[:, :-1] | (atom[:, 1:] != atom[:, :-1])
        kept = torch.empty_like(picked).scatter_(1, by_atom, first)
        merged = torch.empty_like(coefficients).scatter_(1, by_atom, sums)
        order = kept.logical_not().to(torch.int8).argsort(dim=1, stable=True)  # kept ones to the front, in order
        number = kept.sum(dim=1)
        padding = steps >= number[:, None]
        return SparseCode(
            indices.gather(1, order).masked_fill(padding, 0), merged.gather(1, order).masked_fill(padding, 0), number
        )

    def __repr__(self) -> str:
        lead = tuple(self.count.shape)
        many = f"{lead[0]:,} activations" if len(lead) == 1 else f"activations of shape {list(lead)}"
        mean = f", {self.count.double().mean():.1f} on average" if self.count.numel() else ""
        return f"<SparseCode of {many}: at most {self.k} atoms each{mean}>"

    @property
    def k(self) -> int:
        """The largest number of atoms that a row can have."""
        return self.indices.shape[-1]

    def shaped(self, lead: torch.Size, device: torch.device) -> "SparseCode":
        """Return these codes in a batch of shape `lead`, on a device."""
        parts = self.indices.reshape(*lead, self.k), self.coefficients.reshape(*lead, self.k), self.count.reshape(lead)
        return SparseCode(*(part.to(device) for part in parts))

    def dense(self, atoms: int) -> Float[Tensor, "*batch atoms"]:
        """Return the coefficients as vectors [..., atoms]: for small dictionaries and for other tools."""
        full = self.coefficients.new_zeros(*self.indices.shape[:-1], atoms)
        if atoms == 0:
            return full
        return full.scatter_add(-1, self.indices, self.coefficients)
