"""The Gram pursuit: after the first product with all atoms, correlations are updated by rows of D D^T.

c <- c - a G[j] replaces the product with the dictionary of every later step (Mallat & Zhang 1993, section on the
update formula; Rubinstein et al. 2008 for OMP): d_model times less arithmetic. Rows of G are computed when an atom is first
picked and kept in 16 bits, all of them if memory allows, else those used last. The results are `plain`'s to the bit.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import kernel
from itda.core.pursuit.exact import fixed_dot, full_precision_products, scaled
from itda.core.pursuit.kernel import Block, Gram
from itda.core.pursuit.workers import over_rows

BLOCK_BYTES = 2**25
"""Correlations of the rows taken together: enough rows for an efficient product, few enough to stay in cache."""

KINDS = {"mp": kernel.MP, "mp_refit": kernel.MP_REFIT, "omp": kernel.OMP}


def product_error(d_model: int) -> float:
    """Worst error of a float32 product of two vectors of norm 1, in whatever order it is summed.

    Higham 2002, section 3.1: n u. The 8 covers the rounding of the vectors themselves and norms of 1 up to 1e-5.
    """
    return (d_model + 8) * kernel.UNIT


class GramRows:
    """Rows of D D^T for the atoms that were asked for, within a number of bytes."""

    def __init__(self, atoms: Float32[Tensor, "room d_model"], number: int, memory: int) -> None:
        self.atoms, self.number = atoms, number
        self.memory = memory
        self.room = number
        self.error = product_error(atoms.shape[1]) + 0.51 / kernel.SCALE
        self.slots = np.full(self.room, -1, np.int32)
        capacity = max(1, min(number, memory // (2 * self.room)))
        self.rows = np.empty((capacity, self.room), np.int16)
        self.used = np.zeros(capacity, np.int64)
        self.holder = np.full(capacity, -1, np.int64)
        self.free = 0
        self.stamp = 1

    @property
    def capacity(self) -> int:
        """Rows that fit."""
        return len(self.rows)

    def view(self, fresh: np.ndarray | None = None) -> Gram:
        """What the kernels read."""
        if fresh is None:
            fresh = np.empty((0, self.room), np.int16)
        return Gram(self.rows, self.slots, self.used, self.number, fresh)

    def fetch(self, wanted: np.ndarray) -> None:
        """Compute the rows of some atoms, in place of those that were used longest ago. Needs `wanted` distinct."""
        most = max(1, 2**24 // self.number)
        for start in range(0, len(wanted), most):
            self._fetch(wanted[start : start + most])

    def _fetch(self, wanted: np.ndarray) -> None:
        slots = np.arange(self.free, min(self.free + len(wanted), self.capacity))
        self.free += len(slots)
        if len(slots) < len(wanted):
            more = len(wanted) - len(slots)
            oldest = np.argpartition(self.used, more - 1)[:more]
            self.slots[self.holder[oldest]] = -1
            slots = np.concatenate([slots, oldest])
        atoms = self.atoms[: self.number]
        with full_precision_products(atoms.device):
            product = atoms[torch.from_numpy(wanted)] @ atoms.T
        product.mul_(kernel.SCALE).round_()
        torch.from_numpy(self.rows)[torch.from_numpy(slots), : self.number] = product.to(torch.int16)
        self.slots[wanted] = slots
        self.holder[slots] = wanted
        self.used[slots] = self.stamp


def new_block(
    targets: Float[Tensor, "batch d_model"], k: int, pursuit: str, enough: float, room: int, *, keep_first: bool
) -> tuple[Block, Tensor]:
    """The start of a pursuit, without correlations; and the exponents by which targets were scaled."""
    exponent = torch.frexp(targets.abs().amax(dim=1)).exponent
    z = scaled(targets.double(), -exponent[:, None])
    energy = fixed_dot(z, z).numpy()
    batch = len(z)
    first = np.empty((batch, room), np.float32)
    c = np.empty((batch, room), np.float32) if keep_first else first
    steps = (batch, k, k) if pursuit == "omp" else (0, k, k)
    return Block(
        z=z.numpy(),
        first=first,
        c=c,
        bits=c.view(np.int32),
        residual=z.numpy().copy(),
        energy=energy,
        left=energy.copy(),
        least=energy * max(enough, kernel.RESOLUTION**2),
        bound=product_error(z.shape[1]) * np.sqrt(energy),
        step=np.zeros(batch, np.int64),
        applied=np.full(batch, -1, np.int64),
        picks=np.zeros((batch, k), np.int64),
        correlations=np.zeros((batch, k)),
        coefficients=np.zeros((batch, k)),
        solutions=np.zeros(steps),
        factor=np.zeros(steps),
        projected=np.zeros(steps[:2]),
        status=np.zeros(batch, np.int8),
        wanted=np.zeros(batch, np.int64),
    ), exponent


def correlate(z: Tensor, atoms: Float32[Tensor, "atoms d_model"], out: np.ndarray) -> None:
    """out[:, :atoms] = z D^T in float32."""
    with full_precision_products(atoms.device):
        torch.mm(z.float(), atoms.T, out=torch.from_numpy(out)[:, : len(atoms)])


def run(
    rows: np.ndarray, block: Block, gram: GramRows, atoms: Tensor, number: int, pursuit: str, fresh: np.ndarray | None = None
) -> None:
    """Take some rows of a block to the end of their pursuit."""
    k, kind, table = block.picks.shape[1], KINDS[pursuit], atoms.numpy()
    while True:
        over_rows(
            kernel.advance, rows, block, gram.view(fresh), table, number, k, kind, gram.error, gram.stamp
        )
        status = block.status[rows]
        rows = rows[status != kernel.DONE]
        if len(rows) == 0:
            return
        coarse = rows[block.status[rows] == kernel.NEEDS_PRODUCT]
        if len(coarse):
            _refresh(coarse, block, atoms[:number])
        if len(coarse) < len(rows):
            gram.fetch(np.unique(block.wanted[rows[block.status[rows] == kernel.NEEDS_ROW]]))


def _refresh(rows: np.ndarray, block: Block, atoms: Float32[Tensor, "atoms d_model"]) -> None:
    """Correlations from the residual itself, whose error is in proportion to what is left."""
    norm = torch.from_numpy(np.sqrt(block.left[rows]))
    unit = (torch.from_numpy(block.residual[rows]) / norm[:, None]).float()
    with full_precision_products(atoms.device):
        product = (unit @ atoms.T) * norm.float()[:, None]
    block.c[rows, : len(atoms)] = product.numpy()
    # Two roundings more than a first product: of the norm, and of the product with it.
    block.bound[rows] = (product_error(atoms.shape[1]) + 2 * kernel.UNIT) * norm.numpy()
    block.applied[rows] = block.step[rows]


class Encoder:
    """Codes in a fixed dictionary, with the Gram rows that were needed so far."""

    def __init__(self, atoms: Float32[Tensor, "atoms d_model"], k: int, pursuit: str, memory: int) -> None:
        self.atoms, self.k, self.pursuit = atoms.contiguous(), k, pursuit
        self.gram = GramRows(self.atoms, len(atoms), memory)

    def __call__(
        self, targets: Float[Tensor, "batch d_model"], enough: float = 0.0
    ) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """As `plain.pursue`."""
        # Each row of a block may hold on to k Gram rows.
        rows = max(1, min(BLOCK_BYTES // (4 * len(self.atoms)), self.gram.capacity // self.k))
        parts = [self._block(part, enough) for part in targets.split(rows)]
        indices, coefficients, count, share = (torch.cat(column) for column in zip(*parts, strict=True))
        return SparseCode(indices, coefficients, count), share

    def _block(self, targets: Tensor, enough: float) -> Any:
        number, batch = len(self.atoms), len(targets)
        block, exponent = new_block(targets, self.k, self.pursuit, enough, number, keep_first=self.pursuit == "omp")
        correlate(torch.from_numpy(block.z), self.atoms, block.first)
        self.gram.stamp += 1
        rows = np.arange(batch)
        run(rows, block, self.gram, self.atoms, number, self.pursuit)
        indices, coefficients = np.zeros((batch, self.k), np.int64), np.zeros((batch, self.k))
        count, share = np.zeros(batch, np.int64), np.zeros(batch)
        kind = KINDS[self.pursuit]
        over_rows(kernel.finish, rows, block, self.atoms.numpy(), self.k, kind, indices, coefficients, count, share)
        exact = scaled(torch.from_numpy(coefficients), exponent[:, None])
        dtype = torch.promote_types(targets.dtype, torch.float32)
        return torch.from_numpy(indices), exact.to(dtype), torch.from_numpy(count), torch.from_numpy(share)
