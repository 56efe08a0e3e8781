"""Measures of a dictionary on activations: one definition each."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itda.core.code import SparseCode


class Unexplained:
    """fvu, the fraction of variance unexplained, over batches: sum ||x - x_hat||^2 / sum ||x - mean||^2.

    The mean is that of all the activations given, so the sums are kept in float64 and divided at the end.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> measure = Unexplained(d_model=2)
    >>> measure.update(x, 0.5 * x)
    >>> measure.value()
    0.25
    """

    def __init__(self, d_model: int) -> None:
        self.tokens = 0
        self.residual = 0.0
        # Sums are of x - origin, the first activation: a mean that dwarfs the variance would cancel its digits.
        self._origin = torch.zeros(d_model, dtype=torch.float64)
        self._square = 0.0
        self._total = torch.zeros(d_model, dtype=torch.float64)

    def update(self, x: Float[Tensor, "batch d_model"], reconstruction: Float[Tensor, "batch d_model"]) -> None:
        """Add a batch of activations and their reconstructions."""
        exact = x.double().cpu()
        self.residual += (exact - reconstruction.double().cpu()).square().sum().item()
        if self.tokens == 0 and len(exact):
            self._origin = exact[0].clone()
        shifted = exact - self._origin
        self.tokens += len(exact)
        self._square += shifted.square().sum().item()
        self._total += shifted.sum(dim=0)

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """The mean activation so far."""
        return self._origin + self._total / max(1, self.tokens)

    def value(self) -> float:
        """The fraction; NaN where the activations do not vary."""
        variance = self._square - self._total.square().sum().item() / max(1, self.tokens)
        return self.residual / variance if variance > 0 else float("nan")


def l0(code: SparseCode) -> float:
    """Mean number of atoms per activation.

    >>> import torch
    >>> l0(SparseCode(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3), torch.tensor([3, 2])))
    2.5
    """
    return code.count.double().mean().item()


def atom_uses(code: SparseCode, atoms: int) -> Int64[Tensor, " atoms"]:
    """How many activations each atom is part of.

    >>> import torch
    >>> code = SparseCode(torch.tensor([[2, 0], [2, 1]]), torch.ones(2, 2), torch.tensor([1, 2]))
    >>> atom_uses(code, 4).tolist()
    [0, 1, 2, 0]
    """
    used = torch.arange(code.k, device=code.indices.device) < code.count[..., None]
    return torch.bincount(code.indices[used], minlength=atoms)


def ce_loss_score(*, clean: float, spliced: float, zero: float) -> float:
    """(CE_zero - CE_spliced) / (CE_zero - CE_clean): 1 for a perfect reconstruction, 0 for one no better than zeros.

    NaN where zeroing the site costs nothing.

    >>> ce_loss_score(clean=2.0, spliced=3.0, zero=6.0)
    0.75
    """
    return (zero - spliced) / (zero - clean) if zero != clean else float("nan")
