"""What itda's pursuit and training are measured against.

`textbook_loop` and `textbook_training` are the released method, float32, written with care: whole batches, one product
with the dictionary per step, no temporary that can be reused. The others are libraries; `SIDES` lists them with what
each does differently. Where a side can take the Gram matrix ready made, it gets it, and no timing includes making it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.util import find_spec

import torch
from common import installed
from torch import Tensor

from itda import SparseCode

Encode = Callable[[Tensor], Tensor]
"""Activations [batch, d_model] to dense codes [batch, atoms]."""

GRAM_BYTES = 4 * 2**30
"""Sides that need all of the Gram matrix are left out above this."""

CODE_BYTES = 2**30
"""Room for what a side keeps per activation, where that is much."""


def textbook_loop(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    """Matching pursuit as in the released script: dense float32 codes [batch, atoms]."""
    return _textbook(x, atoms, k)[0]


@torch.no_grad()
def _textbook(x: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The codes, and what they leave over."""
    residual = x.clone()
    code = x.new_zeros(len(x), len(atoms))
    correlations, magnitude = torch.empty_like(code), torch.empty_like(code)
    for _ in range(k):
        torch.mm(residual, atoms.T, out=correlations)
        torch.abs(correlations, out=magnitude)
        best = magnitude.argmax(dim=1, keepdim=True)
        coefficient = correlations.gather(1, best)
        code.scatter_add_(1, best, coefficient)
        residual -= coefficient * atoms[best.squeeze(1)]
    return code, residual


def textbook_training(
    x: Tensor, k: int, threshold: float, batch_size: int, atoms: int | None = None
) -> tuple[Tensor, int]:
    """The textbook's dictionary, and how many activations it took. Stops at `atoms` atoms."""
    found = x.new_empty(0, x.shape[1]), 0
    for seen, dictionary in textbook_batches(x, k, threshold, batch_size, atoms):
        found = dictionary, seen
        if len(dictionary) == atoms:
            break
    return found


