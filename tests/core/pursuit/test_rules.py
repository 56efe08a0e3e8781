"""A pursuit is a value in a table: the table has an oracle for each, and a new one works everywhere at once."""

import pickle
from typing import get_type_hints

import numpy as np
import pytest
import torch
from core.helpers import SLOW, SlowRules, labels, normal, same_bits, slow_pursuit, unit_rows
from core.pursuit.pursuit_cases import CASES, differences

import itda
from itda import ITDA, config
from itda.core.pursuit import PURSUITS, encoder, gram_torch, plain
from itda.core.pursuit.gram_cpu import GramEncoder, kind_of
from itda.core.pursuit.gram_float64 import gram_of, picks
from itda.core.pursuit.gram_gpu import GpuPursuit
from itda.core.pursuit.rules import RULES, PursuitRules, rules_of
from itda.core.pursuit.rules.nonnegative import signed
from itda.core.pursuit.subtraction import LeastSquares, Projection, Subtraction
from itda.core.pursuit.triton_limits import has_kernel
from itda.errors import SettingError


class Halves(Projection):
    """A subtraction of a contributor's own: half of the projection at a time."""

    def take(self, rows, step, index, correlation):
        return super().take(rows, step, index, correlation / 2)


INVENTED = {
    "positive, refitted": (
        PursuitRules(score=signed, subtract=Projection, refit=True),
        SlowRules(score=lambda correlations: correlations, fits_at_the_end=True),
    ),
    "orthogonal of positive picks": (
        PursuitRules(score=signed, subtract=LeastSquares),
        SlowRules(score=lambda correlations: correlations, fits_each_step=True),
    ),
}
"""Rules that the package does not have, with what the slow loop makes of them."""


@pytest.fixture(params=INVENTED)
def invented(request, monkeypatch) -> str:
    rules, slow = INVENTED[request.param]
    monkeypatch.setitem(RULES, "invented", rules)
    monkeypatch.setitem(SLOW, "invented", slow)
    return "invented"


def test_every_pursuit_has_a_row_in_the_table_of_oracles():
    assert set(SLOW) == set(PURSUITS) == set(RULES)


def test_the_command_line_offers_pursuits_of_the_table_and_they_are_compiled():
    offered = [name for name in RULES if repr(name) in str(get_type_hints(config.Train)["pursuit"])]
    assert offered == ["mp", "mp_refit", "omp"]
    assert [kind_of(name) for name in offered] == [0, 1, 2]
    assert [has_kernel(name) for name in offered] == [True, True, False]


def test_rules_are_values():
    assert len(set(RULES.values())) == len(RULES)
    for rules in RULES.values():
        assert pickle.loads(pickle.dumps(rules)) == rules
        assert isinstance(rules.subtract(torch.zeros(1, 2).double(), torch.eye(2), 1), Subtraction)


@pytest.mark.parametrize("call", [rules_of, lambda name: itda.pursue(torch.ones(1, 2), torch.eye(2), 1, name)])
def test_a_name_that_is_not_in_the_table_is_refused_with_those_that_are(call):
    with pytest.raises(SettingError, match="no pursuit 'none': use mp, mp_refit, omp, nn_mp"):
        call("none")


def test_an_invented_pursuit_encodes_as_the_slow_loop_does(invented):
    x, d = normal(30, 16), unit_rows(50, 16)
    model = ITDA(d, labels(50), k=5, pursuit=invented)
    code, error = model.decompose(x)
    for row in range(len(x)):
        expected, order, left = slow_pursuit(x[row].numpy(), d.numpy(), 5, invented)
        count = int(code.count[row])
        assert code.indices[row, :count].tolist() == list(dict.fromkeys(order))
        np.testing.assert_allclose(code.coefficients[row, :count], list(expected.values()), rtol=1e-4, atol=1e-5)
        assert error[row].item() == pytest.approx(left, abs=1e-9)
    assert same_bits(model.decode(code), model(x))
    assert ITDA(d, labels(50), k=5, pursuit=invented).encode(x[3]).indices.tolist() == code.indices[3].tolist()


@pytest.mark.parametrize("name", CASES)
def test_an_invented_pursuit_has_the_same_bits_on_every_way(invented, name):
    x, d, k = CASES[name]()
    expected = plain.pursue(x, d, k, invented)
    assert kind_of(invented) is None
    assert not has_kernel(invented)
    ways = {"encoder": encoder(d, k, invented), "GPU": GpuPursuit(d, k, invented)}
    ways["torch"] = lambda x: gram_torch.pursue(x, d, k, invented)
    for way, found in ways.items():
        assert differences(found(x), expected) == [], way


def test_a_subtraction_of_ones_own_is_left_to_plain_by_all_ways(monkeypatch):
    monkeypatch.setitem(RULES, "halves", PursuitRules(score=torch.abs, subtract=Halves))
    x, d = normal(8, 12), unit_rows(30, 12)
    code, left = itda.pursue(x, d, 4, "halves")
    first = (x.double() @ d.double().T).abs().max(dim=1)
    assert torch.equal(code.indices[:, 0], first.indices)
    assert (left < 1).all()
    assert bool((left > plain.pursue(x, d, 4, "mp")[1]).all())
    for found in (encoder(d, 4, "halves"), GpuPursuit(d, 4, "halves"), lambda x: gram_torch.pursue(x, d, 4, "halves")):
        assert differences(found(x), (code, left)) == []


def test_equal_rules_under_another_name_are_as_fast(monkeypatch):
    monkeypatch.setitem(RULES, "mine", PursuitRules(score=RULES["omp"].score, subtract=LeastSquares))
    assert kind_of("mine") == kind_of("omp")
    assert isinstance(encoder(unit_rows(9, 4), 2, "mine"), GramEncoder)


def test_nonnegative_codes_are_positive_and_leave_no_atom_that_points_along():
    x, d = normal(40, 12), unit_rows(30, 12)
    code, _ = itda.pursue(x.double(), d, 30, "nn_mp")
    picked = torch.arange(30) < code.count[:, None]
    assert bool((code.coefficients[picked] > 0).all())
    exhausted, _ = itda.pursue(-d[:1].double(), d[:1], 3, "nn_mp")
    assert exhausted.count.tolist() == [0]


def test_few_atoms_in_float64_give_the_picks_of_plain_and_its_coefficients_up_to_rounding():
    x, d = normal(60, 12).double(), unit_rows(30, 12)
    atoms = d.double()
    for pursuit in ("mp", "nn_mp"):
        indices, coefficients = picks(x, atoms, gram_of(atoms), 6, pursuit)
        code = itda.SparseCode.from_picks(indices, coefficients, (coefficients != 0).sum(dim=1))
        expected, _ = itda.pursue(x, d, 6, pursuit)
        assert torch.equal(code.indices, expected.indices)
        torch.testing.assert_close(code.coefficients, expected.coefficients, rtol=0, atol=1e-12)


def test_limits_given_to_an_encoder_hold_for_it_alone():
    d = unit_rows(400, 8)
    small, whole = encoder(d, 4, "mp", memory=2 * 400 * 100), encoder(d, 4, "mp")
    assert isinstance(small, GramEncoder)
    assert isinstance(whole, GramEncoder)
    assert (small.gram.complete, whole.gram.complete) == (False, True)
    x = normal(5, 8)
    assert differences(small(x), whole(x)) == []
