"""Which pursuits change when atoms come and go: none that does is missed, and the kernel says what torch says."""

import importlib.util
from functools import partial

import pytest
import torch
from core.helpers import normal, unit_rows
from core.triton_worker import DEVICE, triton_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.core.pursuit.advance import NEVER, Atoms, Correlations, Rows, entry_error, in_16_bits
from itda.core.pursuit.gram_torch import product_error
from itda.core.pursuit.products import correlations
from itda.core.pursuit.stepwise import run
from itda.core.training.replay import first_change, first_changed_torch


def situation(seed: int, old: int, others: int, width: int, k: int, enough: float):
    """Rows after their pursuit in some atoms, of which others may be gone or new."""
    x, table = normal(7, width, seed), unit_rows(old + others, width, seed)
    table[-1] = table[0]  # a tie
    born = torch.randint(-1, 8, (old + others,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    hidden = torch.arange(old + others) >= old
    atoms = Atoms(table, in_16_bits(correlations(table, table)), None, len(table), entry_error(width))
    atoms.born = torch.where(hidden, NEVER, born)
    rows = Rows.of(x, k, enough)
    everyone = torch.arange(7, dtype=torch.int32)
    bound = product_error(width) * rows.energy.sqrt()
    source = Correlations(correlations(rows.z, table), torch.zeros_like(rows.step), bound)
    run(rows, everyone, source, everyone, atoms)
    return rows, source, atoms, born, everyone


SHAPES = (st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 20), st.integers(1, 20), st.integers(1, 6))


@given(*SHAPES, st.sampled_from([0.0, 0.3]), st.integers(0, 5))
def test_a_row_that_is_called_unchanged_up_to_a_step_has_the_same_steps_to_there(
    seed, old, new, width, k, enough, gone
):
    rows, source, atoms, born, everyone = situation(seed, old, new, width, k, enough)
    before = rows.picks.clone(), rows.coefficients.clone(), rows.step.clone()
    lost = torch.arange(min(gone, old))
    atoms.born = born.clone()
    atoms.born[lost] = NEVER
    at = first_change(rows, source, atoms, new=torch.arange(new, dtype=torch.int32), first=old)
    rows.step.zero_()
    run(rows, everyone, source, everyone, atoms)
    for row in range(7):
        same = int(min(at[row], before[2][row]))
        assert int(rows.step[row]) >= same
        assert torch.equal(rows.picks[row, :same], before[0][row, :same])
        assert torch.equal(rows.coefficients[row, :same], before[1][row, :same])
        if at[row] == NEVER:
            assert int(rows.step[row]) == same


def test_far_from_all_rows_are_called_changed():
    rows, source, atoms, born, _ = situation(3, 60, 1, 32, 4, 0.0)
    atoms.born = torch.full_like(born, -1)
    at = first_change(rows, source, atoms, new=torch.tensor([30], dtype=torch.int32), first=0)  # one of many
    assert int((at == NEVER).sum()) > 0


@pytest.fixture(scope="module")
def interpreter():
    with triton_worker() as run:
        yield partial(run, _by_the_kernel)


def _by_the_kernel(*shape):
    """In the worker: what the kernel and torch say."""
    from itda.core.training import replay

    rows, source, atoms, born, _ = situation(*shape[:6])
    for part in (rows, source, atoms):
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                setattr(part, name, value.to(DEVICE))
    atoms.born = born.to(DEVICE)
    atoms.born[: shape[6]] = NEVER
    arguments = rows, source, atoms, torch.arange(shape[2], dtype=torch.int32, device=DEVICE), shape[1]
    replay.TILE, replay.MOST = 4, 8
    return replay.first_changed_triton(*arguments).tolist(), first_changed_torch(*arguments).tolist()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@settings(max_examples=12)
@given(*SHAPES, st.sampled_from([0.0, 0.3]), st.integers(0, 3))
def test_the_kernel_says_what_torch_says(interpreter, seed, old, new, width, k, enough, gone):
    found, wanted = interpreter(seed, old, new, width, k, enough, min(gone, old))
    assert found == wanted
