"""Kernels beside what does the same in torch: at the first call on a device both are done, and compared to the bit.

A compiler that fuses what it was told to keep apart changes last bits, and a new one may not compile a kernel at all.
Then torch goes on alone there, and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from itda.machine import missing_for_triton

log = logging.getLogger(__name__)

Form = Callable[..., Sequence[Tensor]]


def holds(what: str, kernel: Callable[[], Sequence[Tensor]], expected: Sequence[Tensor]) -> bool:
    """Return True if a kernel gives the tensors expected, to the bit. If not, or if it fails, a warning says so.

    >>> holds("sum", lambda: (torch.tensor(3),), (torch.tensor(3),))
    True
    """
    try:
        found = kernel()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        log.warning("%s: without Triton's kernel, which fails here: %s", what, reason)
        return False
    if all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)):
        return True
    log.warning("%s: without Triton's kernel, whose results differ from those of torch here", what)
    return False


class KernelOrTorch:
    """A function of two forms, of which a device gets the kernel if the first call shows that it can be trusted."""

    def __init__(self, what: str, kernel: Form, in_torch: Form) -> None:
        self.what, self.kernel, self.in_torch = what, kernel, in_torch
        self._holds: dict[torch.device, bool] = {}

    def on(self, device: torch.device, telling: Callable[[], bool] = lambda: True) -> Form:
        """Return the form for a device. A first call that is not `telling` says nothing of the kernel, and waits."""
        if missing_for_triton(device) or self._holds.get(device) is False:
            return self.in_torch
        if device in self._holds:
            return self.kernel
        return self._both if telling() else self.in_torch

    def _both(self, *arguments: Any) -> Sequence[Tensor]:
        expected = self.in_torch(*arguments)
        self._holds[expected[0].device] = holds(self.what, lambda: self.kernel(*arguments), expected)
        return expected
