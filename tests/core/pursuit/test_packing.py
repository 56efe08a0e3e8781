"""The packed kernel: correlations in 16 bits never overflow, stay within their bound, and give the bits of `plain`."""

import importlib.util

import pytest
import torch
from core.helpers import normal, unit_rows
from core.pursuit.pursuit_cases import Case, differences, unit
from core.pursuit.test_triton import codes, pursued
from core.triton_worker import DEVICE, triton_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.core.pursuit import plain
from itda.core.pursuit.advance import SCALE

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def worker():
    """Runs functions of this module where Triton interprets, unless there is a GPU."""
    with triton_worker() as run:
        yield run


def steps(c, gram, weights, norm):
    """In the worker."""
    from core.pursuit.kernel_of_steps_in_16_bits import steps_in_16_bits

    found = steps_in_16_bits(c.to(DEVICE), gram.to(DEVICE), weights.to(DEVICE), norm)
    return tuple(part.cpu() for part in found)


@settings(max_examples=12)
@given(
    st.integers(0, 10**6),
    st.integers(1, 2048),
    st.sampled_from([1, 300, 32767]),
    st.lists(st.floats(-9, 2), min_size=1, max_size=12),
)
def test_steps_that_shrink_or_grow_by_any_factor_neither_overflow_nor_leave_their_bound(
    worker, seed, number, entries, sizes
):
    """Entries of G as large as 16 bits hold; |a| from far below the largest |c| to a hundred times as much."""
    generator = torch.Generator().manual_seed(seed)
    c = normal(1, number, seed)[0] / number**0.5
    gram = torch.randint(-entries, entries + 1, (len(sizes), number), generator=generator, dtype=torch.int16)
    exact, weights, after = c.double(), [], []
    for row, size in zip(gram, sizes, strict=True):
        weights.append(float(exact.abs().max()) * 10.0**size)
        exact = exact - weights[-1] / SCALE * row.double()
        after.append(exact)
    norm = max(1.0, float(c.double().norm()))
    q, quanta, bounds = worker(steps, c, gram, torch.tensor(weights, dtype=torch.float64), norm)
    for there, wanted, quantum, bound in zip(q, after, quanta, bounds, strict=True):
        assert (there * quantum - wanted).abs().max() <= bound


def test_the_quantum_shrinks_with_the_correlations_so_that_the_bound_hardly_grows(worker):
    """Each step takes nine tenths of c: after four, the bound is about that after one."""
    c = torch.linspace(-0.5, 0.5, 64)
    gram = (c[None] * SCALE / 0.5).round().short().repeat(4, 1)
    weights = 0.45 * 10.0 ** -torch.arange(4).double()
    q, quanta, bounds = worker(steps, c, gram, weights, 1.0)
    assert quanta[3] < quanta[0] / 100
    assert bounds[3] < 1.2 * bounds[0]
    assert (q.abs().amax(dim=1) < 2**15 - 1).all()


def test_correlations_that_grow_are_halved_in_time(worker):
    """c is 1/2 everywhere, and each step adds as much again."""
    c, gram = torch.full((64,), 0.5), torch.full((5, 64), -32700, dtype=torch.int16)
    weights = 0.5 * 2.0 ** torch.arange(5).double()
    q, quanta, bounds = worker(steps, c, gram, weights, 1.0)
    assert ((q * quanta[:, None] - 2 * weights[:, None]).abs() <= bounds[:, None]).all()
    assert quanta[4] > 8 * quanta[0]


def shrinking():
    """Each step leaves a tenth of ||r||: the sixth atom counts for a millionth."""
    d = unit(torch.eye(40)[:12] + 0.01 * normal(12, 40, 3))
    weights = 10.0 ** -torch.arange(8).double()
    return Case(torch.stack([weights, weights.flip(0)]) @ d[:8].double(), torch.cat([d, unit_rows(300, 40, 4)]), 12)


def ties_within_a_quantum():
    """Atoms that differ by less than 16 bits tell: some best, some second to another."""
    near = unit(unit_rows(1, 32, 5) + 1e-6 * normal(12, 32, 6))
    return Case(near[:2] + 0.3 * normal(2, 32, 7), torch.cat([unit_rows(90, 32, 8), near, -near.flip(0)]), 4)


def equal_atoms():
    d = unit_rows(30, 16, 9).repeat(3, 1)
    return Case(normal(2, 16, 10), torch.cat([d, -d]), 4)


def coherent_with_a_large_mean():
    """A mean that counts for a thousand times the rest: what is left is small beside the first correlations."""
    mean = 1000 * unit_rows(1, 24, 7)
    return Case(mean + normal(3, 24, 8), unit(mean / 100 + normal(400, 24, 9)), 8)


def at_right_angles_to_all_atoms():
    """Correlations are nothing but rounding: every atom may be the best, and none past the last."""
    d = torch.nn.functional.pad(unit_rows(37, 8, 11), (0, 8))
    x = torch.cat([1e-7 * normal(2, 8, 12), normal(2, 8, 13)], dim=1)
    return Case(torch.cat([x, torch.nn.functional.pad(normal(1, 8, 14), (8, 0))]), d, 3)


@pytest.mark.parametrize(
    "case",
    [shrinking, ties_within_a_quantum, equal_atoms, coherent_with_a_large_mean, at_right_angles_to_all_atoms],
    ids=lambda case: case.__name__.replace("_", " "),
)
def test_every_bit_is_that_of_plain_where_16_bits_are_few(worker, case):
    case = case()
    assert differences(codes(worker(pursued, case, "packed")), plain.pursue(*case)) == []
