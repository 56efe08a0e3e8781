"""The Gram pursuit: after the first product with all atoms, correlations are updated by rows of D D^T.

c <- c - a G[j] replaces the product with the dictionary of every later step (the update formula of Mallat & Zhang 1993;
for OMP, Rubinstein et al. 2008): d_model times less arithmetic. Rows of G are computed when an atom is first
picked and kept in 16 bits, all of them if memory allows, else those used last. The results are `plain`'s to the bit.
"""

import logging
import threading

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core import memory as budget
from itda.core.code import SparseCode
from itda.core.pursuit import fixed_order_kernel, gram_cpu_kernel
from itda.core.pursuit.fixed_order import scaled
from itda.core.pursuit.gram_cpu_kernel import Block, Gram
from itda.core.pursuit.plain import pursue
from itda.core.pursuit.products import UNIT, correlations, product_error
from itda.core.pursuit.rules import Pursuit, rules_of
from itda.core.pursuit.rules.mp import MP
from itda.core.pursuit.rules.mp_refit import MP_REFIT
from itda.core.pursuit.rules.omp import OMP
from itda.core.pursuit.scratch import Scratch
from itda.core.pursuit.threads import over_rows

log = logging.getLogger(__name__)

PRODUCT_SIZE = 2**24
"""Most elements of a product that Gram rows are made from."""

BLOCK_BYTES = 2**25
"""Most bytes of the correlations of one block: more make no product more efficient, and fill the cache."""

BLOCK_ROWS = 512
"""Activations in a block even if their correlations take more bytes: fewer make the product less efficient."""

TARGETS_BYTES = 2**26
"""About the most bytes that the activations of one block may take, 20 for each entry: in a wide block they would come
from memory again for each step, and a block of thousands would take a gigabyte."""

CROWD = 1024
"""Most activations in a block where Gram rows have to be computed again and again, step by step."""

KINDS = {MP: gram_cpu_kernel.MP, MP_REFIT: gram_cpu_kernel.MP_REFIT, OMP: gram_cpu_kernel.OMP}
"""The number by which the compiled loops know each of their rules."""


def kind_of(pursuit: Pursuit) -> int | None:
    """Look up the number by which the compiled loops know a pursuit; None if they do not know its rules.

    >>> kind_of("omp"), kind_of("nn_mp")
    (2, None)
    """
    return KINDS.get(rules_of(pursuit))


