"""Growth: how a dictionary takes the activations that it explains badly. A table says which way fits a device.

To add a way, write a module with a class like `CpuGrowth` and give its devices a row in `GROWTHS`. It must make the
same dictionary as the plain loop in `tests/core/training/plain_growth.py`, to the bit. It says which pursuits it knows;
the others are left to `AnyGrowth`, which follows any rules.
"""

import logging
from importlib import import_module
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.pursuit import Pursuit
from itda.core.training.growth_bytes import growth_bytes
from itda.errors import SettingError
from itda.machine import free_device_memory

log = logging.getLogger(__name__)

GrowOn = Literal["auto", "cpu", "gpu"]
"""Where a dictionary grows: on the CPU, on a GPU, or there where its activations are, if it fits there."""

GROWTHS: dict[str, tuple[str, str]] = {
    "cpu": ("itda.core.training.growth_cpu", "CpuGrowth"),
    "cuda": ("itda.core.training.growth_device", "DeviceGrowth"),
}
"""Module and class for each type of device, imported at first use: compiled loops take a second to load."""

ELSEWHERE = "cpu"
"""The row of `GROWTHS` for devices that have none, and for pursuits that the growth of a device does not know."""

ANY_PURSUIT = ("itda.core.training.growth_any", "AnyGrowth")
"""Module and class for pursuits that neither of these growths knows."""


@runtime_checkable
class Growth(Protocol):
    """A dictionary that grows. Atoms are appended in reading order.

    Targets (activations less the offset) may be on any device and in any floating-point dtype.
    """

    threshold: float
    """The error above which a target is appended; may be set between calls of `offer`."""

    @property
    def number(self) -> int:
        """Number of atoms."""
        ...

    @property
    def atoms(self) -> Float32[Tensor, "atoms d_model"]:
        """The dictionary so far, on the device that it grows on; a view."""
        ...

    @property
    def novelty(self) -> Float32[Tensor, " atoms"]:
        """Error of each atom's target in the dictionary just before it was added, on the CPU."""
        ...

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """Number of Gram matrix rows that fit into memory."""
        ...

    def expect(self, atoms: int) -> None:
        """Make room for about so many atoms at once, where room is made by copying what is there."""
        ...

    def offer(self, targets: Float[Tensor, "batch d_model"]) -> list[int]:
        """Go through some targets in order; return the rows that were appended."""
        ...

    def encode(self, targets: Float[Tensor, "batch d_model"]) -> tuple[SparseCode, Float64[Tensor, " batch"]]:
        """Return codes in the dictionary so far with the full k, and the error of each target."""
        ...

    def restore(self, atoms: Float32[Tensor, "atoms d_model"], novelty: Float32[Tensor, " atoms"]) -> None:
        """Go on from a dictionary that has grown elsewhere; copies what it is given."""
        ...


@runtime_checkable
class GrowthMaker(Protocol):
    """A maker of an empty `Growth`, as a rule its class. Growth ends at `most` atoms; `memory` is in bytes."""

    def knows(self, pursuit: Pursuit, /) -> bool:
        """Return True if it can grow a dictionary by this pursuit."""
        ...

    def __call__(
        self,
        d_model: int,
        k: int,
        threshold: float,
        pursuit: Pursuit,
        most: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
    ) -> Growth:
        """Make a growth with no atoms."""
        ...


def growth_for(device: torch.device, pursuit: Pursuit) -> GrowthMaker:
    """Return the fastest maker of a growth by a pursuit, from activations on this device.

    All give the same bits.

    >>> growth_for(torch.device("cpu"), "mp").__name__, growth_for(torch.device("cpu"), "nn_mp").__name__
    ('CpuGrowth', 'AnyGrowth')
    """
    for row in (GROWTHS.get(device.type, GROWTHS[ELSEWHERE]), GROWTHS[ELSEWHERE], ANY_PURSUIT):
        if (maker := _imported(*row)).knows(pursuit):
            break
    return maker


def growth_device(activations: torch.device, grow_on: GrowOn, *, atoms: int | None, d_model: int) -> torch.device:
    """Return the device that a dictionary of about `atoms` atoms, None if not known, grows on; the log says why.

    >>> growth_device(torch.device("cuda"), "cpu", atoms=100, d_model=64)
    device(type='cpu')
    """
    if grow_on == "cpu" or (grow_on == "auto" and activations.type not in GROWTHS):
        return torch.device("cpu")
    device = torch.device("cuda") if grow_on == "gpu" and activations.type == "cpu" else activations
    if device.type == "cpu":
        return device
    if grow_on == "auto" and atoms is not None:
        needed, free = growth_bytes(atoms, d_model), free_device_memory(device)
        if needed > free:
            need = f"{atoms:,} atoms and a block need {needed:,} bytes of the GPU's memory, {free:,} are free"
            log.info("growth: on the CPU, since %s", need)
            return torch.device("cpu")
    log.info("growth: on the GPU, where it gives the bits of the CPU")
    return device


def check_grow_on(grow_on: str) -> None:
    """Raises `SettingError` unless there is such a place to grow on."""
    if grow_on not in ("auto", "cpu", "gpu"):
        raise SettingError(f"grow_on is {grow_on!r}: it must be auto, cpu or gpu")
    if grow_on == "gpu" and not torch.cuda.is_available():
        raise SettingError("grow_on is gpu, and torch finds no CUDA device: leave it at auto")


def _imported(module: str, name: str) -> GrowthMaker:
    return getattr(import_module(module), name)
