"""Growth by device: the trainer takes the one of the table's row, and the dictionary is the same."""

import pytest
import torch
from core.helpers import SLOW, SlowRules, batch, growth_of, normal, same_bits, slow_training
from core.training.plain_growth import PlainGrowth

from itda import Trainer
from itda.core.pursuit.rules import RULES, PursuitRules
from itda.core.pursuit.rules.nonnegative import signed
from itda.core.pursuit.subtraction import Projection
from itda.core.training import growth
from itda.core.training.growth import Growth, growth_device, growth_for
from itda.core.training.growth_any import AnyGrowth
from itda.core.training.growth_cpu import CpuGrowth
from itda.core.training.growth_device import DeviceGrowth
from itda.errors import SettingError

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
    assert isinstance(growth_of(made), PlainGrowth)
    assert_same(made, expected)


@pytest.mark.parametrize("parts", SETTINGS[:2])
def test_a_dictionary_moves_to_the_growth_of_its_activations_and_no_bit_changes(monkeypatch, parts):
    trainer = Trainer(12, k=3, **parts)
    trainer.offer(batch(stream(), 0, 200))
    monkeypatch.setitem(growth.GROWTHS, "cpu", PLAIN)  # as if the next batch were on another device
    trainer.offer(batch(stream(), 200))
    assert isinstance(growth_of(trainer), PlainGrowth)
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


OTHERS = [("itda.core.training.growth_any", "AnyGrowth"), ("itda.core.training.growth_device", "DeviceGrowth")]


@pytest.mark.parametrize("row", OTHERS)
@pytest.mark.parametrize("parts", SETTINGS)
def test_growth_in_another_way_gives_the_same_bits_as_the_compiled_one(monkeypatch, parts, row):
    expected = trained(**parts)
    monkeypatch.setitem(growth.GROWTHS, "cpu", row)
    made = trained(**parts)
    assert type(growth_of(made)).__name__ == ("AnyGrowth" if parts.get("pursuit") == "omp" else row[1])
    assert_same(made, expected)


@pytest.mark.parametrize("parts", SETTINGS)
@pytest.mark.parametrize("stop", [0, 1, 60, 250])
def test_training_stopped_anywhere_goes_on_in_torch_for_a_device_and_back(monkeypatch, parts, stop):
    one = Trainer(12, k=3, **parts)
    one.offer(batch(stream(), 0, stop))
    monkeypatch.setitem(growth.GROWTHS, "cpu", OTHERS[1])
    two = Trainer(12, k=3, **parts)
    two.restore(one.state())
    two.offer(batch(stream(), stop, (stop + 300) // 2))
    monkeypatch.undo()
    three = Trainer(12, k=3, **parts)
    three.restore(two.state())
    three.offer(batch(stream(), (stop + 300) // 2))
    assert_same(three, trained(**parts))


def test_where_a_dictionary_grows_is_asked_for_or_follows_its_activations(monkeypatch, caplog):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 1)
    monkeypatch.setattr(growth, "free_device_memory", lambda _: 10**9)
    size = {"atoms": 1000, "d_model": 64}
    assert growth_device(cuda, "auto", **size) == growth_device(cuda, "gpu", **size) == cuda
    assert growth_device(cuda, "cpu", **size) == growth_device(cpu, "auto", **size) == cpu
    assert growth_device(cpu, "gpu", **size) == torch.device("cuda")
    assert growth_device(torch.device("mps"), "auto", **size) == cpu
    with caplog.at_level("INFO"):
        assert growth_device(cuda, "auto", atoms=10**6, d_model=64) == cpu
    assert "growth: on the CPU, since 1,000,000 atoms and a block need " in caplog.text
    assert growth_for(cuda, "mp") is DeviceGrowth
    assert growth_for(cuda, "omp") is CpuGrowth


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_read():
    with pytest.raises(SettingError, match="no CUDA device"):
        Trainer(12, k=3, threshold=0.2, grow_on="gpu")
    with pytest.raises(SettingError, match="must be auto, cpu or gpu"):
        growth.check_grow_on("tpu")


def test_a_pursuit_that_a_device_s_growth_does_not_know_grows_all_the_same(monkeypatch):
    monkeypatch.setitem(RULES, "invented", PursuitRules(score=signed, subtract=Projection, refit=True))
    monkeypatch.setitem(SLOW, "invented", SlowRules(score=SLOW["nn_mp"].score, fits_at_the_end=True))
    x = stream()
    for pursuit in ("nn_mp", "invented"):
        trainer = trained(threshold=0.2, pursuit=pursuit)
        assert isinstance(growth_of(trainer), AnyGrowth)
        model = trainer.finish()
        assert model.labels.position.tolist() == slow_training(x.numpy(), 3, 0.2, pursuit)
        plain = PlainGrowth(12, 3, 0.2, pursuit)
        plain.offer(x)
        assert same_bits(plain.atoms, model.atoms)
        assert same_bits(plain.novelty, model.novelty)
        again = Trainer(12, k=3, threshold=0.2, pursuit=pursuit)
        again.restore(trainer.state())
        assert_same(again, trainer)
