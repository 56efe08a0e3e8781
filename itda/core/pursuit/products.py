"""Products with all atoms in float32 whose error is small and proven, however wide the activations are.

The worst case of a float32 product grows with the number of terms n that are summed: it is off by n u ||x|| ||d||, in
whatever order (Higham 2002, sections 3.1 and 4.2; u = 2^-24 is the unit roundoff). At a width of 16,384 that is
1e-3 of ||x||, and dozens of atoms look as good as the best. So the width is cut into parts. Each part is a product of
its own, summed in an order that the library chooses; the results are then added one after the other. A term passes
through at most (part + parts - 1) roundings instead of (width), and so does the error: 2 u for each 1,000 less.

Adding to what is there already while multiplying (beta = 1 in BLAS) would not do: then nobody knows the order.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.pursuit.fixed_order import full_precision_products

UNIT = 2.0**-24
"""Unit roundoff of float32."""

PART = 1024
"""The most columns of a part: shorter ones cost time on a GPU, where each is a pass through memory."""

CPU_BUFFER, BUFFER = 2**20, 2**23
"""Numbers in the buffer that a part's results wait in: they stay in the last cache of a CPU, and of a GPU."""

ROWS = 1024
"""Fewest rows, if there are as many, that are multiplied at once: fewer make a product less efficient."""


def product_error(width: int) -> float:
    """Return the largest error of `correlations`, as a share of ||x|| ||d||, for unit atoms and rows of norm near 1.

    It is (n + 8) u: n = part + parts - 1 are the roundings that a term of the sum passes through. The 8 covers what is
    no sum: rounding x and d to float32; dividing x by its norm first and multiplying by it afterwards; a norm of d that
    is 1 up to 1e-5; terms in u^2; and results too small for a normal number.

    >>> [round(product_error(width) / UNIT) for width in (768, 4096, 16384)]
    [776, 1035, 1047]
    """
    # In one piece, since the compiled loops compile it as it stands.
    parts = max(1, -(-width // PART))
    return (-(-width // parts) + parts - 1 + 8) * UNIT


def correlations(
    x: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    out: Float32[Tensor, "batch atoms"] | None = None,
) -> Float32[Tensor, "batch atoms"]:
    """Return x D^T in float32, each entry within `product_error(d_model)` ||x|| ||d||; into `out` if that is given.

    Tensors may be on any device, all on the same. Entries are not the same bits for another number of rows.

    >>> correlations(torch.tensor([[3.0, 4.0]]), torch.eye(2)).tolist()
    [[3.0, 4.0]]
    """
    x, atoms = x.detach().float(), atoms.detach().float()
    if out is None:
        out = torch.empty(len(x), len(atoms), dtype=torch.float32, device=x.device)
    parts = _parts(x.shape[1])
    with full_precision_products(x.device):
        if len(parts) == 1:
            torch.mm(x, atoms.T, out=out)
        else:
            _sum_of_parts(x, atoms, parts, out)
    return out


def _parts(width: int) -> list[slice]:
    """Cut the columns into parts of nearly the same number."""
    parts = max(1, -(-width // PART))
    size = max(1, -(-width // parts))
    return [slice(start, min(width, start + size)) for start in range(0, width, size)] or [slice(0, 0)]


def _sum_of_parts(x: Tensor, atoms: Tensor, parts: list[slice], out: Tensor) -> None:
    most = CPU_BUFFER if x.device.type == "cpu" else BUFFER
    rows = min(len(x), max(ROWS, most // max(1, len(atoms))))
    columns = max(1, min(len(atoms), most // max(1, rows)))
    buffer = torch.empty(rows * columns, dtype=torch.float32, device=x.device)
    for some, sums in zip(x.split(max(1, rows)), out.split(max(1, rows)), strict=True):
        for these, total in zip(atoms.split(columns), sums.split(columns, dim=1), strict=True):
            torch.mm(some[:, parts[0]], these[:, parts[0]].T, out=total)
            product = buffer[: total.numel()].view(total.shape)
            for part in parts[1:]:
                torch.mm(some[:, part], these[:, part].T, out=product)
                total += product  # rounds once more


def in_16_bits_fast(device: torch.device) -> bool:
    """Tell if products in bfloat16, summed in float32, are several times faster there than those in float32.

    True for CPUs with AVX-512 BF16 (AMD since Zen 4, Intel since Sapphire Rapids) where torch uses oneDNN. Not asked
    for GPUs, whose products are no bottleneck here.
    """
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
    return device.type == "cpu" and torch.backends.mkldnn.enabled and supported is not None and bool(supported())


def error_in_16_bits(width: int) -> float:
    """Return the largest error of `correlations_in_16_bits`, as a share of ||x|| ||d||, for rows of norm near 1.

    Three roundings to 8 bits, each by at most 2^-8: x, d, and the result. Besides, the sum in float32, as in
    `product_error`, whose 8 covers what is left.

    >>> round(error_in_16_bits(768), 4)
    0.0118
    """
    return 3 * 2.0**-8 + 4 * 2.0**-16 + (width + 8) * UNIT


def correlations_in_16_bits(
    x: Float[Tensor, "batch d_model"],
    atoms: Float[Tensor, "atoms d_model"],
    out: Float32[Tensor, "batch atoms"],
) -> Float32[Tensor, "batch atoms"]:
    """Compute x D^T into `out`, each entry within `error_in_16_bits(d_model)` ||x|| ||d||; x and D are in bfloat16.

    >>> x = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
    >>> correlations_in_16_bits(x, torch.eye(2, dtype=torch.bfloat16), torch.empty(1, 2)).tolist()
    [[1.0, 0.0]]
    """
    return out.copy_(torch.mm(x, atoms.T))
