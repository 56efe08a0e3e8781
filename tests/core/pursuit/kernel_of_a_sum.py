"""A Triton kernel that does nothing but a sum. Imported only where Triton is."""
# ruff: noqa: N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportMissingImports=false

import torch
import triton
import triton.language as tl

from itda.core.pursuit.gram_triton_kernel import _fixed_sum, _places
from itda.core.pursuit.triton_limits import lanes_of


@triton.jit
def _kernel(terms, out, width, LANES: tl.constexpr):
    place = _places(LANES)
    tl.store(out, _fixed_sum(tl.load(terms + place, mask=place < width, other=0.0), LANES))


def sum_of(terms: torch.Tensor) -> float:
    """Return the sum of a float64 vector, as the kernels of the pursuits add."""
    out = torch.empty(1, dtype=torch.float64, device=terms.device)
    _kernel[(1,)](terms, out, len(terms), LANES=lanes_of(len(terms)))
    return out.item()
