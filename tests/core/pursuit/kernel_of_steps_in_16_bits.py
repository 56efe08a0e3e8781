"""A Triton kernel that packs correlations and subtracts Gram rows, as the packed kernel does. Only where Triton is."""
# ruff: noqa: N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportMissingImports=false

import torch
import triton
import triton.language as tl

from itda.core.pursuit.advance import SCALE
from itda.core.pursuit.gram_triton import in_pairs
from itda.core.pursuit.gram_triton_kernel import _columns
from itda.core.pursuit.gram_triton_packed import _largest_here, _less_packed, _packed, _quantum, _with_room

PAIRS = 1024


@triton.jit
def _kernel(c, gram, weights, start, out, quanta, bounds, number, reach, steps, unit, PAIRS: tl.constexpr):
    pair = _columns(PAIRS, 4)
    off = tl.load(start + 1)
    quantum, inverse = _quantum(tl.load(start), off)
    q = _packed(c, inverse.to(tl.float32), pair, number, reach)
    off += 0.52 * quantum
    for t in range(steps):
        top = tl.max(tl.max(_largest_here(q, PAIRS, 8, 4), axis=1), axis=0)
        a = tl.load(weights + t)
        q, q, q, q, quantum, inverse, off = _with_room(q, q, q, q, top, a, quantum, inverse, off)
        q = _less_packed(q, gram + t * reach, (-a * unit * inverse).to(tl.float32), pair, reach)
        off += 0.52 * quantum
        tl.store(out + t * PAIRS + pair, q)
        tl.store(quanta + t, quantum)
        tl.store(bounds + t, off)


def steps_in_16_bits(
    c: torch.Tensor, gram: torch.Tensor, weights: torch.Tensor, norm: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Subtract weights[t] gram[t] / SCALE from c, step by step: return q, and s and the bound on the error, by step."""
    device, steps = c.device, len(weights)
    padded = torch.nn.functional.pad(gram, (0, gram.shape[1] % 2)).contiguous()
    out = torch.zeros(steps, PAIRS, dtype=torch.int32, device=device)
    quanta, bounds = (torch.zeros(steps, dtype=torch.float64, device=device) for _ in range(2))
    start = torch.tensor([norm, 0.0], dtype=torch.float64, device=device)
    pairs, rows = in_pairs(c[None]), in_pairs(padded)
    numbers = len(c), rows.shape[1], steps, 1 / SCALE
    sizes = {"PAIRS": PAIRS, "num_warps": 8, "enable_fp_fusion": False}
    _kernel[(1,)](pairs, rows, weights, start, out, quanta, bounds, *numbers, **sizes)
    halves = out.view(torch.int16)[:, : len(c)]
    return halves.double(), quanta, bounds
