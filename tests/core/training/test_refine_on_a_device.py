"""Refinement on a device: the bits of the CPU, no activation on the host, and the kernel in Triton's interpreter."""

import importlib.util
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, labels, normal, same_bits, unit_rows
from core.other_device import DEVICE, here, other_device, there
from core.triton_worker import DEVICE as CUDA_OR_CPU
from core.triton_worker import triton_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ITDA, SparseCode, refine
from itda.core.training import refine_step
from itda.core.training.refine_step import ROWS, Uses, add_uses, add_uses_in_torch, improved

WIDTH = 25


def codes(rows: int, k: int, atoms: int, seed: int) -> SparseCode:
    """Codes with padding, in which some atoms have many uses and others none; an atom may be twice in a row."""
    random = torch.Generator().manual_seed(seed)
    there = torch.arange(k) < torch.randint(k + 1, (rows,), generator=random)[:, None]
    picks = (atoms * torch.rand(rows, k, generator=random) ** 3).long()
    coefficients = torch.randn(rows, k, generator=random)
    return SparseCode(picks * there, coefficients * there, there.sum(dim=1))


def one_use_after_the_other(code: SparseCode, residual: torch.Tensor, total: torch.Tensor) -> np.ndarray:
    """The oracle: every sum in reading order, in float64."""
    sums, left = total.numpy().copy(), residual.numpy()
    for row, (indices, coefficients) in enumerate(zip(code.indices.tolist(), code.coefficients.tolist(), strict=True)):
        for atom, coefficient in zip(indices, coefficients, strict=True):
            if coefficient:
                sums[atom] += coefficient * left[row]
    return sums


sizes = [st.integers(1, 40), st.integers(1, 5), st.integers(1, 30), st.integers(1, 40), st.integers(0, 999)]


@given(*sizes)
def test_the_sums_over_uses_have_one_order_on_a_cpu_and_in_torch_anywhere(rows, k, atoms, width, seed):
    code = codes(rows, k, atoms, seed)
    residual, total = normal(rows, width, seed).double() / 3, normal(atoms, width, seed + 1).double() / 3
    wanted = one_use_after_the_other(code, residual, total)
    uses = Uses.of(code.indices, code.coefficients.double(), atoms)
    for add in (add_uses, add_uses_in_torch):
        found = total.clone()
        add(uses, residual, found)
        assert np.array_equal(found.numpy(), wanted)


@pytest.mark.parametrize(("rows", "damping"), [(1, 0.0), (300, 0.0), (ROWS + 70, 0.0), (300, 1.0)])
def test_a_step_on_a_device_has_the_bits_of_the_cpu(rows, damping):
    code, atoms, targets = codes(rows, 4, 60, rows), unit_rows(60, WIDTH), normal(rows, WIDTH, 1)
    wanted = improved(atoms, targets, code, damping=damping)
    with other_device() as device:
        moved = SparseCode(there(code.indices), there(code.coefficients), there(code.count))
        found = improved(there(atoms), there(targets), moved, damping=damping)
        assert found.device == DEVICE
        assert device.copied_rows(WIDTH) == 0
    assert same_bits(here(found), wanted)
    assert not same_bits(wanted, atoms)


@pytest.mark.parametrize("pursuit", COMPILED)
@pytest.mark.parametrize("offset", [None, normal(1, WIDTH, 3)[0]])
@pytest.mark.parametrize("least", [0.0, 0.9, 1.0])
def test_refinement_on_a_device_has_the_bits_of_the_cpu_and_copies_no_activation(pursuit, offset, least):
    x = normal(700, WIDTH) + 0.5
    dictionary = ITDA(unit_rows(80, WIDTH, 1), labels(80), k=3, pursuit=pursuit, offset=offset)
    wanted = refine(dictionary, x, passes=2, pass_tokens=300, min_fidelity=least)
    with other_device() as device:
        found = refine(dictionary.to(DEVICE), there(x), passes=2, pass_tokens=300, min_fidelity=least)
        assert found.atoms.device == DEVICE
        assert device.copied_rows(WIDTH) == 0
    assert same_bits(here(found.atoms), wanted.atoms)
    assert same_bits(found.fidelity, wanted.fidelity)
    assert same_bits(wanted.atoms, dictionary.atoms) == (least == 1)


