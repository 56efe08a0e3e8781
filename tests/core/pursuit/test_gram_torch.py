"""The Gram pursuit in plain torch gives the bits of `plain.pursue`, and its bound on c holds."""

from functools import cache

import pytest
import torch
from core.helpers import normal, unit_rows
from core.pursuit.pursuit_cases import CASES, differences, misled_by_its_gram_matrix
from hypothesis import given
from hypothesis import strategies as st

from itda.core.pursuit import PURSUITS, gram_gpu, gram_kept, gram_torch, plain
from itda.core.pursuit.advance import Correlations, Rows
from itda.core.pursuit.gram_gpu import GpuPursuit, choose
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.rules import rules_of
from itda.core.pursuit.stepwise import run

EVERY_CASE = pytest.mark.parametrize("name", CASES)
ALL = pytest.mark.parametrize("pursuit", PURSUITS)

PATHS = {
    "as it is": {},
    "a fresh product whenever there are two candidates": {"CROWD": 1, "COARSE": 0.0},
    "never a fresh product": {"COARSE": float("inf")},
    "far too many candidates": {"product_error": lambda width: 1000 * product_error(width)},
}


@cache
def expected(name: str, pursuit: str, enough: float):
    targets, atoms, k = CASES[name]()
    return plain.pursue(targets, atoms, k, pursuit, enough=enough)


@pytest.mark.parametrize("path", PATHS)
@ALL
@EVERY_CASE
def test_every_bit_is_that_of_plain(name, pursuit, path, monkeypatch):
    for setting, value in PATHS[path].items():
        monkeypatch.setattr(gram_torch, setting, value)
    targets, atoms, k = CASES[name]()
    for enough in (0.0, 0.4):
        found = gram_torch.pursue(targets, atoms, k, pursuit, enough=enough)
        assert differences(found, expected(name, pursuit, enough)) == []