class GramRows:
    """Rows of D D^T for the atoms asked for so far, within a number of bytes. The dictionary may grow."""

    def __init__(
        self, atoms: Float32[Tensor, "room d_model"], number: int, *, least: int, memory: int | None = None
    ) -> None:
        """Take `memory` bytes, by default as many as `memory.available` says; `least` rows fit in any case."""
        self.atoms, self.number = atoms.detach(), number
        self._least = least
        self._memory = budget.available() if memory is None else memory
        # The last two terms are for a row that comes from an activation's correlations, and for the fixed point.
        self.error = product_error(atoms.shape[1]) + 4 * UNIT + 0.51 / gram_cpu_kernel.SCALE
        self._buffer = np.empty(0, np.int16)
        self.slots = np.empty(0, np.int32)
        self.rows = np.empty((0, 0), np.int16)
        self.used = np.empty(0, np.int64)
        self.holder = np.empty(0, np.int64)
        self.held = 0
        self.stamp = 1
        self._scratch = Scratch()
        self._reserve(number)

    @property
    def capacity(self) -> int:
        """Number of rows that fit into memory."""
        return len(self.rows)

    @property
    def complete(self) -> bool:
        """True if all rows fit into memory."""
        return self.capacity >= self.number

    @property
    def description(self) -> str:
        """One line that says, for people, how many rows are kept."""
        size = f"{2 * self.rows.size / 1e9:.2f} GB"
        if self.complete:
            return f"the Gram matrix of {self.number:,} atoms fits, {size}"
        return f"{self.capacity:,} of {self.number:,} rows of the Gram matrix fit, {size}: the ones used last are kept"

    def view(self, fresh: np.ndarray) -> Gram:
        """Return the arrays that the kernels read."""
        return Gram(self.rows, self.slots, self.used, self.number, fresh)

    def fetch(self, wanted: np.ndarray) -> None:
        """Compute the rows of some distinct atoms, in place of those that were used longest ago."""
        most = max(1, PRODUCT_SIZE // self.number)
        for part in np.split(wanted, range(most, len(wanted), most)):
            atoms = self.atoms[: self.number]
            product = self._scratch.array("product", (self.number, len(part)), np.float32)
            # This way round, for a few rows the product takes two thirds of the time of the other.
            correlations(atoms, atoms[torch.from_numpy(part)], out=torch.from_numpy(product))
            tiles = np.arange(-(-self.number // gram_cpu_kernel.NARROW))
            over_rows(gram_cpu_kernel.keep_rows, tiles, product, self._place(part), self.rows)

    def grow(self, atoms: Float32[Tensor, "room d_model"], number: int, fresh: np.ndarray) -> None:
        """Take in new atoms, so that there are `atoms[:number]`; `fresh` has the new rows, up to the diagonal."""
        before, self.atoms = self.number, atoms
        self._reserve(number)
        self.number = number
        new = np.arange(before, number)[: self.capacity]
        slots = self._place(new)
        self.rows[slots, :number] = fresh[new - before, :number]
        over_rows(gram_cpu_kernel.add_columns, np.arange(self.held), self.rows, self.holder, fresh, before, number)

    def _place(self, atoms: np.ndarray) -> np.ndarray:
        slots = np.arange(self.held, min(self.held + len(atoms), self.capacity))
        self.held += len(slots)
        if len(slots) < len(atoms):
            more = len(atoms) - len(slots)
            self.used[slots] = self.stamp + 1  # not these
            oldest = np.argpartition(self.used, more - 1)[:more]
            self.slots[self.holder[oldest]] = -1
            slots = np.concatenate([slots, oldest])
        self.slots[atoms] = slots
        self.holder[slots] = atoms
        self.used[slots] = self.stamp
        return slots

    def _reserve(self, number: int) -> None:
        """Make room for `number` columns without a copy, which would take twice the memory."""
        before = self.rows.shape[1]
        if number <= before:
            return
        # An eighth more than before: rows are moved seldom, and little is set aside.
        room = number if before == 0 else max(number, before + before // 8 + 64)
        capacity = min(room, max(self._memory // (2 * room), self._least))
        news = before == 0 or (self.complete and capacity < room)
        self.slots[self.holder[capacity : self.held]] = -1
        self.held = min(self.held, capacity)
        self.rows = np.empty((0, 0), np.int16)  # no view of the buffer may be left when it moves
        if self._buffer.size == 0:
            self._buffer = np.empty(capacity * room, np.int16)
        else:
            self._buffer.resize(max(self._buffer.size, capacity * room), refcheck=False)
        for row in range(self.held - 1, -1, -1):  # the last one first: each moves up
            self._buffer[row * room : row * room + before] = self._buffer[row * before : (row + 1) * before]
        self.rows = self._buffer[: capacity * room].reshape(capacity, room)
        self.slots = _resized(self.slots, room, -1)
        self.used, self.holder = _resized(self.used, capacity, 0), _resized(self.holder, capacity, -1)
        budget.claim(self, 2 * self._buffer.size)
        if news:
            log.info(self.description)


def _resized(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    grown = np.full(size, fill, array.dtype)
    grown[: len(array)] = array[:size]
    return grown


def new_block(
    targets: Float[Tensor, "batch d_model"],
    k: int,
    pursuit: Pursuit,
    enough: float,
    room: int,
    *,
    scratch: Scratch,
    keep_first: bool = False,
) -> tuple[Block, Tensor]:
    """Return a block at the start of its pursuit, without correlations, and the exponents that scaled its targets."""
    batch, d_model = targets.shape
    first = scratch.array("first", (batch, room), np.float32)
    c = scratch.array("c", (batch, room), np.float32) if keep_first else first
    steps = (batch, k, k) if kind_of(pursuit) == gram_cpu_kernel.OMP else (0, k, k)
    block = Block(
        z=scratch.array("z", (batch, d_model), np.float64),
        narrow=scratch.array("narrow", (batch, d_model), np.float32),
        first=first,
        c=c,
        bits=c.view(np.int32),
        residual=scratch.array("residual", (batch, d_model), np.float64),
        energy=np.empty(batch),
        left=np.empty(batch),
        least=np.empty(batch),
        bound=np.empty(batch),
        extra=np.empty(batch, np.int64),
        exact=np.empty(batch, np.int64),
        chosen=np.empty(batch, np.int64),
        step=np.empty(batch, np.int64),
        applied=np.empty(batch, np.int64),
        picks=np.zeros((batch, k), np.int64),
        correlations=np.zeros((batch, k)),
        coefficients=np.zeros((batch, k)),
        solutions=np.zeros(steps),
        factor=np.zeros(steps),
        projected=np.zeros(steps[:2]),
        status=np.zeros(batch, np.int8),
        wanted=np.zeros(batch, np.int64),
    )
    exponent = np.empty(batch, np.int64)
    over_rows(gram_cpu_kernel.begin, np.arange(batch), targets.detach().contiguous().numpy(), block, exponent, enough)
    return block, torch.from_numpy(exponent)


def correlate(block: Block, atoms: Float32[Tensor, "atoms d_model"]) -> None:
    """Compute the first correlations, z D^T, in float32."""
    correlations(torch.from_numpy(block.narrow), atoms, out=torch.from_numpy(block.first)[:, : len(atoms)])


def run(
    rows: np.ndarray, block: Block, gram: GramRows, atoms: Tensor, number: int, pursuit: Pursuit, fresh: np.ndarray
) -> None:
    """Take some rows of a block to the end of their pursuit. `fresh` has the Gram rows of atoms past `gram.number`."""
    k, kind, table = block.picks.shape[1], kind_of(pursuit), atoms.numpy()
    while len(rows):
        over_rows(
            gram_cpu_kernel.advance, rows, block, gram.view(fresh), table, number, k, kind, gram.error, gram.stamp
        )
        rows = rows[block.status[rows] != gram_cpu_kernel.DONE]
        status = block.status[rows]
        for part in _parts_of(rows[status == gram_cpu_kernel.NEEDS_PRODUCT]):
            _refresh(part, block, atoms[:number])
        for part in _parts_of(rows[status == gram_cpu_kernel.NEEDS_FINE_PRODUCT]):
            _refresh_finely(part, block, atoms[:number])
        missing = rows[status == gram_cpu_kernel.NEEDS_ROW]
        if len(missing):
            gram.fetch(np.unique(block.wanted[missing]))


def _parts_of(rows: np.ndarray) -> list[np.ndarray]:
    """Cut the rows of a product into parts of which a copy is small."""
    return [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]


def _refresh(rows: np.ndarray, block: Block, atoms: Float32[Tensor, "atoms d_model"]) -> None:
    """Compute correlations from the residual itself, so that their error is in proportion to what is left."""
    norm = torch.from_numpy(np.sqrt(block.left[rows]))
    unit = (torch.from_numpy(block.residual[rows]) / norm[:, None]).float()
    product = correlations(unit, atoms) * norm.float()[:, None]
    # Two roundings more than a first product: of the norm, and of the product with it.
    _renew(rows, block, product, (product_error(atoms.shape[1]) + 2 * UNIT) * norm)


def _refresh_finely(rows: np.ndarray, block: Block, atoms: Float32[Tensor, "atoms d_model"]) -> None:
    """Compute correlations in float64, for rows whose best atoms are nearer than float32 tells apart, and choose."""
    residual = torch.from_numpy(block.residual[rows])
    product = torch.empty(len(rows), len(atoms), dtype=torch.float64)
    size = max(1, PRODUCT_SIZE // (4 * atoms.shape[1]))
    for some, these in zip(product.split(size, dim=1), atoms.split(size), strict=True):
        some.copy_(residual @ these.double().T)
    # A sum of d_model products in float64 is off by d_model 2^-53 ||r||: doubled, for norms that are 1 up to 1e-5.
    error = (atoms.shape[1] + 8) * 2.0**-52 * torch.from_numpy(np.sqrt(block.left[rows]))
    top = product.abs().amax(dim=1)
    place, candidates = (product.abs() >= (top - 2.1 * error)[:, None]).nonzero(as_tuple=True)
    starts = np.searchsorted(place.numpy(), np.arange(len(rows) + 1))
    over_rows(gram_cpu_kernel.choose, np.arange(len(rows)), rows, starts, candidates.numpy(), block, atoms.numpy())
    _renew(rows, block, product.float(), 1.01 * UNIT * top + error)


def _renew(rows: np.ndarray, block: Block, product: Float32[Tensor, "batch atoms"], bound: Tensor) -> None:
    block.c[rows, : product.shape[1]] = product.numpy()
    block.bound[rows] = bound.numpy()
    block.applied[rows] = block.step[rows]
    block.extra[rows] = 0


class GramEncoder:
    """An encoder that keeps the Gram rows needed so far; `plain` does the work where `kind_of` is None."""

    def __init__(self, gram: GramRows, k: int, pursuit: Pursuit) -> None:
        self.gram, self.k, self.pursuit = gram, k, pursuit
        self._scratch = Scratch()
        self._lock = threading.Lock()  # scratch and Gram rows are one at a time

    def __call__(
        self, targets: Float[Tensor, "batch d_model"], enough: float = 0.0
    ) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Return codes and shares left over, as `plain.pursue`."""
        if kind_of(self.pursuit) is None or self.gram.number == 0 or len(targets) == 0:
            return pursue(targets, self.gram.atoms[: self.gram.number], self.k, self.pursuit, enough=enough)
        with self._lock:
            parts = [self._block(part, enough) for part in targets.split(rows_at_once(self.gram, self.k))]
        indices, coefficients, count, share = (torch.cat(column) for column in zip(*parts, strict=True))
        return SparseCode(indices, coefficients, count), share

    def _block(self, targets: Tensor, enough: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gram, k, kind = self.gram, self.k, kind_of(self.pursuit)
        number, batch, atoms = gram.number, len(targets), gram.atoms
        keep = kind == gram_cpu_kernel.OMP
        block, exponent = new_block(targets, k, self.pursuit, enough, number, keep_first=keep, scratch=self._scratch)
        correlate(block, atoms[:number])
        gram.stamp += 1
        rows = np.arange(batch)
        run(rows, block, gram, atoms, number, self.pursuit, np.empty((0, number), np.int16))
        indices, coefficients = np.zeros((batch, k), np.int64), np.zeros((batch, k))
        count, share = np.zeros(batch, np.int64), np.zeros(batch)
        over_rows(gram_cpu_kernel.finish, rows, block, atoms.numpy(), k, kind, indices, coefficients, count, share)
        unscaled = scaled(torch.from_numpy(coefficients), exponent[:, None])
        dtype = torch.promote_types(targets.dtype, torch.float32)
        return torch.from_numpy(indices), unscaled.to(dtype), torch.from_numpy(count), torch.from_numpy(share)


def rows_at_once(gram: GramRows, k: int) -> int:
    """Return the number of activations per block."""
    if gram.complete:
        most = min(4096, TARGETS_BYTES // (20 * gram.atoms.shape[1]))
        return max(BLOCK_ROWS, min(most, BLOCK_BYTES // (4 * gram.number)))
    # Gram rows that do not fit are computed at each step for the whole block: the more of them, the more efficient is
    # the product that they come of. But those of a block's picks must fit, k for each of its activations.
    return max(1, min(CROWD, gram.capacity // k))


def sums_of_atoms(
    coefficients: Float64[Tensor, "batch k"], atoms: Float32[Tensor, "atoms d_model"], indices: Int64[Tensor, "batch k"]
) -> Float64[Tensor, "batch d_model"]:
    """Return sum_t coefficients[:, t] * atoms[indices[:, t]], with the bits of `fixed_order.weighted_atoms`."""
    sums = np.empty((len(indices), atoms.shape[1]))
    picked = (t.detach().contiguous().numpy() for t in (coefficients, atoms, indices))
    over_rows(fixed_order_kernel.sums_of_atoms, np.arange(len(indices)), *picked, sums)
    return torch.from_numpy(sums)
