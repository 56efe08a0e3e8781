"""Growth by device: the trainer takes the one of the table's row, and the dictionary is the same."""

import pytest
import torch
from core.helpers import SLOW, SlowRules, batch, normal, same_bits, slow_training
from core.training.plain_growth import PlainGrowth

from itda import Trainer
from itda.core.pursuit.rules import RULES, PursuitRules
from itda.core.pursuit.rules.nonnegative import signed
from itda.core.pursuit.subtraction import Projection
from itda.core.training import growth
from itda.core.training.growth import Growth, growth_for
from itda.core.training.growth_any import AnyGrowth
from itda.core.training.growth_cpu import CpuGrowth

PLAIN = ("core.training.plain_growth", "PlainGrowth")
SETTINGS = [
    {"threshold": 0.2},
    {"threshold": 0.2, "pursuit": "omp", "most": 30},
    {"atoms": 40, "tokens": 300, "pursuit": "mp_refit", "offset_tokens": 50, "passes": 1, "massive": "skip"},
]


def stream() -> torch.Tensor:
    return normal(300, 12) + 1.0


def trained(**parts):
    trainer = Trainer(12, k=3, **parts)
    trainer.offer(batch(stream(), 0, 200))
    trainer.offer(batch(stream(), 200))
    return trainer


def assert_same(one: Trainer, other: Trainer):
    a, b = one.finish(), other.finish()
    assert len(a) > 20
    assert a.labels.keys() == b.labels.keys()
    assert a.threshold == b.threshold
    assert same_bits(a.atoms, b.atoms)
    assert same_bits(a.novelty, b.novelty)


def test_the_table_says_which_growth_a_device_has_and_all_other_devices_have_the_cpus(monkeypatch):
    monkeypatch.setitem(growth.GROWTHS, "xpu", PLAIN)
    assert growth_for(torch.device("xpu", 1), "mp") is PlainGrowth
    assert growth_for(torch.device("cpu"), "mp") is growth_for(torch.device("mps"), "mp") is CpuGrowth
    for made in (PlainGrowth(2, 1, 0.5, "mp"), CpuGrowth(2, 1, 0.5, "mp"), AnyGrowth(2, 1, 0.5, "mp")):
        assert isinstance(made, Growth)


@pytest.mark.parametrize("parts", SETTINGS)
def test_a_growth_of_a_row_of_its_own_is_used_and_gives_the_same_bits(monkeypatch, parts):
    expected = trained(**parts)
    monkeypatch.setitem(growth.GROWTHS, "cpu", PLAIN)
    made = trained(**parts)
    assert isinstance(made._pass._growth, PlainGrowth)
    assert_same(made, expected)


@pytest.mark.parametrize("parts", SETTINGS[:2])
def test_a_dictionary_moves_to_the_growth_of_its_activations_and_no_bit_changes(monkeypatch, parts):
    trainer = Trainer(12, k=3, **parts)
    trainer.offer(batch(stream(), 0, 200))
    monkeypatch.setitem(growth.GROWTHS, "cpu", PLAIN)  # as if the next batch were on another device
    trainer.offer(batch(stream(), 200))
    assert isinstance(trainer._pass._growth, PlainGrowth)
    monkeypatch.undo()
    assert_same(trainer, trained(**parts))


@pytest.mark.parametrize("parts", SETTINGS)
def test_a_state_of_one_growth_is_gone_on_with_by_another(monkeypatch, parts):
    before, after = (Trainer(12, k=3, **parts) for _ in range(2))
    before.offer(batch(stream(), 0, 200))
    monkeypatch.setitem(growth.GROWTHS, "cpu", PLAIN)
    after.restore(before.state())
    after.offer(batch(stream(), 200))
    monkeypatch.undo()
    assert_same(after, trained(**parts))


ANY = ("itda.core.training.growth_any", "AnyGrowth")


@pytest.mark.parametrize("parts", SETTINGS)
def test_growth_by_any_pursuit_gives_the_same_bits_as_the_compiled_one(monkeypatch, parts):
    expected = trained(**parts)
    monkeypatch.setitem(growth.GROWTHS, "cpu", ANY)
    made = trained(**parts)
    assert isinstance(made._pass._growth, AnyGrowth)
    assert_same(made, expected)


def test_a_pursuit_that_a_device_s_growth_does_not_know_grows_all_the_same(monkeypatch):
    monkeypatch.setitem(RULES, "invented", PursuitRules(score=signed, subtract=Projection, refit=True))
    monkeypatch.setitem(SLOW, "invented", SlowRules(score=SLOW["nn_mp"].score, fits_at_the_end=True))
    x = stream()
    for pursuit in ("nn_mp", "invented"):
        trainer = trained(threshold=0.2, pursuit=pursuit)
        assert isinstance(trainer._pass._growth, AnyGrowth)
        model = trainer.finish()
        assert model.labels.position.tolist() == slow_training(x.numpy(), 3, 0.2, pursuit)
        plain = PlainGrowth(12, 3, 0.2, pursuit)
        plain.offer(x)
        assert same_bits(plain.atoms, model.atoms)
        assert same_bits(plain.novelty, model.novelty)
        again = Trainer(12, k=3, threshold=0.2, pursuit=pursuit)
        again.restore(trainer.state())
        assert_same(again, trainer)
