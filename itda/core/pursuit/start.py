"""What comes before and after the steps of a pursuit: scaling, and codes made of picks; a kernel each on a GPU.

In torch each is a dozen operations or more on small tensors. A GPU starts these one after the other, which takes it as
long as the pursuit itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import plain
from itda.core.pursuit.fixed_order import fixed_dot, root, scaled
from itda.core.pursuit.or_torch import KernelOrTorch
from itda.core.pursuit.refit import refitted
from itda.core.pursuit.rules import PursuitRules
from itda.core.pursuit.triton_limits import UNFUSED, WIDEST, lanes_of, places_of

Picks = tuple[Int[Tensor, "batch k"], Float64[Tensor, "batch k"], Int[Tensor, " batch"], Float64[Tensor, " batch"]]
"""Atoms and coefficients of the steps, the number of steps, and the energy left; past the steps may be anything."""

Codes = tuple[SparseCode, Float64[Tensor, " batch"]]


@dataclass(frozen=True)
class Start:
    """The start of a pursuit: z = 2^-exponent targets, with entries near 1, and its energy ||z||^2."""

    z: Float64[Tensor, "batch d_model"]
    exponent: Tensor
    energy: Float64[Tensor, " batch"]
    least: Float64[Tensor, " batch"]
    """A row is done once no more than this is left of its energy."""
    faint: Float64[Tensor, " batch"]
    """A row is done once its next coefficient is no larger than this."""

    @staticmethod
    def of(targets: Float[Tensor, "batch d_model"], enough: float) -> Start:
        """Scale the targets, and set the limits at which rows are done."""
        has_kernel = len(targets) > 0 and 0 < targets.shape[1] <= WIDEST
        form = BEGIN.on(targets.device) if has_kernel else begin_torch
        z, exponent, energy, faint = form(targets)
        return Start(z, exponent, energy, energy * max(enough, plain.RESOLUTION**2), faint)

    def finish(
        self, picks: Picks, atoms: Float[Tensor, "atoms d_model"], rules: PursuitRules, dtype: torch.dtype
    ) -> Codes:
        """Merge repeated picks, refit if the rules say so, and undo the scaling."""
        indices, coefficients, count, left = picks
        code = merged(indices, coefficients, count)
        if rules.refit:
            code, left = refitted(self.z, atoms, code)
        form = END.on(left.device) if code.coefficients.numel() > 0 else end_torch
        dtype = torch.promote_types(dtype, torch.float32)
        coefficients, share = form(code.coefficients, self.exponent, self.energy, left, dtype)
        return SparseCode(code.indices, coefficients, code.count), share


def merged(
    picks: Int[Tensor, "batch k"], coefficients: Float64[Tensor, "batch k"], count: Int[Tensor, " batch"]
) -> SparseCode:
    """Return `SparseCode.from_picks`; what lies past `count` may be anything.

    >>> merged(torch.tensor([[4, 2, 4]]), torch.tensor([[3.0, 1.0, -0.5]]).double(), torch.tensor([3])).indices.tolist()
    [[4, 2, 0]]
    """
    form = MERGE.on(picks.device) if picks.numel() > 0 else merge_torch
    return SparseCode(*form(picks, coefficients, count))


def begin_torch(targets: Float[Tensor, "batch d_model"]) -> Sequence[Tensor]:
    """Return z, exponent, energy and faint of `Start`."""
    exponent = torch.frexp(targets.abs().amax(dim=1)).exponent
    z = scaled(targets.double(), -exponent[:, None])
    energy = fixed_dot(z, z)
    return z, exponent, energy, plain.RESOLUTION * root(energy)


def begin_triton(targets: Float[Tensor, "batch d_model"]) -> Sequence[Tensor]:
    """Return what `begin_torch` does, by one program for each row."""
    from itda.core.pursuit.rows_kernel import begin

    rows, width = targets.shape
    z = torch.empty(rows, width, dtype=torch.float64, device=targets.device)
    energy, faint = z.new_empty(rows), z.new_empty(rows)
    exponent = torch.empty(rows, dtype=torch.int32, device=targets.device)
    lanes = lanes_of(width)
    settings = {"LANES": lanes, "num_warps": min(8, lanes // 256), "RESOLUTION": plain.RESOLUTION, **UNFUSED}
    with torch.cuda.device_of(targets):
        begin[(rows,)](targets.contiguous(), z, exponent, energy, faint, width, **settings)
    return z, exponent, energy, faint


def merge_torch(
    picks: Int[Tensor, "batch k"], coefficients: Float64[Tensor, "batch k"], count: Int[Tensor, " batch"]
) -> Sequence[Tensor]:
    """Return indices, coefficients and count of `SparseCode.from_picks`."""
    code = SparseCode.from_picks(picks.long(), coefficients, count.long())
    return code.indices, code.coefficients, code.count


def merge_triton(
    picks: Int[Tensor, "batch k"], coefficients: Float64[Tensor, "batch k"], count: Int[Tensor, " batch"]
) -> Sequence[Tensor]:
    """Return what `merge_torch` does, by one program for each row."""
    from itda.core.pursuit.rows_kernel import merge

    rows, k = picks.shape
    indices = torch.empty(rows, k, dtype=torch.long, device=picks.device)
    sums, number = torch.empty_like(coefficients), indices.new_empty(rows)
    of_picks = picks.contiguous(), coefficients.contiguous(), count.contiguous()
    with torch.cuda.device_of(picks):
        merge[(rows,)](*of_picks, indices, sums, number, k, **_small(k))
    return indices, sums, number


def end_torch(
    coefficients: Float64[Tensor, "batch k"], exponent: Tensor, energy: Tensor, left: Tensor, dtype: torch.dtype
) -> Sequence[Tensor]:
    """Return coefficients at the scale of the targets, of a type, and the shares of energy left over."""
    share = torch.where(energy > 0, left / energy, 0.0)
    return scaled(coefficients, exponent[:, None]).to(dtype), share


def end_triton(
    coefficients: Float64[Tensor, "batch k"], exponent: Tensor, energy: Tensor, left: Tensor, dtype: torch.dtype
) -> Sequence[Tensor]:
    """Return what `end_torch` does, by one program for each row."""
    from itda.core.pursuit.rows_kernel import end

    rows, k = coefficients.shape
    scaled_back, share = torch.empty_like(coefficients, dtype=dtype), torch.empty_like(left)
    state = coefficients.contiguous(), exponent, energy, left
    with torch.cuda.device_of(coefficients):
        end[(rows,)](*state, scaled_back, share, k, **_small(k))
    return scaled_back, share


def _small(k: int) -> dict[str, Any]:
    """Return the settings of a kernel with a program of one warp for the k atoms of a row."""
    return {"K": places_of(k), "num_warps": 1, **UNFUSED}


BEGIN = KernelOrTorch("scales of activations", begin_triton, begin_torch)
MERGE = KernelOrTorch("repeated picks", merge_triton, merge_torch)
END = KernelOrTorch("coefficients at scale", end_triton, end_torch)
"""A kernel each where it can be trusted, else torch."""