@ALL
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 20), st.integers(1, 9), st.floats(0, 1))
def test_every_bit_is_that_of_plain_for_whatever_shape(pursuit, seed, atoms, width, k, enough):
    x, d = normal(5, width, seed), unit_rows(atoms, width, seed)
    d[atoms // 2 :] = d[: atoms - atoms // 2] * torch.tensor([-1.0, 1.0])[seed % 2]
    found = gram_torch.pursue(x, d, k, pursuit, enough=enough)
    assert differences(found, plain.pursue(x, d, k, pursuit, enough=enough)) == []


@pytest.mark.parametrize("gram_is", ["as computed", "low", "low or high"])
@ALL
@EVERY_CASE
def test_no_correlation_is_further_off_than_the_bound_says(name, pursuit, gram_is, monkeypatch):
    targets, atoms, k = CASES[name]()
    gram, seen, best_atom = gram_torch.gram_of(atoms), [], gram_torch.best_atom
    if gram_is != "as computed":  # off by nearly all that a float32 product may be
        signs = torch.ones(len(atoms), 1) if gram_is == "low" else normal(len(atoms), 1).sign()
        gram -= signs * (atoms.shape[1] + 6) * gram_torch.UNIT

    def watched(c, bound, residual, norm, active, atoms, score):
        error = (c.double() - residual @ atoms.double().T).abs().amax(dim=1)
        seen.append((error[active] - bound[active]).max().item())
        return best_atom(c, bound, residual, norm, active, atoms, score)

    monkeypatch.setattr(gram_torch, "best_atom", watched)
    found = gram_torch.pursue(targets, atoms, k, pursuit, gram=gram)
    assert differences(found, expected(name, pursuit, 0.0)) == []
    assert max(seen) <= 0


@ALL
def test_the_bound_grows_with_every_step(pursuit):
    case, gram = misled_by_its_gram_matrix()
    found = gram_torch.pursue(*case, pursuit, gram=gram)
    assert found[0].indices.tolist() == [[*range(8), 9]]
    assert differences(found, plain.pursue(*case, pursuit)) == []


@pytest.mark.parametrize(
    ("wrong", "caught"),
    [
        ("no bound", "atoms a last bit apart"),
        ("ties to the highest index", "whole number ties"),
        ("ties to the highest index", "duplicates and negatives far apart"),
        ("ties to the highest index", "unlike atoms that tie"),
    ],
)
def test_the_cases_catch(wrong, caught, monkeypatch):
    targets, atoms, k = CASES[caught]()
    if wrong == "no bound":
        monkeypatch.setattr(gram_torch, "UNIT", 0.0)
        monkeypatch.setattr(gram_torch, "product_error", lambda _: 0.0)
        found = gram_torch.pursue(targets, atoms, k)
    else:
        code, left = gram_torch.pursue(targets, atoms.flip(0), k)
        indices = torch.where(torch.arange(k) < code.count[:, None], len(atoms) - 1 - code.indices, 0)
        found = (gram_torch.SparseCode(indices, code.coefficients, code.count), left)
    assert "indices" in differences(found, expected(caught, "mp", 0.0))


@ALL
def test_groups_of_rows_and_rows_that_stop_early_change_nothing(pursuit, monkeypatch):
    x, d = normal(40, 24), unit_rows(90, 24)
    x[::3] = d[:14]  # these are done after one step, so the others are gathered
    whole = gram_torch.pursue(x, d, 6, pursuit, gram=gram_torch.gram_of(d))
    assert differences(whole, plain.pursue(x, d, 6, pursuit)) == []
    monkeypatch.setattr(plain, "PRODUCT_SIZE", 500)
    assert differences(gram_torch.pursue(x, d, 6, pursuit), whole) == []


@ALL
def test_no_atoms_and_no_rows_are_left_to_plain(pursuit):
    x, d = normal(3, 8), unit_rows(5, 8)
    for targets, atoms in ((x, d[:0]), (x[:0], d)):
        found = gram_torch.pursue(targets, atoms, 2, pursuit)
        assert differences(found, plain.pursue(targets, atoms, 2, pursuit)) == []


def test_a_gram_matrix_with_room_to_grow_is_taken_as_it_is():
    x, d = normal(6, 16), unit_rows(50, 16)
    room = torch.full((64, 64), float("nan"))
    room[:50, :50] = gram_torch.gram_of(d)
    found = gram_torch.pursue(x, d, 4, gram=room[:50, :50])
    assert differences(found, plain.pursue(x, d, 4)) == []


@pytest.mark.parametrize(
    ("m", "d", "k", "gigabytes", "has_triton", "path"),
    [
        (16384, 768, 40, 80, True, "triton-on-chip"),
        (16385, 768, 40, 80, True, "triton-packed"),  # faster, though it would fit in 32 bits
        (16384, 8192, 40, 80, True, "triton-on-chip"),
        (16384, 16384, 40, 80, True, "triton-on-chip"),  # the residual takes half of the registers
        (16385, 16384, 40, 80, True, "triton-streaming"),
        (32768, 4096, 40, 80, True, "triton-on-chip"),
        (32769, 768, 40, 80, True, "triton-packed"),
        (65536, 4096, 40, 80, True, "triton-packed"),
        (65536, 4097, 40, 80, True, "triton-streaming"),
        (65537, 768, 40, 80, True, "triton-streaming"),
        (16384, 16385, 40, 80, True, "steps"),
        (16384, 768, 40, 80, False, "steps"),
        (16384, 768, 40, 3, True, "triton-streaming"),  # nothing is left for the Gram matrix: some rows of it
        (65536, 768, 40, 10, True, "triton-streaming"),
        (16384, 768, 1, 80, True, "plain"),
        (1, 1, 2, 80, True, "triton-on-chip"),
    ],
)
def test_the_choice_is_by_memory_registers_and_steps(m, d, k, gigabytes, has_triton, path):
    assert choose(m, d, k, gigabytes * 10**9, True, has_triton) == path


@pytest.mark.parametrize(("gigabytes", "path"), [(20, "plain"), (21, "gram")])  # the Gram matrix alone is 17.2 GB
def test_rules_that_cannot_stop_on_the_way_need_a_whole_gram_matrix_in_float32(gigabytes, path):
    assert choose(65536, 768, 40, gigabytes * 10**9, False, False) == path


@ALL
@pytest.mark.parametrize("memory", [None, 0])
def test_gpu_pursuit_gives_the_bits_of_plain_and_says_which_way_it_took(pursuit, memory, monkeypatch):
    monkeypatch.setattr(gram_gpu, "LEAST", 3)
    x, d = normal(12, 16), unit_rows(50, 16)
    find = GpuPursuit(d, 4, pursuit, memory)
    for enough in (0.0, 0.3):
        assert differences(find(x, enough), plain.pursue(x, d, 4, pursuit, enough=enough)) == []
    other = "gram" if memory is None else "plain"
    assert find.method == ("steps" if pursuit in ("mp", "mp_refit") else other)
    assert find.description.startswith(f"pursuit: {find.method} (50 atoms of width 16, k = 4; ")
    if find.method == "steps":
        assert find.description.endswith("the Gram matrix fits)" if memory is None else "12 of 50 rows fit)")
    assert "\n" not in find.description


def test_gpu_pursuit_of_other_than_float32_atoms_gives_the_bits_of_plain():
    case = CASES["float64 atoms"]()
    find = GpuPursuit(case.atoms, case.k)
    assert differences(find(case.targets), plain.pursue(*case)) == []
    assert find.method == "gram"


def test_gpu_pursuit_makes_its_gram_matrix_once(monkeypatch):
    calls, kept = [], gram_gpu.KeptGram
    monkeypatch.setattr(gram_gpu, "KeptGram", lambda *arguments: calls.append(1) or kept(*arguments))
    find = GpuPursuit(unit_rows(50, 16), 4)
    for seed in range(3):
        find(normal(5, 16, seed))
    assert len(calls) == 1


@pytest.mark.parametrize("held", [9, 13, 40])
def test_gram_rows_used_last_are_kept_and_every_bit_is_that_of_plain(held):
    x, d = normal(3, 12), unit_rows(60, 12)
    kept, rows = gram_kept.KeptGram(d, 0, held), Rows.of(x, 3, 0.0)
    bound = product_error(12) * rows.energy.sqrt()
    source = Correlations(correlations(rows.z, d), torch.zeros_like(rows.step), bound)
    everyone = torch.arange(3, dtype=torch.int32)
    run(rows, everyone, source, everyone, kept.atoms, fetch=kept.fetch)
    assert differences(rows.codes(d, rules_of("mp"), x.dtype), plain.pursue(x, d, 3)) == []
    there = (kept.atoms.slots >= 0).nonzero().squeeze(1)
    assert len(there) <= held
    assert kept.atoms.gram[kept.atoms.slots[there].long(), there].tolist() == [32700] * len(there)
    last = {int(rows.picks[row, 1]) for row in range(3)}  # of the last step none is needed
    assert last <= set(there.tolist())


def test_gpu_pursuit_drops_a_kernel_whose_last_bits_differ_at_its_first_rows(monkeypatch):
    x, d = normal(12, 16), unit_rows(50, 16)
    find, run = GpuPursuit(d, 4), GpuPursuit._run
    find.method, find._proven = "triton-on-chip", False

    def fused(self, targets, enough):
        if self.method == "steps":
            return run(self, targets, enough)
        code, left = plain.pursue(targets, d, 4, enough=enough)
        return code, left * (1 + 2.0**-52)

    monkeypatch.setattr(GpuPursuit, "_run", fused)
    assert differences(find(x), plain.pursue(x, d, 4)) == []
    assert find.method == "steps"
    assert "differ" in find.description
