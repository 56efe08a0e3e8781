"""Least squares for many rows at once has the bits of `plain.refit`, which takes one atom after the other."""

import importlib.util
import os
from functools import partial

import pytest
import torch
from core.helpers import normal, same_bits, unit_rows
from core.triton_worker import DEVICE, triton_worker
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itda.core.code import SparseCode
from itda.core.pursuit import plain
from itda.core.pursuit.fixed_order import fixed_dot, weighted_atoms
from itda.core.pursuit.refit import refit_torch, refitted
from itda.core.pursuit.subtraction import DEPENDENT


def problem(seed: int, number: int, width: int, k: int) -> tuple[torch.Tensor, torch.Tensor, SparseCode]:
    """Targets, atoms of which some nearly repeat others, and codes of any count that pick any atoms once."""
    chance = torch.Generator().manual_seed(seed)
    z, atoms = normal(6, width, seed).double(), unit_rows(number, width, seed)
    atoms[number // 2 :] = atoms[: number - number // 2].clone()
    size = 10.0 ** -torch.randint(2, 9, (number - number // 2, 1), generator=chance).double()
    near = atoms[number // 2 :].double() + size * normal(number - number // 2, width, seed + 1).double()
    atoms[number // 2 :] = torch.nn.functional.normalize(near, dim=1).float()
    order = torch.rand(6, number, generator=chance).argsort(dim=1)[:, :k]
    indices = torch.nn.functional.pad(order, (0, k - order.shape[1]))
    count = torch.randint(0, min(number, k) + 1, (6,), generator=chance)
    taken = torch.arange(k) < count[:, None]
    return z, atoms, SparseCode(indices.masked_fill(~taken, 0), normal(6, k, seed).double() * taken, count)


SHAPES = st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 40), st.integers(1, 9)


@given(*SHAPES)
def test_every_bit_is_that_of_plain_dependent_atoms_and_all(seed, number, width, k):
    z, atoms, code = problem(seed, number, width, k)
    (found, left), wanted = refitted(z, atoms, code), plain.refit(z, atoms, code)
    assert found.count.tolist() == wanted.count.tolist()
    assert found.indices.tolist() == wanted.indices.tolist()
    assert same_bits(found.coefficients, wanted.coefficients)
    residual = z - weighted_atoms(wanted.coefficients, atoms, wanted.indices)
    assert same_bits(left, fixed_dot(residual, residual))


def test_some_atoms_of_the_problems_are_dropped_as_dependent():
    dropped = 0
    for seed in range(20):
        z, atoms, code = problem(seed, 12, 30, 8)
        dropped += int((refitted(z, atoms, code)[0].count < code.count).sum())
    assert dropped > 5


def test_no_rows_have_no_fit():
    z, atoms, code = problem(0, 5, 4, 3)
    empty = SparseCode(code.indices[:0], code.coefficients[:0], code.count[:0])
    found, left = refitted(z[:0], atoms, empty)
    assert (found.indices.shape, left.shape) == ((0, 3), (0,))


@pytest.fixture(scope="module")
def interpreter():
    with triton_worker() as run:
        yield partial(run, _by_the_kernels)


def _by_the_kernels(*shape):
    """In the worker: a refit by the kernels, as arrays."""
    from itda.core.pursuit.refit import refit_triton

    z, atoms, code = problem(*shape)
    found = refit_triton(*(part.to(DEVICE) for part in (z, atoms, code.indices, code.count)))
    return [part.cpu().numpy() for part in found]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from([1, 31, 40, 300]), st.sampled_from([1, 2, 5]))
@example(3, 12, 30, 8)  # drops atoms
@example(5, 40, 700, 17)
def test_the_kernels_refit_has_the_bits_of_torch(interpreter, seed, number, width, k):
    z, atoms, code = problem(seed, number, width, k)
    found, wanted = interpreter(seed, number, width, k), refit_torch(z, atoms, code.indices, code.count)
    for part, expected in zip(found, wanted, strict=True):
        part = torch.from_numpy(part)
        assert same_bits(part, expected) if expected.is_floating_point() else part.tolist() == expected.tolist()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_compiled_for_a_gpu_quotients_and_roots_are_rounded_once_and_nothing_is_fused(tmp_path):
    with triton_worker(interprets=False) as run:
        code = run(_compiled_fit, str(tmp_path))
    assert "fma.rn.f64" not in code
    assert "div.rn.f64" in code
    assert "sqrt.rn.f64" in code


def _compiled_fit(cache):
    """In a process without the interpreter: what the kernel of a fit compiles to, without a GPU."""
    os.environ["TRITON_CACHE_DIR"] = cache
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from itda.core.pursuit.refit_kernel import fit

    constants = {"DEPENDENT": DEPENDENT, "K": 16}
    types = dict.fromkeys(["gram", "with_z", "coefficients"], "*fp64") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(["indices", "counts", "fitted", "numbers"], "*i64") | {"k": "i32"}
    source = ASTSource(fit, {name: types[name] for name in fit.arg_names}, constants)
    return build(source, GPUTarget("cuda", 90, 32), {"num_warps": 1, "enable_fp_fusion": False}).asm["ptx"]
