"""Edits of activations: against a slow loop in float64, and what must hold for all of them."""

import numpy as np
import pytest
import torch
from helpers import labels, normal, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ITDA, SparseCode
from itda.core.steering import Edit, check_number
from itda.core.typical import Typical
from itda.errors import ActivationError, SettingError

ATOMS, WIDTH, K = 12, 6, 4


def dictionary(pursuit="mp", offset=True, massive_norm=None, seed=0) -> ITDA:
    shift = normal(1, WIDTH, seed)[0] if offset else None
    return ITDA(unit_rows(ATOMS, WIDTH, seed), labels(ATOMS), K, pursuit, offset=shift, massive_norm=massive_norm)


def slowly(d: ITDA, x, add, gone, hold, direction, residual) -> np.ndarray:
    """The edit of one activation by its definition, atom by atom."""
    code = d.encode(x[None])
    a = d.atoms.double().numpy()
    c = dict(zip(code.indices[0, : code.count[0]].tolist(), code.coefficients[0].tolist(), strict=False))
    made = x.double().numpy().copy()
    if not residual:
        made = d.offset.double().numpy().copy() if d.offset is not None else np.zeros(WIDTH)
        for atom, coefficient in c.items():
            made = made + coefficient * a[atom]
    for atom in gone:
        made = made - c.get(atom, 0.0) * a[atom]
    for atom, value in hold.items():
        made = made + (value - c.get(atom, 0.0)) * a[atom]
    for atom, amount in add.items():
        made = made + amount * a[atom]
    return made + direction


amounts = st.dictionaries(st.integers(0, 5), st.floats(-9, 9), max_size=3)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 5),
    pursuit=st.sampled_from(["mp", "mp_refit"]),
    offset=st.booleans(),
    add=amounts,
    hold=st.dictionaries(st.integers(6, 8), st.floats(-9, 9), max_size=2),
    gone=st.sets(st.integers(9, ATOMS - 1)),
    kept=st.booleans(),
    residual=st.booleans(),
)
def test_an_edit_is_what_its_definition_says(seed, pursuit, offset, add, hold, gone, kept, residual):
    d, x, v = dictionary(pursuit, offset, seed=seed), 5 * normal(2, WIDTH, seed), normal(1, WIDTH, 99)[0]
    asked = {"keep": [atom for atom in range(ATOMS) if atom not in gone]} if kept else {"ablate": sorted(gone)}
    edit = Edit.of(d, add=add, hold=hold, direction=v, residual=residual, **asked)
    made = edit(x)
    for row in range(len(x)):
        np.testing.assert_allclose(
            made[row].double(), slowly(d, x[row], add, gone, hold, v.double().numpy(), residual), atol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nothing_to_change_changes_no_bit(dtype):
    d, x = dictionary(), normal(5, WIDTH).to(dtype)
    x[0, 0] = -0.0
    for asked in (
        {"add": {3: 0.0}},
        {"keep": range(ATOMS)},
        {"ablate": []},
        {"direction": torch.zeros(WIDTH)},
        {},
    ):
        edit = Edit.of(d, **asked)
        assert edit.changes_nothing
        assert edit(x) is x


def test_activations_without_the_atom_keep_their_bits():
    d, x = dictionary(), normal(50, WIDTH)
    code = d.encode(x)
    uses = ((code.indices == 7) & (torch.arange(K) < code.count[:, None])).any(dim=1)
    assert 0 < uses.sum() < len(x)
    made = Edit.of(d, ablate=[7])(x)
    assert torch.equal(made[~uses], x[~uses])
    assert (made[uses] != x[uses]).any(dim=1).all()


@settings(max_examples=15)
@given(seed=st.integers(0, 50), atom=st.integers(0, ATOMS - 1), pursuit=st.sampled_from(["mp", "mp_refit", "omp"]))
def test_ablating_and_adding_back_is_the_identity(seed, atom, pursuit):
    d, x = dictionary(pursuit), 30 * normal(6, WIDTH, seed)
    code = d.encode(x)
    for row, own in enumerate(code.dense(ATOMS)[:, atom].tolist()):
        one = x[row : row + 1]
        back = Edit.of(d, add={atom: own})(Edit.of(d, ablate=[atom])(one))
        held = Edit.of(d, hold={atom: own})(one)
        assert (back - one).norm() <= 1e-5 * one.norm()
        assert (held - one).norm() <= 1e-5 * one.norm()


def test_keeping_all_atoms_without_the_residual_is_the_reconstruction():
    d, x = dictionary(), normal(5, WIDTH)
    assert torch.equal(Edit.of(d, keep=range(ATOMS), residual=False)(x), d(x))


def test_massive_activations_stay():
    d, x = dictionary(massive_norm=50.0), normal(3, WIDTH)
    x[1] *= 1000
    for asked in ({"add": {1: 3.0}}, {"ablate": range(ATOMS)}, {"keep": [], "residual": False}):
        made = Edit.of(d, **asked)(x)
        assert torch.equal(made[1], x[1])
        assert (made[[0, 2]] != x[[0, 2]]).any(dim=1).all()


def test_batches_of_any_shape_and_none():
    d, x = dictionary(), normal(6, WIDTH)
    edit = Edit.of(d, add={-1: 2.0}, ablate=[3])
    assert torch.equal(edit(x.view(2, 3, WIDTH)).view(6, WIDTH), edit(x))
    assert edit(x[:0]).shape == (0, WIDTH)
    assert torch.equal(edit(x), Edit.of(d, add={ATOMS - 1: 2.0}, ablate=[3]).to("cpu")(x))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"add": {12: 1.0}}, "no atom 12: the dictionary has 12, use 0 to 11 or -1"),
        ({"ablate": [-13]}, "no atom -13"),
        ({"add": {1: float("nan")}}, "the coefficient of atom 1 is nan: give a finite number"),
        ({"hold": {1: float("inf")}}, "is inf: give a finite number"),
        ({"ablate": [1], "keep": [2]}, "give one of the two lists"),
        ({"hold": {1: 1.0}, "add": {1: 1.0}}, "atom 1 is both set and added"),
        ({"direction": torch.ones(2, WIDTH)}, r"a direction of shape \[2, 6\]: give one vector"),
    ],
)
def test_what_cannot_be_is_refused(asked, message):
    with pytest.raises(SettingError, match=message):
        Edit.of(dictionary(), **asked)


