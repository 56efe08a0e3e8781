"""The Triton kernels give the bits of `plain.pursue`: on a GPU where there is one, else in Triton's interpreter.

Triton decides when it is imported whether it interprets, so the kernels run in a process of their own.
"""

import importlib.util
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from core.helpers import normal, unit_rows
from core.pursuit.pursuit_cases import CASES, Case, differences, misled_by_its_gram_matrix
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.core.code import SparseCode
from itda.core.pursuit import gram_torch, plain
from itda.core.pursuit.fixed_order import fixed_sum

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
KERNELS = {"on chip": {"on_chip": True}, "streaming": {"on_chip": False, "tile": 64}}

EVERY_KERNEL = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(scope="module")
def worker():
    """Runs functions of this module where Triton interprets, unless there is a GPU."""
    with ProcessPoolExecutor(1, get_context("spawn"), set_up, ["" if GPU else "1"]) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def set_up(interpret: str) -> None:
    if interpret:
        os.environ["TRITON_INTERPRET"] = interpret
    torch.set_num_threads(1)


def pursue(arrays, k, pursuit, settings):
    """In the worker, from and to NumPy arrays."""
    from itda.core.pursuit.gram_triton import pursue_triton

    targets, atoms, *gram = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    code, left = pursue_triton(targets, atoms, k, pursuit, **settings, gram=gram[0] if gram else None)
    return tuple(part.cpu().numpy() for part in (code.indices, code.coefficients, code.count, left))


def found_by(worker, case: Case, pursuit: str, *gram: torch.Tensor, **settings):
    arrays = [tensor.numpy() for tensor in (case.targets, case.atoms, *gram)]
    parts = worker(pursue, arrays, case.k, pursuit, settings)
    indices, coefficients, count, left = map(torch.from_numpy, parts)
    return SparseCode(indices, coefficients, count), left


@EVERY_KERNEL
@pytest.mark.parametrize("name", CASES)
def test_every_bit_is_that_of_plain(worker, name, kernel):
    case = CASES[name]()
    found = found_by(worker, case, "mp", **KERNELS[kernel])
    assert differences(found, plain.pursue(*case)) == []


@EVERY_KERNEL
@pytest.mark.parametrize("name", ["31 atoms of odd width", "exact fits", "scales"])
@pytest.mark.parametrize(("pursuit", "enough"), [("mp", 0.5), ("mp_refit", 0.0), ("omp", 0.0)])
def test_every_bit_of_refits_and_of_rows_that_need_not_go_on_is_that_of_plain(worker, name, kernel, pursuit, enough):
    case = CASES[name]()
    found = found_by(worker, case, pursuit, enough=enough, **KERNELS[kernel])
    assert differences(found, plain.pursue(*case, pursuit, enough=enough)) == []


