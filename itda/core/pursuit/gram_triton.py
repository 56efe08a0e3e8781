"""Matching pursuit on GPUs by the kernels of `gram_triton_kernel`. Imported only where Triton is."""

from typing import Any

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from itda.core.pursuit import gram_torch, gram_triton_kernel, gram_triton_packed
from itda.core.pursuit.advance import SCALE, Atoms, Correlations, Rows
from itda.core.pursuit.products import UNIT, product_error
from itda.core.pursuit.triton_limits import LEAST_GROWN, UNFUSED, Kernel, Launch, lanes_of, launch_of, lines_of
from itda.machine import triton_is_interpreted

KERNELS: dict[Kernel, Any] = {
    "on chip": gram_triton_kernel.on_chip,
    "packed": gram_triton_packed.packed,
    "streaming": gram_triton_kernel.streaming,
}

PACKED = 0.52 / 31900
"""Error of correlations just packed, as a share of ||r||."""


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

    `fast` is approximate: the pick is the largest entry of c as it stands. `launch` changes no result. That of the
    packed kernel is for a whole Gram matrix, of rows that see all atoms, with 0 in columns past them.
    """
    if len(which) == 0:
        return
    number, width = atoms.number, atoms.table.shape[1]
    # As a dictionary grows, a few kernels are compiled, not one for each power of two.
    launch = launch or launch_of(number if atoms.born is None else max(number, LEAST_GROWN), width)
    if launch.kernel == "streaming" and source.keep:
        at = place.long()
        source = Correlations(source.c[at], source.applied[at], source.bound[at], keep=False)
        place = torch.arange(len(which), dtype=torch.int32, device=which.device)
    c, gram, coarse = source.c, atoms.gram, gram_torch.COARSE * product_error(width)
    if launch.kernel == "packed":
        assert atoms.slots is None
        assert atoms.born is None
        c, gram, coarse = in_pairs(c), in_pairs(gram), coarse + gram_torch.COARSE * PACKED
    numbers = {
        "number": number,
        "c_stride": c.stride(0),
        "gram_stride": gram.stride(0),
        "reach": _reach(number if launch.kernel != "packed" else -(-number // 2), c, gram),
        "width": width,
        "k": rows.picks.shape[1],
        "growth": atoms.entry_error + 4 * UNIT,
        "coarse": coarse,
        "unit": 1 / SCALE,
        "crowd": crowd,
    }
    state = (rows.z, rows.energy, rows.least, rows.faint, rows.picks, rows.coefficients, rows.step, rows.left)
    state = (which, place, *state, rows.status, c, source.applied, source.bound, atoms.table, gram)
    kinds = {} if launch.kernel == "packed" else _seen(atoms, which)
    with torch.cuda.device_of(rows.z):
        started = KERNELS[launch.kernel][(len(which),)]
        started(*state, **numbers, **kinds, FAST=fast, **_compiled_for(launch, number))


def _reach(columns: int, c: Tensor, gram: Tensor) -> int:
    """Return the columns that may be read: a multiple of 16, if there are so many, lets a thread read 16 bytes."""
    return min(-(-columns // 16) * 16, gram.shape[1], c.shape[1])


def _seen(atoms: Atoms, unused: Tensor) -> dict[str, Any]:
    """Return what a kernel has to know of Gram rows that may be missing, and of atoms that rows may not see."""
    slots, born = (unused if tensor is None else tensor for tensor in (atoms.slots, atoms.born))
    return {"slots": slots, "born": born, "SLOTS": atoms.slots is not None, "GROWING": atoms.born is not None}


def in_pairs(matrix: Tensor) -> Tensor:
    """Return a matrix of float32 or int16 as one of int64 or int32, each two neighbours; of an odd width, a copy.

    >>> in_pairs(torch.tensor([[1, 2, -1]], dtype=torch.int16)).tolist()
    [[131073, 65535]]
    """
    if matrix.shape[1] % 2 or matrix.stride(0) % 2:
        matrix = torch.nn.functional.pad(matrix, (0, matrix.shape[1] % 2))
    return matrix.view({torch.float32: torch.int64, torch.int16: torch.int32}[matrix.dtype])


def constants_of(launch: Launch, number: int) -> dict[str, Any]:
    """Return the constants that a kernel is compiled for, but for those that say what it is to do."""
    constants = {"LANES": launch.lanes, "WARPS": launch.warps}
    if launch.kernel == "packed":
        return constants | {"PAIRS": launch.block // 2, "EACH": launch.each // 2}
    constants |= {"BLOCK": launch.block, "EACH": launch.each}
    return constants | ({"LINES": lines_of(number)} if launch.kernel == "streaming" else {})


def _compiled_for(launch: Launch, number: int) -> dict[str, Any]:
    """Return the kernel's constants, and the compiler's settings."""
    settings = constants_of(launch, number)
    settings |= {"COMPILED": not triton_is_interpreted(), **UNFUSED, "num_warps": launch.warps}
    if launch.registers is not None:
        settings["maxnreg"] = launch.registers
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
