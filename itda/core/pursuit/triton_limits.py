"""Limits of the Triton kernels, in a module that can be imported where Triton is not installed."""

from typing import Literal, NamedTuple

from itda.core.pursuit.rules import Pursuit, rules_of
from itda.core.pursuit.rules.mp import MP
from itda.core.pursuit.rules.mp_refit import MP_REFIT

KNOWN = {MP, MP_REFIT}
"""The rules that the kernels follow; a refit comes after them."""

REGISTERS = 192 * 2**10
"""Most bytes that the on-chip kernel may hold in the 256 KiB of registers of an SM: c, and a residual in float64."""

WIDEST = 2**14
"""The widest residual, in float64, that the registers of a program hold."""

PACKED_ABOVE, PACKED_WIDTH = 2**14, 2**10
"""Above so many atoms, and up to that width, the packed kernel is chosen though the other fits: on an H100 it took 5.5
ms instead of 9.5 for 32,768 atoms of width 768 (`scripts/kernel_sweep.py`). For 16,384 it gained little on random
activations. On activations with a common mean, of width 4,096, it lost a third: its correlations are coarser."""

LEAST_GROWN = 4096
"""Places for correlations in growth, however few atoms there are."""

UNFUSED = {"enable_fp_fusion": False}
"""The compiler's setting that keeps products and sums apart; only what is off by a bound is fused, by name."""

Kernel = Literal["on chip", "packed", "streaming"]
"""Where a kernel has its correlations: in registers, in float32 or two in one; or in memory."""


def has_kernel(pursuit: Pursuit) -> bool:
    """Tell if the kernels know the rules of a pursuit.

    >>> has_kernel("mp_refit"), has_kernel("omp")
    (True, False)
    """
    return rules_of(pursuit) in KNOWN


def fits_on_chip(m: int, d: int) -> bool:
    """Tell if one program may hold its correlations with m atoms, and its residual of width d, in registers.

    >>> fits_on_chip(16384, 4096), fits_on_chip(65536, 4096)
    (True, False)
    """
    return 4 * power_of_two(m) + 8 * power_of_two(d) <= REGISTERS


def fits_packed(m: int, d: int) -> bool:
    """Tell if they fit with two correlations, in 16 bits each, in a register.

    >>> fits_packed(65536, 4096), fits_packed(65537, 4096)
    (True, False)
    """
    # What it unpacks takes some registers more.
    return 2 * power_of_two(m) + 8 * power_of_two(d) <= REGISTERS - 2**15


def kernel_for(m: int, d: int) -> Kernel:
    """Choose a kernel for m atoms of width d, all of which every row sees, with their whole Gram matrix.

    >>> kernel_for(16384, 4096), kernel_for(65536, 4096), kernel_for(131072, 4096)
    ('on chip', 'packed', 'streaming')
    """
    if fits_packed(m, d) and (not fits_on_chip(m, d) or (m > PACKED_ABOVE and d <= PACKED_WIDTH)):
        return "packed"
    return "on chip" if fits_on_chip(m, d) else "streaming"


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is no less than n.

    >>> [power_of_two(n) for n in (1, 2, 3, 32, 33)]
    [1, 2, 4, 32, 64]
    """
    return 1 << (n - 1).bit_length()


def lanes_of(d: int) -> int:
    """Return the places that a kernel has for the numbers of a residual: a power of two.

    >>> lanes_of(100), lanes_of(768)
    (256, 1024)
    """
    return max(256, power_of_two(d))


def places_of(k: int) -> int:
    """Return the places that a kernel has for the atoms of a row: a power of two, and not a kernel for each small one.

    >>> places_of(5), places_of(40)
    (16, 64)
    """
    return max(16, power_of_two(k))


class Launch(NamedTuple):
    """How a kernel is compiled and started."""

    kernel: Kernel
    block: int
    """Correlations that a program takes at a time: all of a row, a power of two, unless they are in memory."""
    lanes: int
    """Places for the numbers of a residual: a power of two."""
    warps: int
    """Groups of 32 threads in a program."""
    each: int
    """Neighbouring columns that a thread has: as many as it reads, and writes, at once."""
    registers: int | None
    """Most registers that a thread may have; None leaves it to the compiler."""


def launch_of(m: int, d: int, kernel: Kernel | None = None) -> Launch:
    """Choose how to start the kernel for m atoms of width d; `kernel` is by default on chip if that fits, or streaming.

    By what the kernels compile to (`scripts/kernel_report.py`): a program has eight warps, since sums in float64 leave
    eight numbers to exchange, and four where that leaves a thread little to hold. So many registers that next to
    nothing is spilled from them; fewer leave room for more programs at a time on an SM, and one waits while another
    computes. Of what that leaves, what was fastest on an H100 (`scripts/kernel_sweep.py`). The streaming kernel has an
    SM for itself: its correlations then stay in the second cache.

    >>> launch_of(16384, 4096)
    Launch(kernel='on chip', block=16384, lanes=4096, warps=8, each=8, registers=128)
    >>> launch_of(32768, 768, "packed")
    Launch(kernel='packed', block=32768, lanes=1024, warps=8, each=8, registers=128)
    >>> launch_of(65536, 768).kernel
    'streaming'
    """
    lanes = lanes_of(d)
    kernel = kernel or ("on chip" if fits_on_chip(m, d) else "streaming")
    if kernel == "streaming":
        return Launch(kernel, 8192 * 4096 // max(4096, lanes), lanes, 8, 4, None)
    block = max(256, power_of_two(m))
    if kernel == "packed":
        block = max(1024, block)
        held = (block // 2 + 2 * lanes) // (32 * 8)  # two correlations in a register
        return Launch(kernel, block, lanes, 8, 8, 80 if held <= 40 else 128 if held <= 72 else 255)
    warps = 4 if block + 2 * lanes <= 48 * 128 else 8
    held = (block + 2 * lanes) // (32 * warps)  # registers of a thread for c and r
    few = 96 if warps == 4 else 80
    return Launch(kernel, block, lanes, warps, 8, few if held <= 48 else 128 if held <= 96 else None)


def lines_of(m: int) -> int:
    """Return the lines of memory, of 64 entries each, that the streaming kernel fetches ahead of a Gram row.

    >>> lines_of(65536), lines_of(10**6)
    (1024, 1024)
    """
    return min(1024, power_of_two(-(-m // 64)))
