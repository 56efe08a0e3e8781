"""Float32 products with all atoms are within their bound, whatever the numbers are, and the bound stays small."""

import pytest
import torch
from core.helpers import normal, unit_rows
from hypothesis import given
from hypothesis import strategies as st

from itda.core.pursuit import advance, gram_cpu_kernel, gram_torch, products
from itda.core.pursuit.products import (
    UNIT,
    correlations,
    correlations_in_16_bits,
    error_in_16_bits,
    in_16_bits_fast,
    product_error,
)


def worst(x: torch.Tensor, atoms: torch.Tensor, found: torch.Tensor) -> float:
    """The largest error as a share of ||x|| ||d||; 0 where both are 0."""
    exact = x.double() @ atoms.double().T
    scale = x.double().norm(dim=1)[:, None] * atoms.double().norm(dim=1)
    return float(((found.double() - exact).abs() / scale.clamp(min=1e-300)).max())


def hard_rows(kind: str, rows: int, width: int, seed: int) -> torch.Tensor:
    """Rows of norm near 1 that are hard to sum in float32."""
    x = normal(rows, width, seed)
    if kind == "of one sign":
        x = x.abs() + 1
    elif kind == "almost equal":  # each addition rounds the same way
        x = 1 + 1e-4 * x
    elif kind == "cancelling":
        x[:, width // 2 :] = -x[:, : width - width // 2].flip(1) * (1 + 1e-6)
    elif kind == "of a huge range":
        x *= 2.0 ** torch.randint(-60, 1, x.shape, generator=torch.Generator().manual_seed(seed))
    elif kind == "one large entry first":  # added to it one by one, each product is lost
        x = 0.99 * 2.0**-12 * torch.ones_like(x)
        x[:, 0] = 1
        return x
    return (x.double() / x.double().norm(dim=1, keepdim=True)).float()


HARD = ["random", "of one sign", "almost equal", "cancelling", "of a huge range", "one large entry first"]


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("width", [1, 7, 768, 1025, 4096, 9000, 16384])
def test_no_entry_is_further_off_than_the_bound(kind, width):
    x, atoms = hard_rows(kind, 5, width, 0), hard_rows(kind, 7, width, 1)
    atoms[:5] = x  # the largest products there are
    assert worst(x, atoms, correlations(x, atoms)) <= product_error(width)


@pytest.mark.skipif(not in_16_bits_fast(torch.device("cpu")), reason="not used on this CPU")
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("rows", [5, 300])
@pytest.mark.parametrize("width", [1, 7, 768, 1025, 4096, 9000, 16384])
def test_no_entry_in_16_bits_is_further_off_than_its_bound(kind, width, rows):
    x, atoms = hard_rows(kind, rows, width, 0), hard_rows(kind, 350, width, 1)
    atoms[:rows] = x
    found = correlations_in_16_bits(x.bfloat16(), atoms.bfloat16(), torch.empty(rows, 350))
    assert worst(x, atoms, found) <= error_in_16_bits(width)


def test_other_devices_have_no_products_in_16_bits():
    assert not in_16_bits_fast(torch.device("meta"))


@given(
    st.integers(0, 10**6), st.integers(1, 70), st.integers(0, 9), st.integers(1, 9), st.sampled_from(HARD),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_bound_holds_whatever_the_width_is_cut_into(seed, width, rows, part, kind, dtype):
    x, atoms = hard_rows(kind, rows + 1, width, seed)[:rows].to(dtype), hard_rows(kind, 6, width, seed + 1).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "PART", part)
        patch.setattr(products, "ROWS", 2)
        patch.setattr(products, "CPU_BUFFER", 4)
        found, error = correlations(x, atoms), product_error(width)
    assert found.shape == (rows, 6)
    assert found.dtype == torch.float32
    if rows:
        assert worst(x, atoms, found) <= error
    assert error <= (part + -(-width // part) + 8) * UNIT


def sum_of_one_part_after_the_other(x: torch.Tensor, atoms: torch.Tensor, part: int) -> torch.Tensor:
    """The slow loop: whole numbers make each part exact, so that only the sums of parts round."""
    total = torch.zeros(len(x), len(atoms))
    for start in range(0, x.shape[1], part):
        total = total + (x[:, start : start + part].double() @ atoms[:, start : start + part].double().T).float()
    return total


def test_parts_are_added_one_after_the_other_with_a_rounding_each(monkeypatch):
    monkeypatch.setattr(products, "PART", 8)
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-9, 10, (5, 80), generator=random).float()
    atoms = torch.randint(-9, 10, (6, 80), generator=random).float()
    x *= 2.0 ** torch.arange(0, 40, 4).repeat_interleave(8)  # sums of parts have more digits than a float32
    wanted = sum_of_one_part_after_the_other(x, atoms, 8)
    found = correlations(x, atoms)
    assert found.tolist() == wanted.tolist()
    assert found.tolist() != (x.double() @ atoms.double().T).float().tolist()


def test_a_wide_product_is_closer_than_the_bound_of_a_single_sum_could_be():
    width = 16384
    assert product_error(width) < (width + 8) * UNIT / 15
    x = hard_rows("one large entry first", 1, width, 0)
    # It is no empty promise: summed from the first term to the last, these are off by almost all of that.
    in_one_sum = torch.zeros(1, 1)
    for j in range(width):
        in_one_sum += x[:, j] * x[:, j]
    assert 15 * product_error(width) < worst(x, x, in_one_sum) < (width + 8) * UNIT
    assert worst(x, x, correlations(x, x)) < product_error(width)


@pytest.mark.parametrize("width", [768, 4096])
def test_a_result_goes_where_it_is_asked_to_and_nowhere_else(width):
    x, atoms = normal(5, width), unit_rows(9, width)
    room = torch.full((5, 14), 3.0)
    found = correlations(x, atoms, out=room[:, 2:11])
    assert found.data_ptr() == room[:, 2:].data_ptr()
    assert found.tolist() == correlations(x, atoms).tolist()
    assert (room[:, :2] == 3).all()
    assert (room[:, 11:] == 3).all()


def test_inputs_that_record_gradients_or_are_strided_are_multiplied_all_the_same():
    x, atoms = normal(1500, 12)[:, ::2], unit_rows(20, 1500).T[::3][:, :6].contiguous()
    found = correlations(x.requires_grad_(), atoms.T.contiguous().T)
    assert not found.requires_grad
    assert worst(x.detach(), atoms, found) <= product_error(1500)


@pytest.mark.parametrize(("rows", "atoms"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("width", [5, 3000])
def test_no_rows_or_no_atoms_make_an_empty_product(rows, atoms, width):
    assert correlations(normal(rows, width), normal(atoms, width)).shape == (rows, atoms)


@pytest.mark.parametrize("width", [1, 192, 1024, 1025, 2048, 4096, 5000, 16384, 53248])
def test_there_is_one_bound_for_all_who_use_these_products(width):
    assert gram_cpu_kernel.product_error(width) == product_error(width)
    assert gram_torch.product_error is advance.product_error is product_error
