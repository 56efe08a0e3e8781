"""Pursuits that stop and go on give the bits of pursuits that do neither, from whatever step they go on."""

import pytest
import torch
from core.helpers import normal, unit_rows
from core.pursuit.pursuit_cases import CASES, Case, differences
from hypothesis import given
from hypothesis import strategies as st

from itda.core.pursuit import advance as module
from itda.core.pursuit import gram_torch, plain, stepwise
from itda.core.pursuit.advance import (
    NEVER,
    SCALE,
    Atoms,
    Correlations,
    Rows,
    entry_error,
    in_16_bits,
)
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.rules import rules_of
from itda.core.pursuit.start import Start
from itda.core.pursuit.stepwise import run

EVERY_CASE = pytest.mark.parametrize("name", [name for name in CASES if name != "float64 atoms"])


def atoms_of(table: torch.Tensor, born: torch.Tensor | None = None) -> Atoms:
    gram = in_16_bits(correlations(table, table))
    return Atoms(table, gram, None, len(table), entry_error(table.shape[1]), born)


def first_correlations(rows: Rows, atoms: Atoms) -> Correlations:
    bound = product_error(rows.z.shape[1]) * rows.energy.sqrt()
    return Correlations(correlations(rows.z, atoms.table), torch.zeros_like(rows.step), bound)


def all_rows(rows: Rows) -> torch.Tensor:
    return torch.arange(len(rows.z), dtype=torch.int32)


def codes_of(rows: Rows, table: torch.Tensor, dtype: torch.dtype):
    picked = torch.arange(rows.picks.shape[1]) < rows.step[:, None]
    picks = torch.where(picked, rows.picks, 0).long(), torch.where(picked, rows.coefficients, 0.0)
    start = Start(rows.z, rows.exponent, rows.energy, rows.least, rows.faint)
    return start.finish((*picks, rows.step.long(), rows.left), table, rules_of("mp"), dtype)


def found(case: Case, enough: float = 0.0):
    rows, atoms = Rows.of(case.targets, case.k, enough), atoms_of(case.atoms)
    run(rows, all_rows(rows), first_correlations(rows, atoms), all_rows(rows), atoms)
    return codes_of(rows, case.atoms, case.targets.dtype)


@pytest.mark.parametrize("crowd", [0, 1, 64])
@EVERY_CASE
def test_every_bit_is_that_of_plain_however_often_rows_pause(name, crowd, monkeypatch):
    monkeypatch.setattr(gram_torch, "CROWD", crowd)
    if crowd == 0:
        monkeypatch.setattr(module, "COARSE", 1.5)
    case = CASES[name]()
    for enough in (0.0, 0.4):
        assert differences(found(case, enough), plain.pursue(*case, enough=enough)) == []


def test_crowded_rows_pause_and_all_rows_come_to_an_end(monkeypatch):
    monkeypatch.setattr(gram_torch, "CROWD", 3)
    pauses, make = [], stepwise.fresh
    monkeypatch.setattr(
        stepwise, "fresh", lambda rows, which, *others: pauses.append(len(which)) or make(rows, which, *others)
    )
    near = 4 * unit_rows(1, 256, 7) + 1e-4 * normal(206, 256, 9)  # what is left of one is small beside what it was
    case = Case(near[200:], torch.nn.functional.normalize(near[:200], dim=1), 12)
    assert differences(found(case), plain.pursue(*case)) == []
    assert sum(pauses) > 0


@given(
    st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.integers(0, 9), st.booleans()
)
def test_a_row_put_back_to_any_step_and_with_any_of_them_applied_ends_the_same(seed, number, width, k, back, keep):
    x, table = normal(5, width, seed), unit_rows(number, width, seed)
    rows, atoms = Rows.of(x, k, 0.0), atoms_of(table)
    source = first_correlations(rows, atoms)
    run(rows, all_rows(rows), source, all_rows(rows), atoms)
    rows.step.clamp_(max=back)
    applied = torch.minimum(rows.step, torch.tensor(seed % 4, dtype=torch.int32))
    r = rows.z.clone()
    for row in range(5):
        for t in range(int(applied[row])):
            r[row] -= rows.coefficients[row, t] * table[rows.picks[row, t]].double()
    source = Correlations(correlations(r, table), applied, source.bound * 2, keep)
    which = torch.tensor([4, 1, 0, 2, 3], dtype=torch.int32)
    run(rows, which, source, which, atoms)
    assert differences(codes_of(rows, table, x.dtype), plain.pursue(x, table, k)) == []


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 20), st.integers(1, 6))
def test_a_row_sees_only_the_atoms_born_before_it(seed, number, width, k):
    x, table = normal(6, width, seed), unit_rows(number, width, seed)
    table[number // 2 :] = table[: number - number // 2].clone()
    chance = torch.Generator().manual_seed(seed)
    born = torch.randint(-3, 8, (number,), generator=chance, dtype=torch.int32)
    born[born == 7] = NEVER
    rows, atoms = Rows.of(x, k, 0.0), atoms_of(table, born)
    run(rows, all_rows(rows), first_correlations(rows, atoms), all_rows(rows), atoms)
    code, left = codes_of(rows, table, x.dtype)
    for row in range(6):
        seen = (born < row).nonzero().squeeze(1)
        wanted, wanted_left = plain.pursue(x[row : row + 1], table[seen], k)
        assert int(code.count[row]) == int(wanted.count[0])
        count = int(wanted.count[0])
        assert code.indices[row, :count].tolist() == seen[wanted.indices[0, :count]].tolist()
        assert torch.equal(code.coefficients[row], wanted.coefficients[0])
        assert left[row] == wanted_left[0]


@given(st.integers(0, 10**6), st.integers(1, 64), st.integers(1, 300))
def test_an_entry_in_16_bits_is_within_its_error(seed, number, width):
    table = unit_rows(number, width, seed)
    exact = table.double() @ table.double().T
    assert float((in_16_bits(correlations(table, table)).double() / SCALE - exact).abs().max()) <= entry_error(width)
