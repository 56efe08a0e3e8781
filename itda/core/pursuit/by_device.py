"""The fastest encoder and decoder for the device that the atoms are on."""

import logging
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core import memory as limits
from itda.core.code import SparseCode
from itda.core.pursuit.fixed_order import weighted_atoms
from itda.core.pursuit.plain import pursue
from itda.core.pursuit.rules import Pursuit

log = logging.getLogger(__name__)


@runtime_checkable
class Encoder(Protocol):
    """A function that decomposes by the atoms of one dictionary, with the results of `plain.pursue`."""

    def __call__(
        self, targets: Float[Tensor, "batch d_model"], /, *, enough: float = 0.0
    ) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Return the codes of some targets, and the share of each one's energy left over."""
        ...


def encoder(
    atoms: Float[Tensor, "atoms d_model"],
    k: int,
    pursuit: Pursuit,
    *,
    memory: int | None = None,
    fast: bool | None = None,
) -> Encoder:
    """Choose the fastest encoder for these atoms; it may keep things, such as a Gram matrix, from call to call.

    `memory` is how many bytes a Gram matrix may take, `fast` whether a GPU may approximate; None is for what
    `set_memory` and `set_fast` say.
    """
    if atoms.device.type == "cpu" and atoms.dtype == torch.float32:
        # Not at the top: the compiled kernels take a second to load, and not everything needs them.
        from itda.core.pursuit.gram_cpu import GramEncoder, GramRows, kind_of

        if kind_of(pursuit) is None:
            return partial(pursue, atoms=atoms, k=k, pursuit=pursuit)
        return GramEncoder(GramRows(atoms.contiguous(), len(atoms), least=k, memory=memory), k, pursuit)
    if atoms.device.type == "cuda":
        from itda.core.pursuit.gram_gpu import GpuPursuit

        memory, fast = limits.limit() if memory is None else memory, limits.fast() if fast is None else fast
        chosen = GpuPursuit(atoms, k, pursuit, memory, fast)
        log.info(chosen.description)
        return chosen
    return partial(pursue, atoms=atoms, k=k, pursuit=pursuit)


def decoded(
    coefficients: Float64[Tensor, "batch k"], atoms: Float[Tensor, "atoms d_model"], indices: Int64[Tensor, "batch k"]
) -> Float64[Tensor, "batch d_model"]:
    """Return sum_t coefficients[:, t] * atoms[indices[:, t]], one term after the other, on the atoms' device."""
    if atoms.device.type == "cpu" and atoms.dtype == torch.float32 and len(atoms) > 0:
        from itda.core.pursuit.gram_cpu import sums_of_atoms

        return sums_of_atoms(coefficients.cpu(), atoms, indices.cpu())
    return weighted_atoms(coefficients.to(atoms.device), atoms, indices.to(atoms.device))
