"""Refinement: the closed-form step against float64 algebra, and what the refined dictionary promises."""

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, labels, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ITDA, SparseCode, refine
from itda.core.training.refine_step import ROWS, improved
from itda.errors import ActivationError, SettingError

ALL = pytest.mark.parametrize("pursuit", COMPILED)


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x.double(), dim=1).float()


def random_code(rows: int, k: int, atoms: int, seed: int, *, free: int = 0) -> SparseCode:
    """Picks with repeats, negative coefficients and padding; the last `free` atoms are not used."""
    random = torch.Generator().manual_seed(seed)
    picks = torch.randint(max(1, atoms - free), (rows, k), generator=random)
    return SparseCode.from_picks(
        picks, torch.randn(rows, k, generator=random), torch.randint(k + 1, (rows,), generator=random)
    )


def raw_code(rows: int, k: int, atoms: int, seed: int) -> SparseCode:
    """The same without merging: an atom may be twice in a row."""
    random = torch.Generator().manual_seed(seed)
    count = torch.randint(k + 1, (rows,), generator=random)
    there = torch.arange(k) < count[:, None]
    picks = torch.randint(atoms, (rows, k), generator=random)
    return SparseCode(picks * there, torch.randn(rows, k, generator=random) * there, count)


def oracle(
    atoms: torch.Tensor, targets: torch.Tensor, code: SparseCode, damping: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The block-Jacobi step with exact line search, dense in float64: the atoms, and their lengths before division."""
    s, d, z = code.dense(len(atoms)).double().numpy(), atoms.double().numpy(), targets.double().numpy()
    energy, residual = (s**2).sum(axis=0), z - s @ d
    energy = energy + damping * energy.mean()
    step = np.where(energy[:, None] > 0, (s.T @ residual) / np.where(energy > 0, energy, 1)[:, None], 0)
    change = s @ step
    square = (change**2).sum()
    moved = d + ((residual * change).sum() / square if square > 0 else 0) * step
    length = np.linalg.norm(moved, axis=1)
    return moved / length[:, None], length


def left(atoms: np.ndarray, targets: torch.Tensor, s: np.ndarray) -> float:
    """||Z - S D||."""
    return float(np.linalg.norm(targets.double().numpy() - s @ atoms))


def planted(tokens: int, *, hidden: int = 48, width: int = 24, active: int = 3, noise: float = 0.02, seed: int = 0):
    """Activations that are sparse sums of hidden atoms with a little noise, and these atoms."""
    random = torch.Generator().manual_seed(seed)
    atoms = unit(torch.randn(hidden, width, generator=random))
    picks = torch.rand(tokens, hidden, generator=random).argsort(dim=1)[:, :active]
    weights = 0.5 + torch.rand(tokens, active, generator=random)
    x = (weights[:, :, None] * atoms[picks]).sum(dim=1)
    return x + noise * torch.randn(tokens, width, generator=random), atoms


def dictionary(x: torch.Tensor, atoms: int, *, offset: torch.Tensor | None = None, **parts) -> ITDA:
    """The first activations as atoms."""
    start = x[:atoms].double() - (offset.double() if offset is not None else 0)
    return ITDA(**{"atoms": unit(start), "labels": labels(atoms), "k": 3, "offset": offset, **parts})


def error(model: ITDA, x: torch.Tensor) -> float:
    """sum ||x - x_hat||^2, from the codes and the atoms in float64."""
    x = x.float()
    z = x.double() - (model.offset.double() if model.offset is not None else 0)
    return float((z - model.encode(x.double()).dense(len(model)) @ model.atoms.double()).square().sum())


def cosines(model: ITDA, origin: ITDA) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(model.atoms.double(), origin.atoms.double(), dim=1)


@settings(max_examples=30)
@given(
    st.integers(1, 60),
    st.integers(2, 20),
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(0, 4),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
def test_the_step_is_block_jacobi_with_exact_line_search_in_float64(rows, width, atoms, k, free, seed, damping):
    code = random_code(rows, k, atoms, seed, free=free)
    start, targets = unit(normal(atoms, width, seed)), normal(rows, width, seed + 1)
    expected, length = oracle(start, targets, code, damping)
    result = improved(start, targets, code, damping=damping)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.double().numpy() * length[:, None], expected * length[:, None], atol=2e-6)


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 30), st.integers(1, 5), st.integers(0, 999))
def test_with_codes_fixed_and_lengths_taken_into_them_the_residual_never_grows(rows, width, atoms, k, seed):
    code = random_code(rows, k, atoms, seed)
    start, targets = unit(normal(atoms, width, seed)), normal(rows, width, seed + 1)
    s, length = code.dense(atoms).double().numpy(), oracle(start, targets, code)[1]
    after = left(improved(start, targets, code).double().numpy(), targets, s * length)
    rounding = 1e-7 * np.linalg.norm(np.abs(s) * length)
    assert after <= left(start.double().numpy(), targets, s) + rounding


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 30), st.integers(1, 5), st.integers(0, 999))
def test_an_atom_twice_in_a_row_does_not_make_the_residual_grow_either(rows, width, atoms, k, seed):
    code = raw_code(rows, k, atoms, seed)
    start, targets = unit(normal(atoms, width, seed)), normal(rows, width, seed + 1)
    result = improved(start, targets, code).double().numpy()
    s = code.dense(atoms).double().numpy()
    # Whatever the step was, some lengths of the atoms do as well as before: the best ones, by least squares.
    columns = np.stack([np.outer(s[:, j], result[j]).ravel() for j in range(atoms)], axis=1)
    length = np.linalg.lstsq(columns, targets.double().numpy().ravel(), rcond=None)[0]
    rounding = 1e-6 * (1 + np.linalg.norm(s))
    assert left(result, targets, s * length) <= left(start.double().numpy(), targets, s) + rounding


def test_a_step_on_rows_that_leave_a_residual_lowers_it_clearly():
    code, start, targets = random_code(300, 3, 20, 5), unit(normal(20, 12)), normal(300, 12, 1)
    s, length = code.dense(20).double().numpy(), oracle(start, targets, code)[1]
    before = left(start.double().numpy(), targets, s)
    assert left(improved(start, targets, code).double().numpy(), targets, s * length) < 0.99 * before


@pytest.mark.parametrize("width", [2, 3, 16, 100])
def test_atoms_that_no_code_uses_stay_to_within_one_rounding(width):
    start = unit(normal(300, width))
    code = random_code(50, 3, 300, 1, free=290)
    result = improved(start, normal(50, width, 2), code)
    assert not torch.equal(result[:10], start[:10])
    torch.testing.assert_close(result[10:], start[10:], rtol=1.2e-7, atol=0)


def test_padding_is_not_a_use_of_atom_0():
    start, targets = unit(normal(6, 8)), normal(40, 8, 1)
    code = SparseCode(
        torch.tensor([[3, 0, 0]]).repeat(40, 1), torch.tensor([[2.0, 0, 0]]).repeat(40, 1), torch.ones(40).long()
    )
    torch.testing.assert_close(improved(start, targets, code)[0], start[0], rtol=1.2e-7, atol=0)


def test_rows_without_a_code_change_nothing():
    start, targets, code = unit(normal(12, 8)), normal(40, 8, 1), random_code(40, 3, 12, 2)
    longer = SparseCode(
        torch.cat([code.indices, torch.zeros(9, 3).long()]),
        torch.cat([code.coefficients, torch.zeros(9, 3)]),
        torch.cat([code.count, torch.zeros(9).long()]),
    )
    assert same_bits(improved(start, targets, code), improved(start, torch.cat([targets, normal(9, 8, 3)]), longer))


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 7])
def test_one_and_two_threads_give_the_same_bits_and_the_oracle_on_both_sides_of_a_part(rows):
    code, start, targets = random_code(rows, 4, 64, rows), unit(normal(64, 12)), normal(rows, 12, 1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(improved(start, targets, code))
    finally:
        torch.set_num_threads(before)
    assert same_bits(*results)
    np.testing.assert_allclose(results[0].double().numpy(), oracle(start, targets, code)[0], atol=1e-6)


def test_a_refined_dictionary_has_the_same_bits_for_one_and_two_threads():
    x, _ = planted(ROWS + 900)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(refine(dictionary(x, 60), x, passes=3))
    finally:
        torch.set_num_threads(before)
    assert same_bits(results[0].atoms, results[1].atoms)
    assert same_bits(results[0].fidelity, results[1].fidelity)


@ALL
@pytest.mark.parametrize("shift", [False, True])
def test_all_but_atoms_and_fidelity_is_kept_and_atoms_have_unit_norm(pursuit, shift):
    x, _ = planted(800)
    model = dictionary(x, 50, pursuit=pursuit, offset=x.mean(dim=0) if shift else None, threshold=0.2)
    atoms = model.atoms.clone()
    result = refine(model, x, passes=3)
    assert list(result.labels) == list(model.labels)
    assert all(a is b for a, b in zip(result.labels.document, model.labels.document, strict=True))
    for name in ("k", "pursuit", "offset", "threshold", "mode", "site", "provenance"):
        assert getattr(result, name) is getattr(model, name)
    torch.testing.assert_close(result.atoms.double().norm(dim=1), torch.ones(50).double(), rtol=0, atol=2e-7)
    assert not torch.equal(result.atoms, atoms)
    assert same_bits(model.atoms, atoms), "the model that came is not written to"
    assert model.fidelity is None


@ALL
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("least", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_fidelity_is_the_cosine_to_the_atom_before_and_not_below_the_least(pursuit, shift, least):
    x, _ = planted(900, noise=0.3)
    model = dictionary(x, 40, pursuit=pursuit, offset=x.mean(dim=0) if shift else None)
    result = refine(model, x, passes=4, min_fidelity=least)
    cosine = cosines(result, model)
    torch.testing.assert_close(result.fidelity.double(), cosine, rtol=0, atol=2e-7)
    assert float(cosine.min()) >= least - 1e-12
    assert float(result.fidelity.max()) <= 1
    if 0.9 <= least < 1:  # the bound is in force, and atoms lie on it
        assert float(cosine.min()) < least + 1e-5
    if least < 1:
        assert float(result.fidelity.min()) >= least
        assert float(cosine.min()) < 0.995


@settings(max_examples=8)
@given(
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    st.integers(1, 80),
    st.integers(1, 40),
    st.integers(2, 12),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(0, 999),
)
def test_fidelity_and_error_hold_for_any_sizes(least, tokens, atoms, width, k, passes, seed):
    model = ITDA(unit(normal(atoms, width, seed)), labels(atoms), k=k)
    x = normal(tokens, width, seed + 1)
    result = refine(model, x, passes=passes, min_fidelity=least)
    assert float(cosines(result, model).min()) >= least - 1e-12
    torch.testing.assert_close(result.fidelity.double(), cosines(result, model), rtol=0, atol=3e-7)
    assert error(result, x) <= error(model, x) * (1 + 1e-6) + 1e-9


def test_a_fidelity_of_at_least_1_leaves_the_atoms():
    x, _ = planted(500)
    model = dictionary(x, 40)
    assert same_bits(refine(model, x, passes=3, min_fidelity=1.0).atoms, model.atoms)


def test_a_fidelity_of_at_least_1_is_1():
    model = ITDA(torch.nn.functional.normalize(normal(200, 24), dim=1), labels(200), k=3)
    assert float(refine(model, normal(500, 24, 1), passes=1, min_fidelity=1.0).fidelity.min()) == 1


@pytest.mark.parametrize("tokens", [0, 500])
def test_without_passes_or_activations_the_atoms_stay_and_fidelity_is_1(tokens):
    x, _ = planted(500)
    model = dictionary(x, 40)
    result = refine(model, x[:tokens], passes=0 if tokens else 3)
    assert same_bits(result.atoms, model.atoms)
    assert same_bits(result.fidelity, torch.ones(40))


def test_an_empty_dictionary_stays_empty():
    result = refine(ITDA(torch.empty(0, 8), labels(0), k=2), normal(30, 8), passes=2)
    assert len(result) == 0
    assert result.fidelity.shape == (0,)


def problems() -> dict[str, tuple[torch.Tensor, int]]:
    """Activations, and how many of them are the atoms."""
    few, eye = normal(3, 16), torch.eye(16)
    return {
        "random": (normal(400, 16), 60),
        "planted": (planted(600)[0], 60),
        "heavy tails": (normal(400, 16) ** 5, 60),
        "one token": (normal(1, 16), 1),
        "fewer tokens than atoms used": (few, 3),
        "atoms are the activations": (normal(80, 16), 80),
        "duplicates": (few.repeat(40, 1), 30),
        "opposite": (torch.cat([few, -few, 2 * few]), 6),
        "axes": (torch.cat([eye, -eye, eye.flip(0) * 3]), 16),
        "one huge": (torch.cat([normal(100, 16), 1e6 * normal(1, 16, 5)]), 20),
        "zero rows": (torch.cat([normal(40, 16), torch.zeros(40, 16)]), 20),
    }


@ALL
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("name", problems())
def test_the_error_on_the_fitted_tokens_never_grows(pursuit, k, name):
    x, atoms = problems()[name]
    model = dictionary(x, atoms, k=k, pursuit=pursuit)
    for passes, part in ((1, len(x)), (6, len(x)), (3, 7)):
        fitted = x[:: max(1, len(x) // part)]
        result = refine(model, fitted, passes=passes, pass_tokens=len(fitted))
        assert error(result, fitted) <= error(model, fitted) * (1 + 1e-6) + 1e-9


def test_a_refinement_that_would_do_worse_is_given_up():
    # One pass on few tokens at a time: the last fits the last tokens alone, and does worse on all.
    kept = []
    for seed in range(12):
        x = normal(60, 4, seed)
        model = ITDA(unit(normal(12, 4, seed + 100)), labels(12), k=1)
        result = refine(model, x, passes=20, pass_tokens=3)
        assert error(result, x) <= error(model, x) * (1 + 1e-6)
        kept.append(same_bits(result.atoms, model.atoms))
        assert not kept[-1] or same_bits(result.fidelity, torch.ones(12))
    assert any(kept)


@ALL
@pytest.mark.parametrize("shift", [False, True])
def test_on_planted_data_held_out_error_falls_and_hidden_atoms_are_recovered(pursuit, shift):
    x, hidden = planted(6000)
    x = x + (normal(1, 24, 7) if shift else 0)
    fitted, held_out = x[:5000], x[5000:]
    offset = fitted.mean(dim=0) if shift else None
    model = dictionary(fitted, 96, pursuit=pursuit, offset=offset)
    result = refine(model, fitted, passes=15)
    assert error(result, held_out) < 0.6 * error(model, held_out)

    def recovered(atoms: torch.Tensor) -> torch.Tensor:
        return (hidden @ atoms.T).abs().amax(dim=1)

    assert float(recovered(result.atoms).median()) > float(recovered(model.atoms).median()) + 0.03


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shift", [False, True])
def test_activations_of_any_float_type_count_by_their_values(dtype, shift):
    x = (planted(700)[0] * 32).round() / 32  # every one of the types holds them
    model = dictionary(x.float(), 40, offset=x.float().mean(dim=0) if shift else None)
    result, wanted = refine(model, x.to(dtype), passes=2), refine(model, x.float(), passes=2)
    assert not torch.equal(wanted.atoms, model.atoms)
    if dtype != torch.float64:  # whose codes are computed in more digits
        assert same_bits(result.atoms, wanted.atoms)
    torch.testing.assert_close(result.atoms, wanted.atoms, rtol=0, atol=1e-5)


def test_passes_take_every_s_th_activation_then_those_after_them():
    x, seen = normal(100, 8), []
    model = ITDA(unit(normal(10, 8, 1)), labels(10), k=2)
    result = refine(model, x, passes=2, pass_tokens=30, progress=seen.append)  # s = 4
    other = x.clone()
    other[3::4], other[42::4] = normal(25, 8, 5), normal(15, 8, 6)  # neither pass has them
    assert same_bits(refine(model, other, passes=2, pass_tokens=30).atoms, result.atoms)
    other[88] = 9
    assert not same_bits(refine(model, other, passes=2, pass_tokens=30).atoms, result.atoms)
    assert seen == [30, 30]


def test_refining_twice_is_refused():
    x, _ = planted(300)
    with pytest.raises(SettingError, match="refined already: refine the one that it was made from"):
        refine(refine(dictionary(x, 20), x, passes=1), x, passes=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_activation_that_is_not_finite_is_named(bad):
    x, _ = planted(300)
    model = dictionary(x, 20)
    x[17, 3] = bad
    with pytest.raises(ActivationError, match="activation 17 is not finite: leave it out"):
        refine(model, x, passes=1)


def test_activations_of_another_width_are_refused():
    with pytest.raises(ActivationError, match="width 7 for atoms of width 24"):
        refine(dictionary(planted(30)[0], 20), normal(30, 7), passes=1)


@pytest.mark.parametrize(
    "parts",
    [{"passes": -1}, {"passes": 1, "pass_tokens": 0}]
    + [{"passes": 1, "min_fidelity": least} for least in (-0.1, 1.1, float("nan"))],
)
def test_settings_out_of_range_are_refused_with_what_would_do(parts):
    x, _ = planted(30)
    with pytest.raises(SettingError, match=r"must be (at least|from)"):
        refine(dictionary(x, 20), x, **parts)


def test_every_activation_is_fitted_where_passes_have_room_for_all():
    x, model = normal(45, 8), ITDA(unit(normal(10, 8, 1)), labels(10), k=2)
    result = refine(model, x, passes=2, pass_tokens=30)
    for row in range(45):
        other = x.clone()
        other[row] = normal(1, 8, 7)[0] * 5
        assert not same_bits(refine(model, other, passes=2, pass_tokens=30).atoms, result.atoms), row


@pytest.mark.parametrize("factor", [1e160, 1e200, 1e-200])
def test_huge_and_tiny_activations_are_fitted_as_others(factor):
    x, model = normal(60, 8).double(), ITDA(unit(normal(10, 8, 1)), labels(10), k=2)
    plain, scaled = (refine(model, y, passes=2) for y in (x, x * factor))
    assert torch.allclose(plain.atoms, scaled.atoms, atol=1e-5)
