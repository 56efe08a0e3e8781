"""Progress without a terminal: nothing for what is quick, then a line every ten seconds, with what is left."""

import pytest

from itda.progress import Lines, duration, short_count


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lines(name="train", total=1_000_000):
    clock, said = Clock(), []
    return Lines(name, total, clock=clock, write=said.append), clock, said


def test_a_line_every_ten_seconds_says_how_far_how_fast_and_what_is_left():
    progress, clock, said = lines()
    with progress:
        progress.set_postfix_str("4:812 atoms")
        for second in range(1, 26):
            clock.now = float(second)
            progress.update(10_000)
    assert said == [
        "itda: train 100k of 1.0M tokens, 10,000/s, 4:812 atoms, 1m30s left",
        "itda: train 200k of 1.0M tokens, 10,000/s, 4:812 atoms, 1m20s left",
        "itda: train 250k tokens in 25s",
    ]


def test_what_is_done_in_less_says_nothing():
    progress, clock, said = lines()
    with progress:
        progress.update(1_000_000)
        clock.now = 9.9
        progress.update(0)
    assert said == []


def test_what_was_there_before_is_no_speed():
    progress, clock, said = lines()
    with progress:
        progress.update(900_000)
        clock.now = 10.0
        progress.update(1_000)
    assert said[0] == "itda: train 901k of 1.0M tokens, 100/s, 16m30s left"


def test_a_step_longer_than_that_has_the_rate_of_all_of_it_and_nothing_read_has_none():
    progress, clock, said = lines()
    with progress:
        clock.now = 10.0
        progress.set_postfix_str("block 3 of 28")
        clock.now = 20.0
        progress.update(1000)
        clock.now = 30.0
        progress.set_postfix_str("block 4 of 28")
    assert said[:3] == [
        "itda: train 0 of 1.0M tokens, block 3 of 28",
        "itda: train 1.0k of 1.0M tokens, 100/s, block 3 of 28, 2h46m left",
        "itda: train 1.0k of 1.0M tokens, 33/s, block 4 of 28, 8h19m left",
    ]


def test_what_failed_has_no_last_line():
    progress, clock, said = lines("export", 20)
    progress.__enter__()
    clock.now = 10.0
    progress.update(5)
    progress.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert said == ["itda: export 5 of 20 atoms, 0.5/s, 30s left"]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (99_960, "100k"), (999_400, "999k"), (999_960, "1.0M"), (2.5e9, "2.5B")],
)
def test_numbers_take_few_characters(number, shown):
    assert short_count(number) == shown


def test_seconds_are_said_as_people_say_them():
    assert [duration(s) for s in (0.2, 59.4, 59.6, 3599.4, 3600, 86400)] == [
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h00m",
        "24h00m",
    ]