@torch.no_grad()
def textbook_batches(
    x: Tensor, k: int, threshold: float, batch_size: int, atoms: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The textbook's procedure: all misses of a batch are appended at once, while there are fewer than `atoms` atoms.

    Gives the number of activations so far and the dictionary, after each batch. A miss leaves more than `threshold` of
    its energy unexplained.
    """
    dictionary, seen = x.new_empty(0, x.shape[1]), 0
    for batch in x.split(batch_size):
        seen += len(batch)
        energy = batch.square().sum(dim=1)
        # The loop has the residual at hand: no need to decode.
        left = _textbook(batch, dictionary, k)[1].square().sum(dim=1) if len(dictionary) else energy
        missed = batch[(left > threshold * energy) & (energy > 0)]
        missed = missed[: None if atoms is None else atoms - len(dictionary)]
        if len(missed):
            dictionary = torch.cat([dictionary, missed / missed.norm(dim=1, keepdim=True)])
        yield seen, dictionary


@dataclass(frozen=True, eq=False)
class Problem:
    """A dictionary of unit atoms, and k."""

    atoms: Tensor
    k: int

    @property
    def gram_bytes(self) -> int:
        """Size of the Gram matrix in float32."""
        return 4 * len(self.atoms) ** 2

    @cached_property
    def gram(self) -> Tensor:
        """All of it, made once for all sides."""
        return self.atoms @ self.atoms.T


def _textbook_side(problem: Problem) -> Encode:
    return lambda x: textbook_loop(x, problem.atoms, problem.k)


def _gram_loop(problem: Problem) -> Encode:
    """The textbook's loop with correlations updated by rows of the whole Gram matrix."""
    atoms, gram, k = problem.atoms, problem.gram, problem.k

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        code = x.new_zeros(len(x), len(atoms))
        correlations = x @ atoms.T
        magnitude, update = torch.empty_like(correlations), torch.empty_like(correlations)
        for _ in range(k):
            torch.abs(correlations, out=magnitude)
            best = magnitude.argmax(dim=1, keepdim=True)
            coefficient = correlations.gather(1, best)
            code.scatter_add_(1, best, coefficient)
            torch.index_select(gram, 0, best.squeeze(1), out=update)
            correlations.addcmul_(update, coefficient, value=-1)
        return code

    return encode


def _sae_lens(problem: Problem) -> Encode:
    from sae_lens.saes import matching_pursuit_sae as lens  # pyright: ignore[reportMissingImports]

    m, d_model = problem.atoms.shape
    wanted = {
        "d_in": d_model,
        "d_sae": m,
        "apply_b_dec_to_input": False,
        "max_iterations": problem.k,
        # Its own stops would end a pursuit before k atoms, and cost a comparison of dense codes at every step.
        "residual_threshold": 0.0,
        "stop_on_duplicate_support": False,
        # Not in every version; where it is, all of the Gram matrix is made at every call.
        "use_gram": True,
    }
    known = {field.name for field in fields(lens.MatchingPursuitSAEConfig)}
    sae = lens.MatchingPursuitSAE(
        lens.MatchingPursuitSAEConfig(**{name: value for name, value in wanted.items() if name in known})
    )
    sae.to(problem.atoms.device)
    sae.W_dec.data = problem.atoms
    sae.eval()
    return torch.no_grad()(sae.encode)


def _scikit_learn(problem: Problem) -> Encode:
    import warnings

    from sklearn.linear_model import orthogonal_mp_gram

    gram, atoms = problem.gram.numpy(), problem.atoms

    def encode(x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a row that ends before k atoms
            code = orthogonal_mp_gram(gram, (atoms @ x.T).numpy(), n_nonzero_coefs=problem.k)
        return torch.from_numpy(code).reshape(len(atoms), -1).T

    return encode


def _batched_omp(problem: Problem) -> Encode:
    from orthogonal_matching_pursuit_gpu import omp_v0  # pyright: ignore[reportMissingImports]

    columns, gram = problem.atoms.T, problem.gram

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        indices, solutions, _ = omp_v0(columns, x, gram, n_nonzero_coefs=problem.k)
        return x.new_zeros(len(x), len(gram)).scatter_(1, indices, solutions.squeeze(-1))

    return encode


@dataclass(frozen=True)
class Side:
    """One way to encode, to be timed against ours."""

    name: str
    prepare: Callable[[Problem], Encode]
    pursuits: tuple[str, ...]
    """The pursuits of ours that it stands beside."""
    remark: str
    distribution: str | None = None
    module: str | None = None
    needs_gram: bool = False
    rows: Callable[[Problem], int] = lambda _: 2**62
    """The most activations at once: because of its memory, or because it is slow for each of them alike."""

    def obstacle(self, problem: Problem) -> str | None:
        """Why it cannot be timed here."""
        if self.module is not None and find_spec(self.module) is None:
            return "not installed"
        if self.needs_gram and problem.gram_bytes > GRAM_BYTES:
            return f"needs {problem.gram_bytes / 2**30:.0f} GiB"
        return None

    @property
    def title(self) -> str:
        """The name with the version."""
        number = installed(self.distribution) if self.distribution else None
        return f"{self.name} {number}" if number else self.name


TEXTBOOK = Side("textbook", _textbook_side, ("mp", "mp_refit", "omp"), "matching pursuit, whatever ours is")

SIDES = (
    TEXTBOOK,
    Side(
        "Gram loop",
        _gram_loop,
        ("mp", "mp_refit"),
        "the textbook's loop in torch with the whole float32 Gram matrix, made beforehand",
        needs_gram=True,
    ),
    Side(
        "SAELens",
        _sae_lens,
        ("mp", "mp_refit"),
        "its matching pursuit picks the largest positive correlation, never a negative one; here without its stops (a "
        "small residual, an atom picked again), so that it takes k steps",
        distribution="sae-lens",
        module="sae_lens",
    ),
    Side(
        "scikit-learn",
        _scikit_learn,
        ("omp",),
        "orthogonal_mp_gram, float32; it copies the Gram matrix for every row",
        distribution="scikit-learn",
        module="sklearn",
        needs_gram=True,
        rows=lambda _: 4,
    ),
    Side(
        "batched-omp",
        _batched_omp,
        ("omp",),
        "its algorithm v0, float32, with the Gram matrix made beforehand; it keeps k rows of it per activation",
        distribution="orthogonal-matching-pursuit-gpu",
        module="orthogonal_matching_pursuit_gpu",
        needs_gram=True,
        rows=lambda problem: max(1, CODE_BYTES // (4 * problem.k * len(problem.atoms))),
    ),
)


@dataclass(frozen=True)
class Agreement:
    """How far the codes of another side are made of the atoms of ours."""

    rows: float
    """Share of the rows with the very same atoms."""
    atoms: float
    """Share of our atoms that are also theirs."""


def agreement(ours: SparseCode, theirs: Tensor) -> Agreement:
    """Compare a code with a dense one of the same rows."""
    used = torch.arange(ours.k) < ours.count[:, None]
    common = ((theirs.gather(1, ours.indices) != 0) & used).sum(dim=1)
    same = (common == ours.count) & ((theirs != 0).sum(dim=1) == ours.count)
    return Agreement(same.double().mean().item(), common.sum().item() / max(1, int(ours.count.sum())))
