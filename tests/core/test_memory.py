"""What Gram matrices may take, and that they keep to it."""

import gc
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from core.helpers import batch, labels, normal, same_bits, unit_rows

import itda
from itda import ITDA, Trainer, machine
from itda.core import memory
from itda.core.memory import PursuitLimits
from itda.core.pursuit import gram_cpu
from itda.errors import SettingError


@pytest.fixture(autouse=True)
def default():
    gc.collect()


def test_by_default_half_of_what_is_free_may_be_taken():
    assert 0 < memory.available() < machine.free_memory()
    assert memory.available() == pytest.approx(machine.free_memory() / 2, rel=0.2)


def test_a_limit_covers_all_dictionaries_at_once_and_is_given_back():
    held = sum(memory._granted.values())  # by what fixtures of other files keep alive
    itda.set_memory(2**20 + held)
    before = memory.available()
    assert before == 2**20
    model = ITDA(unit_rows(400, 8), labels(400), k=4)
    model.encode(normal(3, 8))
    assert memory.available() == before - 2 * 400 * 400
    other = ITDA(unit_rows(700, 8), labels(700), k=4)
    code = other.encode(normal(3, 8))
    rows = vars(other)["_encoder"].gram
    assert not rows.complete
    assert 2 * rows.rows.size <= before - 2 * 400 * 400
    assert code.count.tolist() == [4, 4, 4]
    del model, other, rows
    gc.collect()
    assert memory.available() == before


def test_a_trainer_says_how_many_gram_rows_fit():
    x = normal(300, 8)
    trainer = Trainer(8, k=3, threshold=1e-6)
    assert trainer.gram_rows == "all"
    trainer.offer(batch(x))
    assert (len(trainer), trainer.gram_rows) == (300, "all")
    small = Trainer(8, k=3, threshold=1e-6, memory=2 * 300 * 100)
    small.offer(batch(x))
    assert small.gram_rows < 300
    assert small.finish().atoms.tolist() == trainer.finish().atoms.tolist()


@pytest.mark.parametrize("limit", [0, -1, 2**20 - 1])
def test_a_limit_that_is_too_small_raises_and_leaves_the_one_before(limit):
    itda.set_memory(2**30)
    with pytest.raises(SettingError, match="at least 1 MiB"):
        itda.set_memory(limit)
    assert memory.available() <= 2**30


def test_a_trainer_refuses_a_memory_below_one():
    with pytest.raises(SettingError, match="memory is 0"):
        Trainer(8, k=3, threshold=0.1, memory=0)


def test_fast_is_off_unless_asked_for():
    assert not memory.fast()
    itda.set_fast(True)
    assert memory.fast()


PEAK = """
import resource, sys, torch, itda
torch.set_num_threads(1)
random = torch.Generator().manual_seed(0)
atoms = torch.nn.functional.normalize(torch.randn(1500, 64, generator=random), dim=1)
labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(1500)))
model = itda.ITDA(atoms, labels, k=8)
x = torch.randn(int(sys.argv[1]), 64, generator=random)
model.encode(x[:3000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.encode(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_the_peak_of_encoding_is_the_codes_and_no_more_for_ten_times_the_rows():
    peaks = []
    for rows in (3000, 30000):
        command = [sys.executable, "-c", PEAK, str(rows)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout))
    # In kB. Codes of 30,000 rows are 30,000 * 8 * (8 + 8) bytes in parts, and as much again put together.
    codes = 2 * 30000 * 8 * 16 / 1024
    assert peaks[1] - peaks[0] < codes + 8 * 1024
    dense = 30000 * 1500 * 4 / 1024
    assert peaks[1] < 0.2 * dense


def test_no_part_of_a_code_is_as_wide_as_the_dictionary():
    code = ITDA(unit_rows(400, 8), labels(400), k=4).encode(normal(50, 8))
    assert {tuple(t.shape) for t in (code.indices, code.coefficients)} == {(50, 4)}
    assert isinstance(code.count, torch.Tensor)


def test_a_dictionary_keeps_to_its_own_limits_whatever_the_process_may_use(monkeypatch):
    asked = []
    real = gram_cpu.GramRows.__init__

    def noted(self, *given, memory=None, **more):
        asked.append(memory)
        real(self, *given, memory=memory, **more)

    monkeypatch.setattr(gram_cpu.GramRows, "__init__", noted)
    atoms = unit_rows(40, 8)
    free = itda.ITDA(atoms, labels(40), k=3)
    kept = replace(free, limits=PursuitLimits(memory=2**21).shared_by(2))
    x = normal(20, 8, seed=1)
    a, b = free.encode(x), kept.encode(x)
    assert asked == [None, 2**20]
    assert same_bits(a.coefficients, b.coefficients)
    assert replace(kept, k=2).limits == kept.limits


def test_limits_that_are_shared_are_never_too_small_for_one_row():
    assert PursuitLimits(memory=2**22).shared_by(3).memory == 2**22 // 3
    assert PursuitLimits(memory=2**20).shared_by(1000).memory == 2**20
    assert PursuitLimits(fast=True).shared_by(5) == PursuitLimits(fast=True)
