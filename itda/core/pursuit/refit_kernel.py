"""The inner products of a refit in Triton. Import only where Triton is; `refit` starts the kernel."""
# The language of the kernels is not Python's, and has no types to annotate with.
# ruff: noqa: ANN001, ANN201, N803
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportMissingImports=false

import triton
import triton.language as tl

from itda.core.pursuit.gram_triton_kernel import _atom, _fixed_sum, _places


@triton.jit
def products(
    z,  # float64 [rows, d_model]
    atoms,  # [atoms, d_model]
    indices,  # int32 [rows, k]
    gram,  # float64 [rows, k, k]: written, up to the diagonal
    with_z,  # float64 [rows, k]: written
    width,
    k,
    LANES: tl.constexpr,
):
    """Write the inner products of one atom of a row with those before it, itself, and the target."""
    row, t = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = _places(LANES)
    own = _atom(atoms, tl.load(indices + row * k + t), width, place)
    target = tl.load(z + row * width + place, mask=place < width, other=0.0)
    tl.store(with_z + row * k + t, _fixed_sum(own * target, LANES))
    for s in range(t + 1):
        other = _atom(atoms, tl.load(indices + row * k + s), width, place)
        tl.store(gram + (row * k + t) * k + s, _fixed_sum(other * own, LANES))
