"""The schedule of thresholds: the sample it starts from, the projections, and the small corrections."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, normal
from hypothesis import given
from hypothesis import strategies as st

from itda.core.training.growth_cpu import CpuGrowth
from itda.core.training.schedule import AIM, DECLINE, HIGHEST, LOWEST, Schedule, calibrated, growth_factor, sample_of
from itda.errors import SettingError

SIZES = st.integers(1, 3000).flatmap(lambda t: st.tuples(st.integers(1, t), st.just(t), st.integers(1, t + 9)))


def planted(tokens: int, *, hidden: int = 64, width: int = 24, active: int = 3, seed: int = 0) -> torch.Tensor:
    """Sparse sums of hidden atoms with a little noise."""
    random = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(hidden, width, generator=random), dim=1)
    picks = torch.rand(tokens, hidden, generator=random).argsort(dim=1)[:, :active]
    weights = 0.5 + torch.rand(tokens, active, generator=random)
    return (weights[:, :, None] * atoms[picks]).sum(dim=1) + 0.1 * torch.randn(tokens, width, generator=random)


def new(sizes: tuple[int, int, int], threshold: float = 0.2) -> Schedule:
    atoms, tokens, sample = sizes
    return Schedule(atoms=atoms, tokens=tokens, sample=sample, threshold=threshold)


def points(schedule: Schedule) -> list[int]:
    seen, found = 0, []
    while (left := schedule.until_next(seen)) < 2**62:
        seen += left
        found.append(seen)
    return found


def curve(atoms: int, tokens: int, middle: float, seen: int) -> float:
    """Atoms after so many tokens, `atoms` in the end, with the exponent 0.4 at `middle`."""
    return atoms / growth_factor(0.4, middle, float(seen), float(tokens))


@given(SIZES)
def test_points_increase_through_the_sample_to_the_last_token(sizes):
    _, tokens, sample = sizes
    found = points(new(sizes))
    assert min(sample, tokens) in found
    assert found[-1] == tokens
    assert all(a < b for a, b in pairwise(found))


def test_a_long_stream_has_points_a_sixteenth_and_a_32nd_of_the_whole_apart_at_most():
    found = [point for point in points(new((1000, 64_000, 4000))) if point >= 4000]
    assert len(found) > 32
    assert all(b - a <= min(a // 16, 2000) for a, b in pairwise(found))


@given(SIZES, st.data())
def test_until_next_counts_to_the_next_point_from_anywhere(sizes, data):
    schedule, seen = new(sizes), data.draw(st.integers(0, sizes[1] + 5))
    later = [point for point in points(schedule) if point > seen]
    assert schedule.until_next(seen) == (later[0] - seen if later else 2**62)


@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(1, 50), st.floats(1, 50))
def test_growth_is_the_integral_of_an_exponent_that_declines(exponent, middle, ratio, further):
    start, stop = middle * ratio, middle * ratio * further
    place = np.linspace(np.log(start), np.log(stop), 2001)
    falling = exponent * np.exp(-DECLINE * (place - np.log(middle)))
    assert growth_factor(exponent, middle, start, stop) == pytest.approx(np.exp(np.trapezoid(falling, place)), rel=1e-4)


@given(SIZES, st.lists(st.integers(0, 3000), max_size=30), st.integers(0, 99))
def test_corrections_are_a_function_of_the_points_alone(sizes, others, seed):
    """Asked between points, or twice at one, the schedule answers what it did and forgets that it was asked."""
    plain, asked = new(sizes), new(sizes)
    random = torch.Generator().manual_seed(seed)
    number = 0
    found = points(plain)
    for point in found:
        number += int(torch.randint(20, (1,), generator=random))
        for seen in sorted(set(others) - set(found)):
            assert asked.correct(seen, number + 5) == asked.threshold == plain.threshold
        wanted = plain.correct(point, number)
        assert asked.correct(point, number) == wanted
        assert asked.correct(point, number + 7) == wanted == asked.threshold


@given(
    SIZES, st.lists(st.integers(0, 10**6), min_size=200, max_size=200), st.floats(LOWEST, HIGHEST), st.integers(0, 99)
)
def test_a_state_through_json_goes_on_to_the_same_thresholds(sizes, numbers, threshold, cut):
    whole, first = new(sizes, threshold), new(sizes, threshold)
    found = list(zip(points(whole), sorted(numbers), strict=False))
    for point, number in found[:cut]:
        assert first.correct(point, number) == whole.correct(point, number)
    values = json.loads(json.dumps(first.state()))
    again = Schedule.restored(values, atoms=sizes[0], tokens=sizes[1])
    for point, number in found[cut:]:
        after = again.correct(point, number)
        assert after == whole.correct(point, number)
        assert LOWEST <= after <= HIGHEST


@pytest.mark.parametrize("off", [0.98, 1.0, 1.02])
def test_on_its_way_to_nearly_the_number_the_threshold_stays_to_the_bit(off):
    schedule = new((1000, 64_000, 16_000))
    middle = 16_000 / 2**0.5
    for point in points(schedule):
        # Off in the sample, and back on the aim by the end.
        drift = off ** (1 - point / 64_000)
        schedule.correct(point, round(drift * curve(round(AIM * 1000), 64_000, middle, point)))
    assert schedule.threshold == 0.2


def test_too_many_atoms_raise_the_threshold_and_too_few_lower_it_a_little_at_a_time():
    for factor, sign in ((1.3, 1), (0.7, -1)):
        schedule = new((1000, 64_000, 16_000))
        before, moved = 0.2, []
        for point in points(schedule):
            after = schedule.correct(point, round(factor * curve(1000, 64_000, 16_000 / 2**0.5, point)))
            moved.append(sign * math.log(after / before))
            before = after
            assert (point >= 20_000) or after == 0.2
        assert all(0 <= each < 0.12 for each in moved)
        assert sum(moved) > 0.1


def test_nothing_is_corrected_before_a_quarter_more_than_the_sample_nor_at_the_last_token():
    schedule = new((10, 100, 80))
    assert [schedule.correct(point, 10 * point) for point in points(schedule)] == [0.2] * len(points(schedule))


@given(st.integers(1, 10**9), st.integers(1, 20_000))
def test_the_sample_is_half_of_the_stream_within_bounds(tokens, d_model):
    size = sample_of(tokens, d_model)
    assert min(tokens, 4096) <= size <= min(tokens, 32_768)
    assert size <= max(4096, tokens // 2)
    assert size <= 4096 or size * d_model * 4 <= 2**27


@pytest.mark.parametrize("pursuit", COMPILED)
@pytest.mark.parametrize(("atoms", "k"), [(300, 4), (800, 4), (800, 2), (1500, 6)])
def test_the_calibrated_threshold_gives_the_number_on_the_whole_stream_to_within_10_percent(pursuit, atoms, k):
    """Without any correction: half of the stream tells what all of it will give."""
    stream = planted(8000, hidden=300)
    schedule = calibrated(stream[:4000], atoms=atoms, tokens=8000, k=k, pursuit=pursuit, memory=None)
    grown = CpuGrowth(24, k, schedule.threshold, pursuit)
    grown.offer(stream)
    assert abs(grown.number / (AIM * atoms) - 1) < 0.1
    assert LOWEST < schedule.threshold < HIGHEST


def test_a_sample_that_is_the_whole_stream_gives_the_atoms_asked_for():
    sample = planted(1500)
    schedule = calibrated(sample, atoms=200, tokens=1500, k=3, pursuit="mp", memory=None)
    grown = CpuGrowth(24, 3, schedule.threshold, "mp")
    grown.offer(sample)
    assert 198 <= grown.number <= 208
    assert points(schedule)[-1] == 1500


def test_a_sample_with_too_little_in_it_gets_about_the_lowest_threshold():
    schedule = calibrated(normal(3, 8).repeat(100, 1), atoms=200, tokens=1000, k=2, pursuit="mp", memory=None)
    assert LOWEST <= schedule.threshold < 100 * LOWEST


def test_more_atoms_than_tokens_are_refused_and_as_many_are_not():
    for atoms in (0, 101):
        with pytest.raises(SettingError, match="each atom is a token, so ask for fewer or read more"):
            calibrated(normal(50, 8), atoms=atoms, tokens=100, k=2, pursuit="mp", memory=None)
    schedule = calibrated(normal(50, 8), atoms=100, tokens=100, k=2, pursuit="mp", memory=None)
    assert schedule.threshold >= LOWEST
