"""Scaling, merging and scaling back have the bits of torch in their kernels, and those of one step at a time."""

import importlib.util
from functools import partial

import pytest
import torch
from core.helpers import normal, same_bits, unit_rows
from core.triton_worker import DEVICE, triton_worker
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itda.core.pursuit import start
from itda.core.pursuit.fixed_order import weighted_atoms

SEEDS = st.integers(0, 10**6)
NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def picks_of(seed: int, rows: int, k: int, atoms: int, dtype=torch.int32) -> tuple[torch.Tensor, ...]:
    """Picks with many repeats, coefficients of any size and sign of zero, and counts; past these anything."""
    chance = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, atoms, (rows, k), generator=chance).to(dtype)
    coefficients = normal(rows, k, seed).double() * 10.0 ** torch.randint(-9, 9, (rows, k), generator=chance)
    coefficients[torch.rand(rows, k, generator=chance) < 0.1] = -0.0
    count = torch.randint(0, k + 1, (rows,), generator=chance).to(dtype)
    coefficients[torch.arange(k) >= count[:, None]] = torch.nan
    return picks, coefficients, count


@given(SEEDS, st.integers(1, 5), st.integers(1, 9), st.integers(1, 12), st.sampled_from([torch.int32, torch.int64]))
def test_repeated_picks_are_added_one_step_after_the_other(seed, rows, k, atoms, dtype):
    picks, coefficients, count = picks_of(seed, rows, k, atoms, dtype)
    code = start.merged(picks, coefficients, count)
    for row in range(rows):
        wanted: dict[int, float] = {}
        for step in range(int(count[row])):
            atom = int(picks[row, step])
            wanted[atom] = wanted.get(atom, 0.0) + float(coefficients[row, step])
        rest = [0.0] * (k - len(wanted))
        assert int(code.count[row]) == len(wanted)
        assert code.indices[row].tolist() == [*wanted, *map(int, rest)]
        assert same_bits(code.coefficients[row], torch.tensor([*wanted.values(), *rest], dtype=torch.float64))


@pytest.fixture(scope="module")
def worker():
    with triton_worker() as run:
        yield partial(run, _in_the_worker)


def _in_the_worker(name, *arguments):
    """In the worker: what a kernel writes, as arrays."""
    from itda.core.pursuit import fixed_order

    function = getattr(fixed_order if name == "weighted_triton" else start, name)
    found = function(*(part.to(DEVICE) if isinstance(part, torch.Tensor) else part for part in arguments))
    return [part.cpu().numpy() for part in found]


def assert_same(found, wanted):
    for part, expected in zip(found, wanted, strict=True):
        part = torch.from_numpy(part)
        assert part.dtype == expected.dtype
        assert same_bits(part, expected) if part.is_floating_point() else torch.equal(part, expected)


FLOATS = st.sampled_from([torch.float16, torch.float32, torch.float64])


@NEEDS_TRITON
@settings(max_examples=15)
@given(SEEDS, st.sampled_from([1, 5, 40, 300]), FLOATS, st.integers(-1070, 900))
@example(0, 40, torch.float64, -1070)
@example(0, 40, torch.float32, -140)
def test_the_kernel_scales_targets_as_torch(worker, seed, width, dtype, power):
    # Half of the power each time: 2 ** -1070 times itself is 0.
    x = normal(3, width, seed).double() * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    x[1] = 0.0
    x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    assert_same(worker("begin_triton", x), start.begin_torch(x))


@NEEDS_TRITON
@settings(max_examples=15)
@given(SEEDS, st.integers(1, 4), st.sampled_from([1, 7, 16, 40]), st.sampled_from([1, 3, 50]))
def test_the_kernel_merges_picks_as_torch(worker, seed, rows, k, atoms):
    of_picks = picks_of(seed, rows, k, atoms, [torch.int32, torch.int64][seed % 2])
    assert_same(worker("merge_triton", *of_picks), start.merge_torch(*of_picks))


@NEEDS_TRITON
@settings(max_examples=15)
@given(SEEDS, st.sampled_from([1, 7, 40]), st.sampled_from([torch.float32, torch.float64]), st.integers(-1000, 900))
def test_the_kernel_scales_back_as_torch(worker, seed, k, dtype, exponent):
    coefficients = normal(3, k, seed).double()
    exponents = torch.tensor([exponent, exponent + 1, 0], dtype=torch.int32)
    energy, left = normal(1, 3, seed)[0].double().square(), normal(1, 3, seed + 1)[0].double().square()
    energy[2] = left[2] = 0.0
    state = coefficients, exponents, energy, left, dtype
    assert_same(worker("end_triton", *state), start.end_torch(*state))


@NEEDS_TRITON
@settings(max_examples=10)
@given(SEEDS, st.sampled_from([1, 33, 300, 2000]), st.integers(1, 6))
def test_the_kernel_sums_atoms_as_torch(worker, seed, width, k):
    atoms, coefficients = unit_rows(5, width, seed), normal(3, k, seed).double()
    indices = torch.randint(0, 5, (3, k), generator=torch.Generator().manual_seed(seed))
    assert_same(worker("weighted_triton", coefficients, atoms, indices), [weighted_atoms(coefficients, atoms, indices)])
