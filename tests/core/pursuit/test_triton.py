"""The Triton kernels give the bits of `plain.pursue`: on a GPU where there is one, else in Triton's interpreter."""

import importlib.util
import os
from functools import partial

import pytest
import torch
from core.helpers import normal, unit_rows
from core.pursuit.pursuit_cases import CASES, Case, differences, misled_by_16_bits
from core.triton_worker import DEVICE, triton_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.core.code import SparseCode
from itda.core.pursuit import advance, gram_torch, plain, stepwise
from itda.core.pursuit.advance import NEVER, Correlations, Rows
from itda.core.pursuit.fixed_order import fixed_sum
from itda.core.pursuit.gram_kept import KeptGram
from itda.core.pursuit.products import correlations, product_error
from itda.core.pursuit.rules import rules_of
from itda.core.pursuit.stepwise import Ways

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

KERNELS = "on chip", "packed", "streaming"
TILE = 256
"""The columns of a tile, of the kernel that has tiles."""

EVERY_KERNEL = pytest.mark.parametrize("kernel", KERNELS)
EVERY_KERNEL_IN_32_BITS = pytest.mark.parametrize("kernel", ["on chip", "streaming"])
EVERY_CASE = pytest.mark.parametrize("name", [name for name in CASES if name != "float64 atoms"])


@pytest.fixture(scope="module")
def worker():
    """Runs functions of this module where Triton interprets, unless there is a GPU."""
    with triton_worker() as run:
        yield run


class Run:
    """In the worker: a pursuit by one of the kernels, step by step or to its end."""

    def __init__(self, x, table, k, kernel, *, enough=0.0, rows_held=None, fast=False):
        from itda.core.pursuit.gram_triton import advance_triton, units_triton
        from itda.core.pursuit.triton_limits import launch_of

        launch = launch_of(*table.shape, kernel)
        if kernel == "streaming":
            launch = launch._replace(block=TILE)
        self.x, self.table = x.to(DEVICE), table.to(DEVICE)
        self.rows = Rows.of(self.x, k, enough)
        self.kept = KeptGram(self.table, 0 if rows_held else 10**9, rows_held or 0)
        self.everyone = torch.arange(len(x), dtype=torch.int32, device=DEVICE)
        self.pauses, self.fetched = [], []
        self.ways = Ways(partial(advance_triton, launch=launch, fast=fast), self.counted(units_triton))

    def counted(self, units):
        def call(rows, which, table):
            self.pauses.append(len(which))
            return units(rows, which, table)

        return call

    def fetch(self, rows, which, waiting, applied):
        self.fetched.append(len(waiting))
        self.kept.fetch(rows, which, waiting, applied)

    def first(self, keep=True):
        bound = product_error(self.x.shape[1]) * self.rows.energy.sqrt()
        product = correlations(self.rows.z, self.table)
        return Correlations(product, torch.zeros_like(self.rows.step), bound, keep)

    def to_the_end(self, source=None, which=None):
        which = self.everyone if which is None else which
        fetch = None if self.kept.complete else self.fetch
        stepwise.run(self.rows, which, source or self.first(), which, self.kept.atoms, self.ways, fetch)
        return self

    def codes(self, pursuit="mp"):
        code, left = self.rows.codes(self.table, rules_of(pursuit), self.x.dtype)
        return tuple(part.cpu() for part in (code.indices, code.coefficients, code.count, left))


def codes(parts):
    *code, left = parts
    return SparseCode(*code), left


def pursued(case, kernel, pursuit="mp", **named):
    """In the worker."""
    return Run(*case, kernel, **named).to_the_end().codes(pursuit)


def found_by(worker, case, kernel, pursuit="mp", **named):
    return codes(worker(partial(pursued, **named), case, kernel, pursuit))


@EVERY_KERNEL
@EVERY_CASE
def test_every_bit_is_that_of_plain(worker, name, kernel):
    case = CASES[name]()
    assert differences(found_by(worker, case, kernel), plain.pursue(*case)) == []


@EVERY_KERNEL
@pytest.mark.parametrize("name", ["31 atoms of odd width", "exact fits", "scales"])
@pytest.mark.parametrize(("pursuit", "enough"), [("mp", 0.5), ("mp_refit", 0.0)])
def test_every_bit_of_refits_and_of_rows_that_need_not_go_on_is_that_of_plain(worker, name, kernel, pursuit, enough):
    case = CASES[name]()
    found = found_by(worker, case, kernel, pursuit, enough=enough)
    assert differences(found, plain.pursue(*case, pursuit, enough=enough)) == []


