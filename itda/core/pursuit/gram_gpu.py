"""The choice of a pursuit for a GPU, and a pursuit that keeps its Gram matrix. All give the bits of `plain`."""

from functools import partial
from threading import Lock
from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.pursuit import advance, gram_torch, plain, stepwise
from itda.core.pursuit.advance import Correlations, Rows
from itda.core.pursuit.gram_kept import KeptGram, capacity_of
from itda.core.pursuit.or_torch import holds
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.rules import Pursuit, rules_of
from itda.core.pursuit.start import Codes
from itda.core.pursuit.stepwise import Ways
from itda.core.pursuit.triton_limits import REGISTERS, WIDEST, Kernel, has_kernel, kernel_for, launch_of
from itda.machine import free_device_memory, missing_for_triton

Method = Literal["triton-on-chip", "triton-packed", "triton-streaming", "steps", "gram", "plain"]
"""A way to run a pursuit on a GPU; `choose` describes each."""

METHODS: dict[Kernel, Method] = {
    "on chip": "triton-on-chip",
    "packed": "triton-packed",
    "streaming": "triton-streaming",
}
KERNELS: dict[Method, Kernel] = {method: kernel for kernel, method in METHODS.items()}

RESERVE = 3 * 2**30
"""Bytes kept free of the Gram matrix: for the correlations of a group of rows, and the atoms that a refit gathers."""

LEAST = 64
"""Activations at a time, at least, for which Gram rows are kept, however little memory there is."""

PROOF = 8
"""Rows of the first call that `plain` repeats, if a compiled kernel is to be used."""


def choose(m: int, d: int, k: int, free_bytes: int, stepwise: bool, has_triton: bool) -> Method:
    """Choose how to decompose activations of width d by m atoms in k steps.

    `stepwise` says that `advance` has the rules of this pursuit, `has_triton` that its kernels run here. Where not,

    - `plain` recomputes the product with all atoms at every step, 2 m d k operations per row: best for k = 1;
    - `gram` needs 2 m d + 2 m k operations, and a whole Gram matrix in float32: 4 m^2 bytes and `RESERVE`.

    The others keep a Gram matrix in 16 bits, 2 m^2 bytes; where it does not fit, the rows of it that were used last:

    - `steps`: in torch; reads and writes the m correlations of a row several times per step;
    - `triton-on-chip` reads m numbers of the Gram matrix per step, and nothing else of size m. For up to 2^15 atoms:
      4 m + 8 d bytes, each padded to a power of two, within `REGISTERS`. Only with the whole matrix;
    - `triton-packed`, the same with correlations in 16 bits, for up to 2^16 atoms: where 32 bits do not fit, and above
      `PACKED_ABOVE` atoms of a width up to `PACKED_WIDTH`;
    - `triton-streaming`: any m; reads and writes the correlations once per step. d up to `WIDEST`.

    >>> choose(16384, 4096, 40, free_bytes=80 * 10**9, stepwise=True, has_triton=True)
    'triton-on-chip'
    >>> choose(65536, 4096, 40, free_bytes=80 * 10**9, stepwise=True, has_triton=True)
    'triton-packed'
    >>> choose(65536, 4096, 40, free_bytes=80 * 10**9, stepwise=False, has_triton=False)
    'gram'
    >>> choose(65536, 4096, 40, free_bytes=16 * 10**9, stepwise=False, has_triton=False)
    'plain'
    """
    if k <= 1 or (not stepwise and 4 * m * m + RESERVE > free_bytes):
        return "plain"
    if not stepwise:
        return "gram"
    if not has_triton or d > WIDEST:
        return "steps"
    whole = capacity_of(m, free_bytes - RESERVE, 0) == m
    return METHODS[kernel_for(m, d) if whole else "streaming"]