@pytest.mark.parametrize("value", ["much", None, True, float("nan"), [1.0]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(SettingError, match=r"strength is .*: give a finite number"):
        check_number("strength", value)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ActivationError, match="width 5 for atoms of width 6"):
        Edit.of(dictionary(), direction=torch.ones(5))
    with pytest.raises(ActivationError, match="width 5 for atoms of width 6"):
        Edit.of(dictionary(), ablate=[1])(normal(2, 5))
    with pytest.raises(SettingError, match="no dictionary"):
        Edit.of(None, ablate=[1])


@settings(max_examples=15)
@given(seed=st.integers(0, 20), rows=st.integers(5, 60))
def test_typical_coefficients_are_medians_over_uses(seed, rows):
    code = dictionary(seed=seed).encode(normal(rows, WIDTH, seed))
    typical, dense = Typical.of_code(code, ATOMS), code.dense(ATOMS)
    own = {}
    for atom in range(ATOMS):
        used = ((code.indices == atom) & (torch.arange(K) < code.count[:, None])).any(dim=1)
        assert typical.uses[atom] == used.sum()
        if used.sum() >= 5:
            own[atom] = np.median(dense[used, atom].abs().numpy())
            assert typical.of(atom) == pytest.approx(own[atom])
    if own:
        assert typical.whole == pytest.approx(np.median(list(own.values())))
        assert all(typical.of(atom) == typical.whole for atom in range(ATOMS) if atom not in own)


def test_no_use_gives_no_unit():
    nothing = SparseCode(torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(SettingError, match="no atom is used in the sample"):
        Typical.of_code(nothing, 4).of(0)
