"""Matching pursuit on GPUs by the kernels of `gram_triton_kernel`. Imported only where Triton is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.pursuit import gram_torch, gram_triton_kernel
from itda.core.pursuit.gram_torch import Codes, Picks, Start
from itda.core.pursuit.products import UNIT, correlations, product_error
from itda.core.pursuit.rules import Pursuit, rules_of
from itda.core.pursuit.triton_limits import fits_on_chip, has_kernel, power_of_two


def pursue_triton(
    targets: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    k: int,
    pursuit: Pursuit = "mp",
    *,
    enough: float = 0.0,
    gram: Float32[Tensor, "atoms atoms"] | None = None,
    fast: bool = False,
    on_chip: bool | None = None,
    tile: int = 4096,
    crowd: int = gram_torch.CROWD,
) -> Codes:
    """`plain.pursue`, to the bit; `gram` as in `gram_torch.pursue`, which also does what has no kernel.

    `fast` is approximate: the pick is the largest entry of c as it stands, from a product that may be in TF32, so picks
    may differ where two atoms fit nearly as well. Coefficients and what is left are exact for the picks made.

    No setting below changes a result. `on_chip` picks the kernel (None: by `fits_on_chip`), `tile` the columns that
    the streaming one takes at once; rows with more than `crowd` candidates are left to `gram_torch`, which can mend c.
    """
    if not has_kernel(pursuit) or len(atoms) == 0 or len(targets) == 0:
        return gram_torch.pursue(targets, atoms, k, pursuit, enough=enough, gram=gram)
    atoms = atoms.contiguous()
    if gram is None:
        gram = gram_torch.gram_of(atoms)
    if gram.stride(1) != 1:
        gram = gram.contiguous()
    if on_chip is None:
        on_chip = fits_on_chip(*atoms.shape)
    parts = []
    for part in targets.split(gram_torch.rows_at_once(max(atoms.shape), targets.device)):
        start = Start.of(part, enough)
        indices, coefficients, count, left = _launch(start, atoms, gram, k, on_chip, tile, fast, crowd)
        codes = start.finish((indices, coefficients, count.clamp(min=0), left), atoms, rules_of(pursuit), part.dtype)
        given_up = (count < 0).nonzero().squeeze(1)
        if len(given_up) > 0:
            redone = gram_torch.pursue(part[given_up], atoms, k, pursuit, enough=enough, gram=gram)
            for kept, new in zip(_tensors(codes), _tensors(redone), strict=True):
                kept[given_up] = new
        parts.append(codes)
    return gram_torch.joined(parts)


def _launch(
    start: Start,
    atoms: Float[Tensor, "atoms d_model"],
    gram: Float32[Tensor, "atoms atoms"],
    k: int,
    on_chip: bool,
    tile: int,
    fast: bool,
    crowd: int,
) -> Picks:
    """Start a program per row; a count of -1 marks a row that its program gave up."""
    batch, (number, width), device = len(start.z), atoms.shape, atoms.device
    c = _first_correlations(start, atoms, fast)
    levels, error = (width - 1).bit_length(), product_error(width)
    indices = torch.zeros(batch, k, dtype=torch.int32, device=device)
    coefficients = start.z.new_zeros(batch, k)
    left, count = torch.empty_like(start.energy), torch.empty_like(indices[:, 0])
    block = power_of_two(number) if on_chip else tile
    warps = _warps(block, levels, on_chip)
    settings: dict[str, Any] = {
        "c": c,
        "z": start.z.contiguous(),
        "energy": start.energy,
        "least": start.least,
        "faint": start.faint,
        "bound": error * start.energy.sqrt(),
        "atoms": atoms,
        "gram": gram,
        "indices": indices,
        "coefficients": coefficients,
        "left_over": left,
        "count": count,
        "number_of_atoms": number,
        "gram_stride": gram.stride(0),
        "width": width,
        "k": k,
        "growth": error + 4 * UNIT,
        "crowd": crowd,
        "LEVELS": levels,
        "FAST": fast,
        "num_warps": warps,
        "enable_fp_fusion": False,
    }
    if warps <= 16:
        settings["maxnreg"] = 128
    settings |= {"BLOCK": block} if on_chip else {"TILE": tile, "TILES": power_of_two(-(-number // tile))}
    with torch.cuda.device_of(c):
        (gram_triton_kernel.on_chip if on_chip else gram_triton_kernel.streaming)[(batch,)](**settings)
    return indices.long(), coefficients, count.long(), left


def _first_correlations(start: Start, atoms: Float[Tensor, "atoms d_model"], fast: bool) -> Tensor:
    if not fast:
        return correlations(start.z, atoms)
    with _tf32_products(atoms.device):
        return start.z.float() @ atoms.float().T


def _warps(block: int, levels: int, on_chip: bool) -> int:
    """Return the warps of a program that takes `block` correlations at a time and a residual of 2 ** levels numbers."""
    # So many numbers of c and of r per thread that 128 registers are enough, or nearly (compiled for an H100): more
    # registers would leave room for fewer programs at a time.
    warps = max(block // 1024, 2**levels // 512) if on_chip else max(block // 512, 2**levels // 256)
    return min(32, max(4, warps))


def _tensors(codes: Codes) -> tuple[Tensor, ...]:
    code, left = codes
    return code.indices, code.coefficients, code.count, left


@contextmanager
def _tf32_products(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, enabled=False):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
