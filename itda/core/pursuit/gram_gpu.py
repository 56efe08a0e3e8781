"""The choice of a pursuit for a GPU, and a pursuit that keeps its Gram matrix. All give the bits of `plain`."""

from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.pursuit import gram_torch, plain
from itda.core.pursuit.gram_torch import Codes
from itda.core.pursuit.rules import Pursuit
from itda.core.pursuit.triton_limits import REGISTERS, WIDEST, fits_on_chip, has_kernel
from itda.machine import free_device_memory, missing_for_triton

Method = Literal["triton-on-chip", "triton-streaming", "gram", "plain"]
"""A way to run a pursuit on a GPU; `choose` describes each."""

RESERVE = 3 * 2**30
"""Bytes kept free of the Gram matrix: for the correlations of a group of rows, and the atoms that a refit gathers."""

PROOF = 8
"""Rows of the first call that `plain` repeats, if a compiled kernel is to be used."""


def choose(m: int, d: int, k: int, free_bytes: int, has_triton: bool) -> Method:
    """Choose how to decompose activations of width d by m atoms in k steps; `has_triton` is for this pursuit's rules.

    - `plain` recomputes the product with all atoms at every step, 2 m d k operations per row. Needed where the Gram
      matrix, 4 m^2 bytes, and `RESERVE` exceed the memory; and best for k = 1, which has nothing to update.
    - `gram`: 2 m d + 2 m k operations, in torch; reads and writes the m correlations several times per step.
    - `triton-on-chip` reads m numbers of the Gram matrix per step, and nothing else of size m. For up to 2^15 atoms:
      4 m + 8 d bytes, each padded to a power of two, within `REGISTERS`.
    - `triton-streaming`: any m; reads and writes the correlations once per step. d up to `WIDEST`.

    >>> choose(16384, 4096, 40, free_bytes=80 * 10**9, has_triton=True)
    'triton-on-chip'
    >>> choose(65536, 4096, 40, free_bytes=80 * 10**9, has_triton=True)
    'triton-streaming'
    >>> choose(65536, 4096, 40, free_bytes=80 * 10**9, has_triton=False)
    'gram'
    >>> choose(65536, 4096, 40, free_bytes=16 * 10**9, has_triton=True)
    'plain'
    """
    if k <= 1 or 4 * m * m + RESERVE > free_bytes:
        return "plain"
    if not has_triton or d > WIDEST:
        return "gram"
    return "triton-on-chip" if fits_on_chip(m, d) else "triton-streaming"


class GpuPursuit:
    """`plain.pursue` for one dictionary on a GPU (or, for tests, anywhere): the Gram matrix is made once.

    `memory` is how many bytes it may take, by default what is free. `fast` lets the Triton kernels pick by correlations
    as they stand, from products in TF32: approximate, see `gram_triton.pursue_triton`. `description` says in one line
    which method was chosen, and why.

    >>> find = GpuPursuit(torch.eye(3), k=2)
    >>> code, left = find(torch.tensor([[3.0, 4.0, 0.0]]))
    >>> code.indices.tolist(), code.coefficients.tolist(), left.tolist()
    ([[1, 0]], [[4.0, 3.0]], [0.0])
    >>> find.description
    'pursuit: gram (3 atoms of width 3, k = 2; no CUDA device)'
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
        self._gram: Float32[Tensor, "atoms atoms"] | None = None
        free = free_device_memory(atoms.device) if memory is None else memory
        missing = missing_for_triton(atoms.device) if has_kernel(pursuit) else f"{pursuit} has no kernel"
        self.method = choose(len(atoms), atoms.shape[1], k, free, not missing)
        # A compiler that fuses what it was told to keep apart changes last bits: the first rows show whether it does.
        self._proven = fast or not self.method.startswith("triton")
        self._say(missing, free)

    def __call__(self, targets: Float[Tensor, "batch d_model"], enough: float = 0.0) -> Codes:
        """Return codes and shares left over, as `plain.pursue`."""
        if not self._proven and len(targets) > 0:
            self._prove(targets[:PROOF], enough)
        return self._run(targets, enough)

    def _run(self, targets: Float[Tensor, "batch d_model"], enough: float) -> Codes:
        if self.method == "plain":
            return plain.pursue(targets, self.atoms, self.k, self.pursuit, enough=enough)
        if self._gram is None:
            self._gram = gram_torch.gram_of(self.atoms)
        if self.method == "gram":
            return gram_torch.pursue(targets, self.atoms, self.k, self.pursuit, enough=enough, gram=self._gram)
        from itda.core.pursuit.gram_triton import pursue_triton

        settings = {"enough": enough, "gram": self._gram, "fast": self.fast, "on_chip": self.method == "triton-on-chip"}
        return pursue_triton(targets, self.atoms, self.k, self.pursuit, **settings)

    def _prove(self, targets: Float[Tensor, "batch d_model"], enough: float) -> None:
        expected = plain.pursue(targets, self.atoms, self.k, self.pursuit, enough=enough)
        if not same(self._run(targets, enough), expected):
            self.method = "gram"
            self._say("its kernel's results differ from those of plain", 0)
        self._proven = True

    def _say(self, missing: str, free: int) -> None:
        m, d = self.atoms.shape
        if self.method == "plain":
            why = "one step" if self.k <= 1 else f"the Gram matrix needs {4 * m * m + RESERVE:,} of {free:,} free bytes"
        elif self.method == "gram":
            why = missing or f"wider than {WIDEST:,}"
        else:
            fits = "fit" if self.method == "triton-on-chip" else "exceed"
            why = f"correlations and residual {fits} {REGISTERS // 2**10} KiB of registers"
            why += "; fast: picks are approximate" if self.fast else ""
        self.description = f"pursuit: {self.method} ({m:,} atoms of width {d:,}, k = {self.k}; {why})"


def same(one: Codes, other: Codes) -> bool:
    """Return True if codes and shares left over are equal to the bit."""
    (a, left), (b, left_other) = one, other
    pairs = ((a.indices, b.indices), (a.coefficients, b.coefficients), (a.count, b.count), (left, left_other))
    return all(torch.equal(x, y) for x, y in pairs)