def test_activations_on_the_host_are_refined_where_the_dictionary_is():
    x, dictionary = normal(300, WIDTH), ITDA(unit_rows(40, WIDTH, 1), labels(40), k=3)
    with other_device():
        found = refine(dictionary.to(DEVICE), x, passes=2)
        assert found.atoms.device == DEVICE
    assert same_bits(here(found.atoms), refine(dictionary, x, passes=2).atoms)


@pytest.fixture(scope="module")
def worker():
    """Runs functions of this module where Triton interprets, unless there is a GPU."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    with triton_worker() as run:
        yield run


def summed_by_the_kernel(arrays: list[np.ndarray]) -> np.ndarray:
    from itda.core.training.refine_triton import add_uses_by_kernel

    *uses, residual, total = (torch.from_numpy(array).to(CUDA_OR_CPU) for array in arrays)
    add_uses_by_kernel(*uses, residual, total)
    return total.cpu().numpy()


def is_exact() -> bool:
    from itda.core.training.refine_step import kernel_is_exact

    return kernel_is_exact(torch.device(CUDA_OR_CPU))


@settings(max_examples=8)
@given(*sizes[:3], st.sampled_from([1, 25, 255, 256, 257, 600]), st.integers(0, 999))
def test_the_kernel_has_the_bits_of_the_compiled_loop(worker, rows, k, atoms, width, seed):
    code = codes(rows, k, atoms, seed)
    residual, total = normal(rows, width, seed).double() / 3, normal(atoms, width, seed + 1).double() / 3
    uses = Uses.of(code.indices, code.coefficients.double(), atoms)
    found = worker(summed_by_the_kernel, [part.numpy() for part in (*uses, residual, total)])
    add_uses(uses, residual, total)
    assert np.array_equal(found, total.numpy())


def test_the_kernel_is_tried_before_it_is_used(worker):
    assert worker(is_exact)


def test_a_kernel_with_other_bits_is_not_used(monkeypatch):
    wrong = SimpleNamespace(add_uses_by_kernel=lambda *given: given[-1].add_(1e-15))
    monkeypatch.setitem(sys.modules, "itda.core.training.refine_triton", wrong)
    monkeypatch.setattr(refine_step, "missing_for_triton", lambda _device: "")
    assert not refine_step.kernel_is_exact.__wrapped__(torch.device("cpu"))
    wrong.add_uses_by_kernel = lambda *given: add_uses_in_torch(Uses(*given[:3]), *given[3:])
    assert refine_step.kernel_is_exact.__wrapped__(torch.device("cpu"))


def test_compiled_for_a_gpu_no_product_is_fused_with_a_sum(tmp_path):
    with triton_worker(interprets=False) as run:
        kept, fused = run(fused_operations, str(tmp_path))
    assert kept == 0
    assert fused > 0  # or the search finds nothing


def fused_operations(cache: str) -> list[int]:
    """In a process without the interpreter: fused float64 operations where fusing is forbidden, and where it is not."""
    os.environ["TRITON_CACHE_DIR"] = cache
    from triton.backends.compiler import GPUTarget  # compiles without a GPU
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from itda.core.training.refine_triton import _add_uses

    types = {"starts": "*i64", "rows": "*i64", "width": "i32", "SLICE": "constexpr"}
    source = ASTSource(_add_uses, {name: types.get(name, "*fp64") for name in _add_uses.arg_names}, {"SLICE": 256})
    options = [{"num_warps": 4, "enable_fp_fusion": fuse} for fuse in (False, True)]
    return [build(source, GPUTarget("cuda", 90, 32), option).asm["ptx"].count("fma.rn.f64") for option in options]