class GpuPursuit:
    """`plain.pursue` for one dictionary on a GPU (or, for tests, anywhere): the Gram matrix is made once.

    `memory` is how many bytes it may take, by default what is free. `fast` lets the Triton kernels pick by correlations
    as they stand, from products in TF32: approximate, picks may differ where two atoms fit nearly as well. Coefficients
    and what is left are exact for the picks made. `description` says in one line which method was chosen, and why.

    >>> find = GpuPursuit(torch.eye(3), k=2)
    >>> code, left = find(torch.tensor([[3.0, 4.0, 0.0]]))
    >>> code.indices.tolist(), code.coefficients.tolist(), left.tolist()
    ([[1, 0]], [[4.0, 3.0]], [0.0])
    >>> find.description
    'pursuit: steps (3 atoms of width 3, k = 2; no CUDA device; the Gram matrix fits)'
    """

    def __init__(
        self,
        atoms: Float[Tensor, "atoms d_model"],
        k: int,
        pursuit: Pursuit = "mp",
        memory: int | None = None,
        fast: bool = False,
    ) -> None:
        self.atoms, self.k, self.pursuit, self.fast = atoms, k, pursuit, fast
        self._matrix: Float32[Tensor, "atoms atoms"] | None = None
        self._kept: KeptGram | None = None
        self._lock = Lock()  # rows that are kept are put in place of others by one call at a time
        self._free = free_device_memory(atoms.device) if memory is None else memory
        stepwise = has_kernel(pursuit) and atoms.dtype == torch.float32 and len(atoms) > 0
        missing = missing_for_triton(atoms.device)
        self.method: Method = choose(len(atoms), atoms.shape[1], k, self._free, stepwise, stepwise and not missing)
        # A compiler that fuses what it was told to keep apart changes last bits: the first rows show whether it does.
        self._proven = fast or not self.method.startswith("triton")
        self._say(missing if stepwise else f"no kernel for {pursuit} with {str(atoms.dtype)[6:]} atoms")

    def __call__(self, targets: Float[Tensor, "batch d_model"], enough: float = 0.0) -> Codes:
        """Return codes and shares left over, as `plain.pursue`."""
        if not self._proven and len(targets) > 0:
            self._prove(targets[:PROOF], enough)
        return self._run(targets, enough)

    def _run(self, targets: Float[Tensor, "batch d_model"], enough: float) -> Codes:
        if self.method == "plain" or len(targets) == 0:
            return plain.pursue(targets, self.atoms, self.k, self.pursuit, enough=enough)
        if self.method == "gram":
            if self._matrix is None:
                self._matrix = gram_torch.gram_of(self.atoms)
            return gram_torch.pursue(targets, self.atoms, self.k, self.pursuit, enough=enough, gram=self._matrix)
        with self._lock:
            if self._kept is None:
                self._kept = KeptGram(self.atoms.contiguous(), self._free - RESERVE, LEAST * self.k)
            size = self._rows_at_once(self._kept)
            return gram_torch.joined([self._steps(part, enough, self._kept) for part in targets.split(size)])

    def _rows_at_once(self, kept: KeptGram) -> int:
        size = gram_torch.rows_at_once(max(self.atoms.shape), self.atoms.device)
        if kept.complete:
            return size
        # The Gram rows that a group of activations waits for must fit: in memory c is up to date but for one of them.
        return max(1, min(size, kept.capacity // (1 if self.method == "triton-streaming" else self.k)))

    def _steps(self, targets: Float[Tensor, "batch d_model"], enough: float, kept: KeptGram) -> Codes:
        rows, atoms = Rows.of(targets, self.k, enough), kept.atoms
        everyone = torch.arange(len(targets), dtype=torch.int32, device=targets.device)
        bound = product_error(atoms.table.shape[1]) * rows.energy.sqrt()
        product = self._first_correlations(rows.z)
        source = Correlations(product, torch.zeros_like(rows.step), bound, keep=False)
        stepwise.run(rows, everyone, source, everyone, atoms, self._ways(), None if kept.complete else kept.fetch)
        return rows.codes(atoms.table, rules_of(self.pursuit), targets.dtype)

    def _first_correlations(self, z: Tensor) -> Float32[Tensor, "batch columns"]:
        number = len(self.atoms)
        c = torch.empty(len(z), advance.columns_of(number), device=z.device)
        if not self.fast:
            correlations(z, self.atoms, out=c[:, :number])
        else:
            with gram_torch.tf32_products(z.device):
                torch.mm(z.float(), self.atoms.T, out=c[:, :number])
        return c

    def _ways(self) -> Ways:
        if not self.method.startswith("triton"):
            return Ways(advance.advance, advance.units)
        from itda.core.pursuit.gram_triton import advance_triton, units_triton

        m, d = self.atoms.shape
        launch = launch_of(m, d, KERNELS[self.method])
        return Ways(partial(advance_triton, fast=self.fast, launch=launch), units_triton)

    def _prove(self, targets: Float[Tensor, "batch d_model"], enough: float) -> None:
        expected = plain.pursue(targets, self.atoms, self.k, self.pursuit, enough=enough)
        if not holds("pursuit", lambda: _tensors(self._run(targets, enough)), _tensors(expected)):
            self.method = "steps"
            self._say("its kernel fails, or its results differ from those of plain")
        self._proven = True

    def _say(self, missing: str) -> None:
        m, d = self.atoms.shape
        if self.method == "plain":
            needs = f"the Gram matrix needs {4 * m * m + RESERVE:,} of {self._free:,} free bytes"
            why = "one step" if self.k <= 1 else needs
        elif self.method in ("steps", "gram"):
            why = missing or f"wider than {WIDEST:,}"
        else:
            fits = {"on chip": "fit", "packed": "in 16 bits fit", "streaming": "exceed"}[kernel_for(m, d)]
            why = f"correlations and residual {fits} {REGISTERS // 2**10} KiB of registers"
            why += "; fast: picks are approximate" if self.fast else ""
        if self.method not in ("plain", "gram"):
            held = capacity_of(m, self._free - RESERVE, LEAST * self.k)
            why += "; the Gram matrix fits" if held == m else f"; of the Gram matrix, {held:,} of {m:,} rows fit"
        self.description = f"pursuit: {self.method} ({m:,} atoms of width {d:,}, k = {self.k}; {why})"


def same(one: Codes, other: Codes) -> bool:
    """Return True if codes and shares left over are equal to the bit."""
    return all(torch.equal(x, y) for x, y in zip(_tensors(one), _tensors(other), strict=True))


def _tensors(codes: Codes) -> tuple[Tensor, ...]:
    code, left = codes
    return code.indices, code.coefficients, code.count, left
