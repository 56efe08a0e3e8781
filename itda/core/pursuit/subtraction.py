"""The subtraction in a step of a pursuit: of the new atom's projection, or of the fit by all picked atoms.

Both keep the state of a group of rows: coefficients so far, and residuals r = z - what these explain, in float64 and in
a fixed order, so that a row's bits depend on that row alone.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from itda.core.pursuit.fixed_order import fixed_dot, root, weighted_atoms

DEPENDENT = 1e-10
"""Least energy of a picked atom outside the span of the others: less adds nothing that float32 can express."""


@runtime_checkable
class Subtraction(Protocol):
    """Coefficients and residuals of some rows on their way through a pursuit."""

    coefficients: Float64[Tensor, "batch k"]
    """Coefficients of the picks so far, in the order of the steps."""
    residual: Float64[Tensor, "batch d_model"]

    def take(
        self,
        rows: Int64[Tensor, " rows"],
        step: int,
        index: Int64[Tensor, " rows"],
        correlation: Float64[Tensor, " rows"],
    ) -> Bool[Tensor, " rows"]:
        """Give each of these rows one more atom, the pick of that step, with its <r, d>.

        Updates coefficients and residuals. Tells which rows took theirs; the others are left as they are, and end.
        """
        ...


class Projection:
    """Subtract the projection on the new atom: a = <r, d>; r <- r - a d. Earlier coefficients stay."""

    def __init__(self, z: Float64[Tensor, "batch d_model"], atoms: Float[Tensor, "atoms d_model"], k: int) -> None:
        self.atoms = atoms
        self.residual = z.clone()
        self.coefficients = z.new_zeros(len(z), k)

    def take(
        self,
        rows: Int64[Tensor, " rows"],
        step: int,
        index: Int64[Tensor, " rows"],
        correlation: Float64[Tensor, " rows"],
    ) -> Bool[Tensor, " rows"]:
        """Give rows one more atom, as `Subtraction.take`; every row takes it."""
        self.coefficients[rows, step] = correlation
        self.residual[rows] -= correlation[:, None] * self.atoms[index].double()
        return torch.ones_like(rows, dtype=torch.bool)


class LeastSquares:
    """For each row, a growing set of atoms S with the Cholesky factor L of its Gram matrix (Rubinstein et al. 2008)."""

    def __init__(self, z: Float64[Tensor, "batch d_model"], atoms: Float[Tensor, "atoms d_model"], k: int) -> None:
        self.z, self.atoms = z, atoms
        self.indices = torch.zeros(len(z), k, dtype=torch.long, device=z.device)
        self.factor = torch.zeros(len(z), k, k, dtype=torch.float64, device=z.device)
        self.projected = z.new_zeros(len(z), k)  # y of L y = D_S z
        self.residual = z.clone()
        self.coefficients = z.new_zeros(len(z), k)

    def take(
        self,
        rows: Int64[Tensor, " rows"],
        step: int,
        index: Int64[Tensor, " rows"],
        correlation: Float64[Tensor, " rows"],
    ) -> Bool[Tensor, " rows"]:
        """Give rows one more atom, as `Subtraction.take`, and fit all: r <- z - fit. Dependent atoms are not taken."""
        del correlation  # the fit is to z itself
        taken = self.add(rows, step, index)
        rows = rows[taken]
        solution = self.solve(rows, step + 1)
        self.coefficients[rows, : step + 1] = solution
        self.residual[rows] = self.z[rows] - weighted_atoms(solution, self.atoms, self.indices[rows, : step + 1])
        return taken

    def add(self, rows: Tensor, place: int | Tensor, index: Int64[Tensor, " rows"]) -> Tensor:
        """Append one atom at `place` of each row; return a mask of the independent ones (others are left out)."""
        place = torch.as_tensor(place, device=rows.device).expand(len(rows))
        if len(rows) == 0:
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        width = int(place.max())
        new = self.atoms[index].double()
        before = self.atoms[self.indices[rows, :width]].double()  # rows width d_model
        gram = fixed_dot(before, new[:, None, :].expand_as(before))
        gram = gram.masked_fill(torch.arange(width, device=rows.device) >= place[:, None], 0)
        factor = self.factor[rows]
        w = torch.zeros_like(gram)
        pivot = fixed_dot(new, new)
        projected = fixed_dot(new, self.z[rows])
        for s in range(width):  # forward substitution, L w = gram; rows past their own place have gram = w = 0
            diagonal = factor[:, s, s]
            w[:, s] = torch.where(s < place, gram[:, s] / diagonal, 0.0)
            gram[:, s + 1 :] -= factor[:, s + 1 : width, s] * w[:, s, None]
            pivot = pivot - w[:, s] * w[:, s]
            projected = projected - w[:, s] * self.projected[rows, s]
        independent = pivot > DEPENDENT
        kept, at = rows[independent], place[independent]
        diagonal = root(pivot[independent])
        self.indices[kept, at] = index[independent]
        self.factor[kept, at, :width] = w[independent]
        self.factor[kept, at, at] = diagonal
        self.projected[kept, at] = projected[independent] / diagonal
        return independent

    def solve(self, rows: Tensor, length: int) -> Float64[Tensor, "rows length"]:
        """Return the coefficients of rows that have `length` atoms: L^T a = y, by back substitution."""
        factor, right = self.factor[rows], self.projected[rows, :length].clone()
        for s in range(length - 1, -1, -1):
            right[:, s] /= factor[:, s, s]
            right[:, :s] -= factor[:, s, :s] * right[:, s, None]
        return right
