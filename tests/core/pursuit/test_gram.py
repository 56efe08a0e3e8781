"""The compiled Gram pursuit gives the bits of `plain.pursue`, whatever it keeps, forgets, or has to compute again."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import pytest
import torch
from core.helpers import COMPILED, labels, normal, same_bits, unit_rows
from core.pursuit.pursuit_cases import CASES, Case, differences
from hypothesis import given
from hypothesis import strategies as st

from itda import ITDA, ActivationBatch, Trainer
from itda.core.pursuit import (
    compiled,
    decoded,
    encoder,
    fixed_order_kernel,
    gram_cpu,
    gram_cpu_kernel,
    plain,
    subtraction,
    threads,
)
from itda.core.pursuit.fixed_order import weighted_atoms
from itda.core.pursuit.gram_cpu import GramEncoder, GramRows
from itda.core.pursuit.scratch import Scratch

FLOAT32 = {name: case for name, case in CASES.items() if name != "float64 atoms"}
EVERY_CASE = pytest.mark.parametrize("name", FLOAT32)
ALL = pytest.mark.parametrize("pursuit", COMPILED)


@cache
def expected(name: str, pursuit: str, enough: float = 0.0):
    targets, atoms, k = CASES[name]()
    return plain.pursue(targets, atoms, k, pursuit, enough=enough)


def fast(case: Case, pursuit: str, *, memory: int = 2**30, enough: float = 0.0, again: int = 0):
    """The codes, after `again` earlier calls on the same rows."""
    encode = GramEncoder(GramRows(case.atoms, len(case.atoms), least=case.k, memory=memory), case.k, pursuit)
    for _ in range(again):
        encode(case.targets)
    return encode(case.targets, enough=enough)


@ALL
@EVERY_CASE
def test_every_bit_is_that_of_plain(name, pursuit):
    assert differences(fast(FLOAT32[name](), pursuit), expected(name, pursuit)) == []


@ALL
@EVERY_CASE
def test_every_bit_is_that_of_plain_once_the_rows_are_there_and_enough_is_less(name, pursuit):
    assert differences(fast(FLOAT32[name](), pursuit, enough=0.4, again=1), expected(name, pursuit, 0.4)) == []


@ALL
@EVERY_CASE
def test_every_bit_is_that_of_plain_with_room_for_only_k_gram_rows(name, pursuit):
    case = FLOAT32[name]()
    rows = GramRows(case.atoms, len(case.atoms), least=case.k, memory=1)
    assert rows.capacity == min(case.k, len(case.atoms))
    assert differences(fast(case, pursuit, memory=1, again=1), expected(name, pursuit)) == []


@ALL
@EVERY_CASE
def test_every_bit_is_that_of_plain_when_tiles_are_crossed_and_blocks_are_small(name, pursuit, monkeypatch):
    case = FLOAT32[name]()
    monkeypatch.setattr(gram_cpu, "rows_at_once", lambda *_: 2)
    assert differences(fast(case, pursuit), expected(name, pursuit)) == []


@ALL
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 20), st.integers(1, 9), st.floats(0, 1))
def test_every_bit_is_that_of_plain_for_whatever_shape(pursuit, seed, atoms, width, k, enough):
    x, d = normal(5, width, seed), unit_rows(atoms, width, seed)
    d[atoms // 2 :] = d[: atoms - atoms // 2] * torch.tensor([-1.0, 1.0])[seed % 2]
    found = fast(Case(x, d, k), pursuit, memory=2 * atoms * (seed % 30), enough=enough)
    assert differences(found, plain.pursue(x, d, k, pursuit, enough=enough)) == []


@ALL
@given(st.integers(0, 10**6), st.integers(1, 12), st.booleans())
def test_exact_ties_go_to_the_lowest_index_as_in_plain(pursuit, seed, k, few):
    random = torch.Generator().manual_seed(seed)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 4)  # unit vectors without a rounding
    d = torch.cat([corners, torch.eye(4), -torch.eye(4), corners])[torch.randperm(40, generator=random)]
    x = torch.randint(-3, 4, (6, 4), generator=random).float()
    found = fast(Case(x, d, k), pursuit, memory=2 * 40 * k if few else 2**20)
    assert differences(found, plain.pursue(x, d, k, pursuit)) == []


@ALL
@pytest.mark.parametrize("atoms", [1, 511, 512, 513, 1100])
def test_ties_across_tiles_go_to_the_lowest_index(atoms, pursuit):
    d = unit_rows(1, 6).repeat(atoms, 1)
    d[1::2] *= -1
    code, _ = fast(Case(d[:1] * 2, d, 3), pursuit)
    assert (code.indices[0, 0].item(), code.count.item()) == (0, 1)


@ALL
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(threads, pursuit):
    x, d = normal(70, 24), unit_rows(300, 24)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert differences(fast(Case(x, d, 6), pursuit), plain.pursue(x, d, 6, pursuit)) == []
    finally:
        torch.set_num_threads(before)


@ALL
def test_the_bits_of_a_row_depend_on_that_row_alone(pursuit):
    x, d = normal(30, 24), unit_rows(600, 24)
    encode = encoder(d, 5, pursuit)
    assert isinstance(encode, GramEncoder)
    together, left = encode(x)
    for i in (0, 13, 29):
        alone, share = encode(x[i : i + 1])
        assert alone.indices.tolist() == together.indices[[i]].tolist()
        assert alone.coefficients.tolist() == together.coefficients[[i]].tolist()
        assert share.item() == left[i].item()


def fine_fit(rows: int = 4) -> Case:
    """Sums of atoms in a wide dictionary: what is left gets far below the error of the first correlations."""
    d = unit_rows(700, 48)
    sums = [d[i] + 0.5 * d[100 + i] + 1e-4 * d[200 + i] + 5e-6 * d[300 + i] for i in range(rows)]
    return Case(torch.stack(sums), d, 12)


def near(spread: float, atoms: int = 600, width: int = 1500, rows: int = 12, k: int = 8) -> Case:
    """Atoms and activations that are all one direction, but for a spread: so much tells them apart."""
    common = unit_rows(1, width, 5)
    d = torch.nn.functional.normalize(common + spread * unit_rows(atoms, width), dim=1)
    return Case(3 * common + spread * normal(rows, width), d, k)


class Watch:
    """Counts the rows that get new correlations, and keeps the blocks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fresh, self.fine, self.blocks = [], [], []
        refresh, refine, run = gram_cpu._refresh, gram_cpu._refresh_finely, gram_cpu.run
        patch.setattr(gram_cpu, "_refresh", lambda rows, *rest: (self.fresh.extend(rows), refresh(rows, *rest)))
        patch.setattr(gram_cpu, "_refresh_finely", lambda rows, *rest: (self.fine.extend(rows), refine(rows, *rest)))
        patch.setattr(gram_cpu, "run", lambda rows, block, *rest: (self.blocks.append(block), run(rows, block, *rest)))