@EVERY_KERNEL
@settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(1, 600), st.integers(1, 600), st.integers(1, 4))
def test_every_bit_is_that_of_plain_for_whatever_shape(worker, kernel, seed, atoms, width, k):
    x, d = normal(2, width, seed), unit_rows(atoms, width, seed)
    d[atoms // 2 :] = d[: atoms - atoms // 2] * torch.tensor([-1.0, 1.0])[seed % 2]
    found = found_by(worker, Case(x, d, k), kernel)
    assert differences(found, plain.pursue(x, d, k)) == []


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


@EVERY_KERNEL
def test_the_bound_grows_with_every_step(worker, kernel):
    case = misled_by_16_bits()
    found = found_by(worker, case, kernel)
    assert found[0].indices.tolist() == [[*range(8), 9]]
    assert differences(found, plain.pursue(*case)) == []


NEAR = {"as many as there are": 0, "a few": 3}


@EVERY_KERNEL
@pytest.mark.parametrize("crowd", NEAR.values(), ids=NEAR.keys())
@pytest.mark.parametrize("name", ["atoms a last bit apart", "coherent like raw activations", "random"])
def test_rows_that_pause_again_and_again_give_the_bits_of_plain(worker, name, kernel, crowd):
    case = CASES[name]()
    parts, pauses = worker(pursued_in_a_crowd, case, kernel, crowd)
    assert differences(codes(parts), plain.pursue(*case)) == []
    if crowd == 0:
        assert max(pauses) > 1, "rows pause together"
        assert len(pauses) >= min(2, case.k - 1), "and more than once, if there are more than two steps"


def pursued_in_a_crowd(case, kernel, crowd):
    """In the worker, where any bound is coarse that is above a fresh product's."""
    before = stepwise.crowd_of, gram_torch.COARSE
    stepwise.crowd_of, gram_torch.COARSE = lambda number: crowd, 1.2
    try:
        run = Run(*case, kernel).to_the_end()
    finally:
        stepwise.crowd_of, gram_torch.COARSE = before
    return run.codes(), run.pauses


@EVERY_KERNEL
@settings(max_examples=6)
@given(
    st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.integers(0, 9), st.booleans()
)
def test_a_row_put_back_to_any_step_and_with_any_of_them_applied_ends_the_same(
    worker, kernel, seed, number, width, k, back, keep
):
    case = Case(normal(4, width, seed), unit_rows(number, width, seed), k)
    parts, same = worker(put_back, case, kernel, back, seed % 4, keep)
    assert differences(codes(parts), plain.pursue(*case)) == []
    assert same or not keep


def put_back(case, kernel, back, applied, keep):
    """In the worker: rows at their end go on from an earlier step; was what is to be kept left as it was?"""
    run = Run(*case, kernel).to_the_end()
    rows = run.rows
    rows.step.clamp_(max=back)
    applied = rows.step.clamp(max=applied)
    r = Rows(**{**vars(rows), "step": applied}).residuals(run.everyone, run.table)
    source = Correlations(correlations(r, run.table), applied, 2 * run.first().bound, keep)
    before = [tensor.clone() for tensor in (source.c, source.applied, source.bound)]
    run.to_the_end(source, torch.tensor([3, 1, 0, 2], dtype=torch.int32, device=DEVICE))
    after = source.c, source.applied, source.bound
    return run.codes(), all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@EVERY_KERNEL_IN_32_BITS
@settings(max_examples=6)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 20), st.integers(1, 6))
def test_a_row_sees_only_the_atoms_born_before_it(worker, kernel, seed, number, width, k):
    x, table = normal(4, width, seed), unit_rows(number, width, seed)
    table[number // 2 :] = table[: number - number // 2].clone()
    born = torch.randint(-3, 5, (number,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    born[born == 4] = NEVER
    code, left = codes(worker(pursued_in_growth, Case(x, table, k), kernel, born))
    for row in range(4):
        seen = (born < row).nonzero().squeeze(1)
        wanted, wanted_left = plain.pursue(x[row : row + 1], table[seen], k)
        count = int(wanted.count[0])
        assert int(code.count[row]) == count
        assert code.indices[row, :count].tolist() == seen[wanted.indices[0, :count]].tolist()
        assert torch.equal(code.coefficients[row], wanted.coefficients[0])
        assert left[row] == wanted_left[0]


def pursued_in_growth(case, kernel, born):
    """In the worker: columns past the atoms, and those of atoms that are none now, hold anything."""
    run = Run(*case, kernel)
    run.kept.atoms.gram[:, len(born) :] = 32000
    run.kept.atoms.gram[:, : len(born)][:, (born == NEVER).to(DEVICE)] = -32000
    room = torch.full((run.kept.atoms.gram.shape[1],), NEVER, dtype=torch.int32, device=DEVICE)
    room[: len(born)] = born.to(DEVICE)
    run.kept.atoms.born = room
    return run.to_the_end().codes()


@EVERY_KERNEL_IN_32_BITS
@settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 20), st.integers(1, 7), st.booleans())
def test_with_few_gram_rows_at_a_time_every_bit_is_that_of_plain(worker, kernel, seed, rows, more, k, keep):
    case = Case(normal(rows, 12, seed), unit_rows(60, 12, seed), k)
    held = (rows * k if keep or kernel == "on chip" else rows) + more
    parts, fetched = worker(pursued_with_few_gram_rows, case, kernel, held, keep)
    assert differences(codes(parts), plain.pursue(*case)) == []
    if held < 60 and k > 1:
        assert fetched, "no Gram row is there at first"


def pursued_with_few_gram_rows(case, kernel, held, keep):
    """In the worker."""
    run = Run(*case, kernel, rows_held=held)
    run.to_the_end(run.first(keep))
    return run.codes(), run.fetched


@EVERY_KERNEL
def test_fast_picks_are_as_good_to_rounding_and_what_is_left_is_exact(worker, kernel):
    case = CASES["random"]()
    code, left = found_by(worker, case, kernel, fast=True)
    _, expected = plain.pursue(*case)
    torch.testing.assert_close(left, expected, rtol=0.05, atol=0)
    residual = case.targets.double() - code.dense(len(case.atoms)).double() @ case.atoms.double()
    torch.testing.assert_close(left, residual.square().sum(1) / case.targets.double().square().sum(1))


GPU_PURSUITS = {
    "on-chip": (None, "on chip", "residual fit 192 KiB of registers; the Gram matrix fits"),
    "packed": (None, "packed", "residual in 16 bits fit 192 KiB of registers"),
    "streaming": (0, "on chip", "60 of 100 rows fit"),
}


@pytest.mark.parametrize("method", GPU_PURSUITS)
def test_gpu_pursuit_takes_the_kernels_and_gives_the_bits_of_plain(worker, method):
    case, (memory, kernel, says) = Case(normal(9, 24), unit_rows(100, 24), 5), GPU_PURSUITS[method]
    description, parts = worker(gpu_pursuit, case, memory, kernel)
    assert description.startswith(f"pursuit: triton-{method} (100 atoms of width 24, k = 5; ")
    assert says in description
    assert differences(codes(parts), plain.pursue(*case)) == []


def gpu_pursuit(case, memory, kernel):
    """In the worker, where one of the kernels is right for a whole Gram matrix."""
    from itda.core.pursuit import gram_gpu

    before = gram_gpu.LEAST, gram_gpu.kernel_for
    gram_gpu.LEAST, gram_gpu.kernel_for = 12, lambda m, d: kernel
    try:
        find = gram_gpu.GpuPursuit(case.atoms.to(DEVICE), case.k, memory=memory)
        code, left = find(case.targets.to(DEVICE))
    finally:
        gram_gpu.LEAST, gram_gpu.kernel_for = before
    return find.description, tuple(part.cpu() for part in (code.indices, code.coefficients, code.count, left))


def test_reasons_to_stop_have_the_same_numbers_in_torch_and_in_the_kernels(worker):
    assert worker(reasons) == (advance.DONE, advance.CROWDED, advance.NEEDS_ROW)


def reasons():
    """In the worker."""
    from itda.core.pursuit import gram_triton_kernel as kernel

    return kernel.DONE.value, kernel.CROWDED.value, kernel.NEEDS_ROW.value


SHARED = 256
"""Most bytes of shared memory of a program: for numbers that its warps exchange, none to move a tensor about."""


def test_compiled_for_a_gpu_no_float64_product_is_fused_with_a_sum_and_no_tensor_changes_threads(tmp_path):
    with triton_worker(interprets=False) as run:
        fused = run(fused_operations, str(tmp_path))
    for name in KERNELS:
        assert fused[name, False][0] == 0
        assert fused[name, False][1] <= SHARED
    assert fused["on chip", True][0] > 0  # or the search finds nothing


def fused_operations(cache):
    """In a process without the interpreter, by kernel and if fusing is allowed: fused operations, and shared memory."""
    os.environ["TRITON_CACHE_DIR"] = cache
    from triton.backends.compiler import GPUTarget  # compiles without a GPU
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from itda.core.pursuit.gram_triton import KERNELS

    types = dict.fromkeys(["c", "table"], "*fp32") | dict.fromkeys(["growth", "coarse", "unit"], "fp32")
    types |= dict.fromkeys(["z", "energy", "least", "faint", "coefficients", "left_over", "bound"], "*fp64")
    types |= dict.fromkeys(["which", "place", "picks", "steps", "status", "applied", "slots", "born"], "*i32")
    types |= {"gram": "*i16"}
    # As many columns as numbers of a residual: even then each keeps its own layout.
    sizes = {"BLOCK": 2048, "LINES": 32, "LANES": 2048, "WARPS": 8, "COMPILED": True, "FAST": False}
    sizes |= {"SLOTS": True, "GROWING": True, "PAIRS": 4096}
    found = {}
    for name, fuse in (("on chip", False), ("packed", False), ("streaming", False), ("on chip", True)):
        kernel = KERNELS[name]
        sizes["EACH"] = 8 if name == "on chip" else 4
        pairs = {"c": "*i64", "gram": "*i32"} if name == "packed" else {}
        known = types | pairs | dict.fromkeys(sizes, "constexpr")
        signature = {n: known.get(n, "i32") for n in kernel.arg_names}
        source = ASTSource(kernel, signature, {n: sizes[n] for n in kernel.arg_names if n in sizes})
        options = {"num_warps": 8, "enable_fp_fusion": fuse}
        built = build(source, GPUTarget("cuda", 90, 32), options)
        found[name, fuse] = built.asm["ptx"].count("fma.rn.f64"), built.metadata.shared
    return found
