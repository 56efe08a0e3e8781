"""The schedule of thresholds: its points and corrections, and the sample it starts from."""

from itertools import pairwise

import pytest
import torch
from core.helpers import normal
from hypothesis import given
from hypothesis import strategies as st

from itda.core.growth import Growth
from itda.core.pursuit import PURSUITS
from itda.core.schedule import AIM, HIGHEST, LOWEST, Schedule, calibrated, exponent_of
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


@given(SIZES)
def test_points_increase_from_the_sample_to_the_last_token(sizes):
    _, tokens, sample = sizes
    found = points(new(sizes))
    assert found[0] == min(sample, tokens)
    assert found[-1] == tokens
    assert all(a < b for a, b in pairwise(found))


def test_there_are_64_points_or_more_on_the_way_of_a_long_stream_and_none_far_from_the_last():
    found = points(new((1000, 64_000, 400)))
    assert len(found) > 64
    assert all(b - a <= min(a // 20, 1000) for a, b in pairwise(found))


@given(SIZES, st.data())
def test_until_next_counts_to_the_next_point_from_anywhere(sizes, data):
    schedule, seen = new(sizes), data.draw(st.integers(0, sizes[1] + 5))
    later = [point for point in points(schedule) if point > seen]
    assert schedule.until_next(seen) == (later[0] - seen if later else 2**62)


@given(SIZES)
def test_the_plan_rises_from_nought_to_a_hundredth_more_than_the_atoms(sizes):
    schedule = new(sizes)
    plan = [schedule.planned(seen) for seen in range(0, sizes[1] + 1, max(1, sizes[1] // 50))]
    assert plan == sorted(plan)
    assert plan[0] == 0
    assert schedule.planned(sizes[1]) == schedule.planned(10 * sizes[1]) == pytest.approx(AIM * sizes[0])


@given(SIZES)
def test_the_plan_asks_for_no_more_than_half_of_the_sample(sizes):
    atoms, tokens, sample = sizes
    if sample < tokens:
        assert new(sizes).planned(sample) <= AIM * sample / 2 * (1 + 1e-9)
        assert exponent_of(atoms, tokens, sample) >= 0.4


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


@given(SIZES, st.integers(0, 10**6), st.floats(LOWEST, HIGHEST))
def test_a_correction_is_by_at_most_2_and_stays_among_the_thresholds_that_work(sizes, number, threshold):
    schedule = new(sizes, threshold)
    before = threshold
    for point in points(schedule):
        after = schedule.correct(point, number)
        assert LOWEST <= after <= HIGHEST
        assert before / 2 * (1 - 1e-9) <= after <= before * 2 * (1 + 1e-9)
        before = after


def test_too_many_atoms_raise_the_threshold_and_too_few_lower_it():
    for factor, rises in ((1.5, True), (0.5, False)):
        schedule = new((1000, 64_000, 4000))
        assert (schedule.correct(4000, round(factor * schedule.planned(4000))) > 0.2) == rises


def test_on_the_plan_the_threshold_stays():
    schedule = new((1000, 64_000, 4000))
    for point in points(schedule):
        schedule.correct(point, round(schedule.planned(point)))
        assert schedule.threshold == pytest.approx(0.2, rel=0.1)


def test_at_the_last_token_nothing_is_corrected():
    schedule = new((10, 100, 200))
    assert points(schedule) == [100]
    assert schedule.correct(100, 3) == 0.2


@pytest.mark.parametrize("pursuit", PURSUITS)
@pytest.mark.parametrize(("atoms", "k"), [(300, 4), (800, 4), (800, 2), (1500, 6)])
def test_a_sample_at_the_calibrated_threshold_gives_the_planned_atoms_to_within_2_percent(pursuit, atoms, k):
    sample = planted(2000)
    schedule = calibrated(sample, atoms=atoms, tokens=20_000, k=k, pursuit=pursuit, memory=None)
    growth = Growth(24, k, schedule.threshold, pursuit)
    growth.offer(sample)
    wanted = schedule.planned(2000)
    assert abs(growth.number - wanted) <= max(1.0, 0.02 * wanted)
    assert LOWEST < schedule.threshold < HIGHEST


def test_a_sample_that_is_the_whole_stream_gives_the_atoms_asked_for():
    sample = planted(1500)
    schedule = calibrated(sample, atoms=200, tokens=1500, k=3, pursuit="mp", memory=None)
    growth = Growth(24, 3, schedule.threshold, "mp")
    growth.offer(sample)
    assert 198 <= growth.number <= 206
    assert points(schedule) == [1500]


def test_a_sample_with_too_little_in_it_gets_the_lowest_threshold():
    schedule = calibrated(normal(3, 8).repeat(100, 1), atoms=200, tokens=1000, k=2, pursuit="mp", memory=None)
    assert LOWEST <= schedule.threshold < 2 * LOWEST


def test_more_atoms_than_tokens_are_refused_and_as_many_are_not():
    for atoms in (0, 101):
        with pytest.raises(SettingError, match="each atom is a token, so ask for fewer or read more"):
            calibrated(normal(50, 8), atoms=atoms, tokens=100, k=2, pursuit="mp", memory=None)
    schedule = calibrated(normal(50, 8), atoms=100, tokens=100, k=2, pursuit="mp", memory=None)
    assert schedule.planned(50) <= AIM * 25