@ALL
def test_correlations_that_are_too_coarse_are_computed_anew_and_every_bit_is_that_of_plain(pursuit, monkeypatch):
    watch, case = Watch(monkeypatch), fine_fit()
    assert differences(fast(case, pursuit), plain.pursue(*case, pursuit)) == []
    assert watch.fresh


@ALL
@pytest.mark.parametrize("spread", [10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_however_near_atoms_are_few_of_them_are_correlated_exactly(spread, pursuit, monkeypatch):
    watch, case = Watch(monkeypatch), near(spread)
    assert differences(fast(case, pursuit), plain.pursue(*case, pursuit)) == []
    (block,) = watch.blocks
    paid = max(gram_cpu_kernel.FEW, len(case.atoms) // gram_cpu_kernel.WORTH)
    for row in range(len(case.targets)):
        products = 1 + watch.fresh.count(row) + watch.fine.count(row)
        assert block.step[row] <= block.exact[row] <= 2 * (block.step[row] + 1) + paid * products
        assert products <= 1 + 2 * (block.step[row] + 1)


@ALL
def test_a_new_product_is_asked_for_as_soon_as_candidates_have_cost_as_much(pursuit, monkeypatch):
    watch = Watch(monkeypatch)
    fast(near(1.0), pursuit)
    assert (watch.fresh, watch.fine) == ([], [])
    fast(near(1e-3), pursuit)  # what is left after the first step is a thousandth
    assert sorted(set(watch.fresh)) == list(range(12))
    watch.fine.clear()
    fast(near(1e-4), pursuit)  # correlations differ by less than a product in float32 tells apart
    assert sorted(set(watch.fine)) == list(range(12))


@pytest.mark.parametrize("pursuit", ["mp", "omp"])
@EVERY_CASE
def test_no_correlation_is_further_off_than_the_bound_says(name, pursuit):
    targets, atoms, k = FLOAT32[name]()
    number = len(atoms)
    rows = GramRows(atoms, number, least=k, memory=2**30)
    # Gram rows that are off by all that the bound allows: nothing may depend on their being better.
    rows.fetch(np.arange(number))
    off = int(gram_cpu_kernel.product_error(atoms.shape[1]) * gram_cpu_kernel.SCALE * 0.9)
    rows.rows[:] = np.clip(rows.rows.astype(np.int32) - off, -32767, 32767)
    block, _ = gram_cpu.new_block(targets, k, pursuit, 0.0, number, keep_first=True, scratch=Scratch())
    gram_cpu.correlate(block, atoms)
    every = np.arange(len(targets))
    gram_cpu.run(every, block, rows, atoms, number, pursuit, np.empty((0, number), np.int16))
    looked_at = block.applied >= 0
    # c accounts for `applied` picks: the residual after these.
    for i in np.flatnonzero(looked_at):
        t = block.applied[i]
        weights = block.solutions[i, t - 1, :t] if pursuit == "omp" and t else block.coefficients[i, :t]
        residual = block.z[i] - weights @ atoms.double().numpy()[block.picks[i, :t]]
        exact = atoms.double().numpy() @ residual
        assert np.abs(block.c[i, :number] - exact).max() <= block.bound[i] + 1e-15


def test_gram_rows_are_within_their_error_and_the_oldest_make_room():
    d = unit_rows(50, 20)
    rows = GramRows(d, 50, least=1, memory=2 * 50 * 10)
    exact = (d.double() @ d.double().T).numpy()
    for wanted in ([3, 1, 49], list(range(20, 30)), [0], [20, 3]):
        rows.stamp += 1
        rows.fetch(np.array([atom for atom in wanted if rows.slots[atom] < 0]))
        held = np.flatnonzero(rows.slots >= 0)
        assert set(wanted) <= set(held)
        assert len(held) <= rows.capacity == 10
        assert np.abs(rows.rows[rows.slots[held]] / gram_cpu_kernel.SCALE - exact[held]).max() < rows.error
        assert (rows.holder[rows.slots[held]] == held).all()


def test_one_encoder_may_be_used_by_several_threads_at_once():
    d = unit_rows(400, 24)
    model = ITDA(d, labels(400), k=6)
    batches = [normal(40, 24, seed) for seed in range(12)]
    wanted = [plain.pursue(x, d, 6) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.decompose, batches))
    assert [differences(a, b) for a, b in zip(found, wanted, strict=True)] == [[]] * 12


def test_a_copy_of_a_dictionary_leaves_its_gram_rows_behind():
    model = ITDA(unit_rows(300, 24), labels(300), k=6)
    x = normal(9, 24)
    code = model.encode(x)
    assert "_encoder" in vars(model)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.to("cpu")):
        assert "_encoder" not in vars(other)
        assert other.encode(x).indices.tolist() == code.indices.tolist()


def test_a_dictionary_on_another_device_or_in_float64_takes_the_plain_path():
    assert not isinstance(encoder(unit_rows(3, 4).double(), 2, "mp"), GramEncoder)
    assert isinstance(encoder(unit_rows(3, 4), 2, "mp"), GramEncoder)


def test_activations_that_record_gradients_are_encoded_trained_on_and_rebuilt():
    x = normal(40, 8).requires_grad_()
    trainer = Trainer(8, k=3, threshold=0.3)
    assert trainer.offer(ActivationBatch(x, labels(40))) > 3
    model = trainer.finish()
    assert differences(model.decompose(x), plain.pursue(x.detach(), model.atoms, 3)) == []
    assert not model(x).requires_grad


def test_where_no_compiled_code_can_be_kept_it_is_compiled_all_the_same(monkeypatch):
    compile_, asked = numba.njit, []

    def no_folder(*, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(**options)

    def twice(x: float) -> float:
        return 2 * x

    monkeypatch.setattr(numba, "njit", no_folder)
    assert compiled.may_reorder(twice)(3.0) == 6.0
    assert asked == [True, False]


def test_compiled_code_is_kept_for_one_state_of_all_loops_since_a_change_of_one_changes_its_callers(monkeypatch):
    def twice(x: float) -> float:
        return 2 * x

    def made() -> tuple[int, int]:
        function: Any = compiled.as_written(twice)
        assert function(3.0) == 6.0
        return sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())

    monkeypatch.setattr(compiled, "SOURCES", "these")
    made()
    assert made() == (1, 0)
    monkeypatch.setattr(compiled, "SOURCES", "others")
    assert made() == (0, 1)


def test_the_compiled_constants_are_those_of_plain():
    assert gram_cpu_kernel.RESOLUTION == plain.RESOLUTION
    assert fixed_order_kernel.DEPENDENT == subtraction.DEPENDENT
    assert gram_cpu_kernel.SCALE * (1 + 1e-5) ** 2 < 2**15 - 1


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 100, 193])
def test_the_compiled_sum_folds_as_the_one_of_torch(width):
    a, b = normal(5, width).double(), normal(5, width, 1)
    wanted = plain.fixed_dot(a, b.double())
    terms = fixed_order_kernel.scratch(width)
    found = [fixed_order_kernel.fixed_dot(x, y, terms) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert found == wanted.tolist()


@pytest.mark.parametrize("width", [1, 7, 256, 257, 768, 1000, 1024, 1025, 2048, 3000, 4096])
def test_subtracting_and_squaring_at_once_has_the_bits_of_one_after_the_other(width):
    residual, atom = normal(1, width)[0].double().numpy(), unit_rows(1, width)[0].numpy()
    terms = fixed_order_kernel.scratch(width)
    wanted = residual - 0.3 * atom.astype(np.float64)
    energy = plain.fixed_dot(torch.from_numpy(wanted), torch.from_numpy(wanted))
    assert fixed_order_kernel.subtract_atom_and_square(residual, 0.3, atom, terms) == energy.item()
    assert residual.tolist() == wanted.tolist()


@pytest.mark.parametrize("width", [1, 7, 192])
def test_reconstructions_have_the_bits_of_the_plain_sum(width):
    d, x = unit_rows(40, width), normal(30, width)
    code = plain.pursue(x.double(), d, 5)[0]
    wanted = weighted_atoms(code.coefficients, d, code.indices)
    assert same_bits(decoded(code.coefficients, d, code.indices), wanted)
    assert same_bits(decoded(code.coefficients[:, :0], d, code.indices[:, :0]), 0 * wanted.abs())


def test_work_is_spread_over_the_threads_of_torch_and_each_row_is_done_once():
    done = np.zeros(100, np.int64)

    def loop(rows: np.ndarray) -> None:
        done[rows] += 1

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads.over_rows(loop, np.arange(100))
    finally:
        torch.set_num_threads(before)
    assert (done == 1).all()