@EVERY_KERNEL
@settings(max_examples=6)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 40), st.integers(1, 4))
def test_every_bit_is_that_of_plain_for_whatever_shape(worker, kernel, seed, atoms, width, k):
    x, d = normal(3, width, seed), unit_rows(atoms, width, seed)
    d[atoms // 2 :] = d[: atoms - atoms // 2] * torch.tensor([-1.0, 1.0])[seed % 2]
    found = found_by(worker, Case(x, d, k), "mp", **KERNELS[kernel])
    assert differences(found, plain.pursue(x, d, k)) == []


@EVERY_KERNEL
def test_the_bound_grows_with_every_step(worker, kernel):
    case, gram = misled_by_its_gram_matrix()
    found = found_by(worker, case, "mp", gram, **KERNELS[kernel])
    assert found[0].indices.tolist() == [[*range(8), 9]]
    assert differences(found, plain.pursue(*case)) == []


@EVERY_KERNEL
def test_rows_with_too_many_candidates_are_left_to_torch_and_the_others_are_not(worker, kernel):
    near = CASES["atoms a last bit apart"]()
    case = Case(torch.cat([near.targets, near.atoms[:2].double()]), near.atoms, 2)
    # With tiles of 8 columns, some candidates are looked at before there turn out to be too many.
    settings = KERNELS[kernel] | ({"tile": 8} if kernel == "streaming" else {})
    found = found_by(worker, case, "mp", crowd=8, **settings)
    assert differences(found, plain.pursue(*case)) == []
    assert worker(rows_left_to_torch, (case.targets.numpy(), case.atoms.numpy()), case.k, settings) == [3, 5]


def rows_left_to_torch(arrays, k, settings):
    """In the worker: how many rows there are, if 8 candidates are the most, and if none are allowed."""
    from itda.core.pursuit import gram_triton

    targets, atoms = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    rows, redo = [], gram_torch.pursue

    def counted(targets, *arguments, **named):
        rows.append(len(targets))
        return redo(targets, *arguments, **named)

    gram_torch.pursue = counted
    try:
        for crowd in (8, 0):
            gram_triton.pursue_triton(targets, atoms, k, crowd=crowd, **settings)
    finally:
        gram_torch.pursue = redo
    return rows


@EVERY_KERNEL
def test_fast_picks_are_as_good_to_rounding_and_what_is_left_is_exact(worker, kernel):
    case = CASES["random"]()
    code, left = found_by(worker, case, "mp", fast=True, **KERNELS[kernel])
    _, expected = plain.pursue(*case)
    torch.testing.assert_close(left, expected, rtol=0.05, atol=0)
    residual = case.targets.double() - code.dense(len(case.atoms)).double() @ case.atoms.double()
    torch.testing.assert_close(left, residual.square().sum(1) / case.targets.double().square().sum(1))


def test_gpu_pursuit_takes_the_kernels_and_gives_the_bits_of_plain(worker):
    case = CASES["random"]()
    arrays = (case.targets.numpy(), case.atoms.numpy())
    description, parts = worker(gpu_pursuit, arrays, case.k)
    assert description.startswith("pursuit: triton-on-chip (100 atoms of width 24, k = 5; ")
    indices, coefficients, count, left = map(torch.from_numpy, parts)
    assert differences((SparseCode(indices, coefficients, count), left), plain.pursue(*case)) == []


def gpu_pursuit(arrays, k):
    """In the worker."""
    from itda.core.pursuit.gram_gpu import GpuPursuit

    targets, atoms = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    find = GpuPursuit(atoms, k)
    code, left = find(targets)
    return find.description, tuple(part.cpu().numpy() for part in (code.indices, code.coefficients, code.count, left))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sum_of_a_kernel_is_fixed_sum_for_every_power_of_two_and_widths_between(worker, sign):
    widths = [1, 2, 3, 5, 16, 31, 32, 33, 63, 65, 100, 129, 192, 255, 256, 257, 511, 513, 768, 1025, 2304, 4096]
    terms = [sign * normal(1, width)[0].double() ** 3 for width in widths]
    found = worker(sums_of_a_kernel, [row.numpy() for row in terms])
    assert found == [fixed_sum(row).item() for row in terms]


def sums_of_a_kernel(rows):
    """In the worker: the sum of each row by `_fixed_sum`."""
    from core.pursuit.kernel_of_a_sum import sum_of

    return [sum_of(torch.from_numpy(row).to(DEVICE)) for row in rows]


def test_compiled_for_a_gpu_no_float64_product_is_fused_with_a_sum(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn"), set_up, [""]) as pool:
        fused = pool.submit(fused_operations, str(tmp_path)).result()
    assert fused["on_chip", False] == fused["streaming", False] == 0
    assert fused["on_chip", True] > 0  # or the search finds nothing


def fused_operations(cache):
    """In a process without the interpreter: fused float64 operations by kernel and whether fusing is allowed."""
    os.environ["TRITON_CACHE_DIR"] = cache
    from triton.backends.compiler import GPUTarget  # compiles without a GPU
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from itda.core.pursuit import gram_triton_kernel

    types = {"c": "*fp32", "atoms": "*fp32", "gram": "*fp32", "growth": "fp32"}
    types |= dict.fromkeys(["z", "energy", "least", "faint", "bound", "coefficients", "left_over"], "*fp64")
    types |= dict.fromkeys(["indices", "count"], "*i32")
    sizes = {"BLOCK": 64, "TILE": 64, "TILES": 2, "LEVELS": 3, "FAST": False}
    found = {}
    for name, fuse in (("on_chip", False), ("streaming", False), ("on_chip", True)):
        kernel = getattr(gram_triton_kernel, name)
        signature = {n: "constexpr" if n in sizes else types.get(n, "i32") for n in kernel.arg_names}
        source = ASTSource(kernel, signature, {n: sizes[n] for n in kernel.arg_names if n in sizes})
        options = {"num_warps": 1, "enable_fp_fusion": fuse}
        found[name, fuse] = build(source, GPUTarget("cuda", 90, 32), options).asm["ptx"].count("fma.rn.f64")
    return found
