"""Measures of a dictionary on activations: one definition each."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import fixed_dot, fixed_sum

TOKENS_AT_ONCE, VOCABULARY_AT_ONCE = 8, 2**13
"""Tokens and vocabulary whose logits are converted to float64 at once: as many as a processor's cache holds."""

ON_A_GPU = 64
"""Factor on `TOKENS_AT_ONCE` on a GPU, which has to be kept busy."""


class Unexplained:
    """fvu, the fraction of variance unexplained, over batches: sum ||x - x_hat||^2 / sum ||x - mean||^2.

    The mean is that of all the activations given, so the sums are kept in float64 and divided at the end. They are
    made on the device of the activations, in a fixed order: the same bits anywhere.

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
        # Sums are of x less the first activation: a mean that dwarfs the variance would cancel its digits.
        self._shift = torch.zeros(d_model, dtype=torch.float64)
        self._square = 0.0
        self._total = torch.zeros(d_model, dtype=torch.float64)

    def update(self, x: Float[Tensor, "batch d_model"], reconstruction: Float[Tensor, "batch d_model"]) -> None:
        """Add a batch of activations and their reconstructions."""
        if len(x) == 0:
            return
        x = x.double()
        self.residual += math.fsum(energies(x - reconstruction.to(x.device).double()).tolist())
        if self.tokens == 0:
            self._shift = x[0].clone()
        shifted = x - self._shift.to(x.device)
        self.tokens += len(x)
        self._square += math.fsum(energies(shifted).tolist())
        self._total = self._total.to(x.device) + fixed_sum(shifted.T.contiguous())

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """The mean activation so far, [d_model], on the device of the activations."""
        return self._shift.to(self._total.device) + self._total / max(1, self.tokens)

    def value(self) -> float:
        """Return the fraction; NaN where the activations do not vary."""
        variance = self._square - energies(self._total).item() / max(1, self.tokens)
        return self.residual / variance if variance > 0 else float("nan")


def energies(x: Float64[Tensor, "*batch d_model"]) -> Float64[Tensor, "*batch"]:
    """Return ||x||^2 of each vector, in a fixed order.

    >>> energies(torch.tensor([[3.0, 4.0]], dtype=torch.float64)).tolist()
    [25.0]
    """
    return fixed_dot(x, x)


def l0(code: SparseCode) -> float:
    """Return the mean number of atoms per activation.

    >>> import torch
    >>> l0(SparseCode(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3), torch.tensor([3, 2])))
    2.5
    """
    return code.count.double().mean().item()


def atom_uses(code: SparseCode, atoms: int) -> Int64[Tensor, " atoms"]:
    """Count the activations whose code has each atom.

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


def cross_entropy(
    logits: Float[Tensor, "places vocabulary"],
    targets: Int64[Tensor, " tokens"],
    at: Int64[Tensor, " tokens"] | None = None,
    normalizer: Float64[Tensor, " places"] | None = None,
) -> Float64[Tensor, " tokens"]:
    """Return -log of the probability of each target, in nats, in float64, some tokens and vocabulary at a time.

    `at` says which of the logits each target has, by default one after the other; `normalizer` is the
    `log_normalizer` of the logits, where it is at hand.

    >>> cross_entropy(torch.zeros(1, 8), torch.tensor([3])).exp().round(decimals=12).tolist()
    [8.0]
    """
    at = torch.arange(len(targets), device=logits.device) if at is None else at
    normalizer = log_normalizer(logits) if normalizer is None else normalizer
    return normalizer[at] - logits[at, targets].double()


def kl_divergence(
    p: Float[Tensor, "tokens vocabulary"],
    q: Float[Tensor, "tokens vocabulary"],
    log_p: Float64[Tensor, " tokens"] | None = None,
    log_q: Float64[Tensor, " tokens"] | None = None,
) -> Float64[Tensor, " tokens"]:
    """Return KL(p || q) of the distributions that logits stand for, in nats, computed as `cross_entropy` is.

    `log_p` and `log_q` are the `log_normalizer` of each, where they are at hand.

    >>> kl_divergence(torch.zeros(1, 4), torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])).tolist()
    [inf]
    """
    log_p = log_normalizer(p) if log_p is None else log_p
    log_q = log_normalizer(q) if log_q is None else log_q
    total = torch.zeros_like(log_p)
    for tokens, vocabulary in _tiles(p):
        share = p[tokens, vocabulary].double()
        difference = q[tokens, vocabulary].double()
        torch.sub(share, difference, out=difference)
        share.sub_(log_p[tokens, None]).exp_()
        found = torch.linalg.vecdot(share, difference)
        if not bool(found.isfinite().all()):
            # What p never says costs nothing, whatever q thinks of it.
            found = torch.where(share == 0, 0.0, share * difference).sum(dim=1)
        total[tokens] += found
    return total - (log_p - log_q)


def log_normalizer(logits: Float[Tensor, "tokens vocabulary"]) -> Float64[Tensor, " tokens"]:
    """Return the log of the sum of exponentials of each row, in float64.

    >>> log_normalizer(torch.zeros(1, 8)).exp().round(decimals=12).tolist()
    [8.0]
    """
    if logits.shape[1] == 0:
        return torch.full((len(logits),), -torch.inf, dtype=torch.float64, device=logits.device)
    largest = logits.amax(dim=1).double()
    # Subtracting an infinity from itself would make a NaN of what is 0 or infinite.
    shift = torch.where(largest.isinf(), 0.0, largest)
    total = torch.zeros_like(largest)
    for tokens, vocabulary in _tiles(logits):
        total[tokens] += logits[tokens, vocabulary].double().sub_(shift[tokens, None]).exp_().sum(dim=1)
    return total.log() + shift


def _tiles(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the tokens and the vocabulary to compute at once; all of the vocabulary before the next tokens."""
    at_once = TOKENS_AT_ONCE * (ON_A_GPU if logits.is_cuda else 1)
    for token in range(0, logits.shape[0], at_once):
        for word in range(0, logits.shape[1], VOCABULARY_AT_ONCE):
            yield slice(token, token + at_once), slice(word, word + VOCABULARY_AT_ONCE)
