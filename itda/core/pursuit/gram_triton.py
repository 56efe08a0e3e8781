"""Matching pursuit on GPUs by the kernels of `gram_triton_kernel`. Imported only where Triton is."""

from typing import Any

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from itda.core.pursuit import gram_torch, gram_triton_kernel
from itda.core.pursuit.advance import SCALE, Atoms, Correlations, Rows
from itda.core.pursuit.products import UNIT, product_error
from itda.core.pursuit.triton_limits import LEAST_GROWN, UNFUSED, Launch, lanes_of, launch_of, lines_of
from itda.machine import triton_is_interpreted


def advance_triton(
    rows: Rows,
    which: Int32[Tensor, " n"],
    source: Correlations,
    place: Int32[Tensor, " n"],
    atoms: Atoms,
    crowd: int,
    *,
    fast: bool = False,
    launch: Launch | None = None,
) -> None:
    """`advance.advance` in one kernel, a program per row, with the same bits.

    `fast` is approximate: the pick is the largest entry of c as it stands. `launch` changes no result.
    """
    if len(which) == 0:
        return
    width, number = atoms.table.shape[1], atoms.number
    # As a dictionary grows, a few kernels are compiled, not one for each power of two.
    launch = launch or launch_of(number if atoms.born is None else max(number, LEAST_GROWN), width)
    if not launch.on_chip and source.keep:
        at = place.long()
        source = Correlations(source.c[at], source.applied[at], source.bound[at], keep=False)
        place = torch.arange(len(which), dtype=torch.int32, device=which.device)
    state = (rows.z, rows.energy, rows.least, rows.faint, rows.picks, rows.coefficients, rows.step, rows.left)
    unused = which  # in place of what there is none of
    slots, born = (unused if tensor is None else tensor for tensor in (atoms.slots, atoms.born))
    sizes = {
        "number": number,
        "c_stride": source.c.stride(0),
        "gram_stride": atoms.gram.stride(0),
        # A multiple of 16, if there are so many columns, lets threads read 8 at once, or 4.
        "reach": min(-(-number // 16) * 16, atoms.gram.shape[1], source.c.shape[1]),
        "width": width,
        "k": rows.picks.shape[1],
        "growth": atoms.entry_error + 4 * UNIT,
        "coarse": gram_torch.COARSE * product_error(width),
        "unit": 1 / SCALE,
        "crowd": crowd,
    }
    kinds = {"SLOTS": atoms.slots is not None, "GROWING": atoms.born is not None, "FAST": fast}
    with torch.cuda.device_of(rows.z):
        started = (gram_triton_kernel.on_chip if launch.on_chip else gram_triton_kernel.streaming)[(len(which),)]
        started(
            *(which, place, *state, rows.status, source.c, source.applied, source.bound),
            *(atoms.table, atoms.gram, slots, born),
            **sizes,
            **kinds,
            **_compiled_for(launch, number),
        )


def _compiled_for(launch: Launch, number: int) -> dict[str, Any]:
    """Return the kernel's constants, and the compiler's settings."""
    settings: dict[str, Any] = {
        "BLOCK": launch.block,
        "LANES": launch.lanes,
        "WARPS": launch.warps,
        "EACH": launch.each,
    }
    settings |= {"COMPILED": not triton_is_interpreted(), **UNFUSED, "num_warps": launch.warps}
    if launch.registers is not None:
        settings["maxnreg"] = launch.registers
    if not launch.on_chip:
        settings["LINES"] = lines_of(number)
    return settings


def units_triton(
    rows: Rows, which: Int32[Tensor, " n"], table: Float32[Tensor, "room d_model"]
) -> Float32[Tensor, "n d_model"]:
    """Return the residuals of some rows, scaled to norm 1, as `advance.units`, to rounding."""
    width = table.shape[1]
    unit = torch.empty(len(which), width, dtype=torch.float32, device=which.device)
    state = (rows.z, rows.left, rows.picks, rows.coefficients, rows.step)
    settings: dict[str, Any] = {"LANES": lanes_of(width), "num_warps": 8, **UNFUSED}
    with torch.cuda.device_of(rows.z):
        started = gram_triton_kernel.residual_units[(len(which),)]
        started(which, *state, table, unit, width, rows.picks.shape[1], **settings)
    return unit
