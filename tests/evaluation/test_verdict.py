"""What an evaluation says in words is what its figures are, by the thresholds that the docs give."""

import math
from dataclasses import replace

import pytest

from itda.core.batch import Site
from itda.core.headroom import Headroom
from itda.evaluation.measures import Evaluation
from itda.evaluation.verdict import BANDS, verdict
from itda.report.measures import evaluation

SITE = Site(20)
FIGURES = Evaluation(
    tokens=5_000,
    predicted=4_900,
    fvu=0.22,
    l0=19.5,
    atoms=2048,
    unused_atoms=3,
    ce_clean=3.0,
    ce_spliced=3.154,
    ce_zero=10.0,
    ce_mean=9.0,
    ce_loss_score=0.978,
    kl=0.2,
    k=20,
    threshold=0.2,
    full=0.9,
    error_median=0.13,
    error_tenth=0.31,
    over_threshold=0.24,
    headroom=Headroom(2_048, 0.22, 0.15, 0.26),
)


def said(growing=None, **changed):
    return " ".join(verdict(SITE, replace(FIGURES, **changed), growing))


def headroom(double_k, half_atoms, fvu=0.2):
    return {"headroom": Headroom(2_048, fvu, double_k, half_atoms)}


def test_the_whole_of_it():
    assert verdict(SITE, FIGURES, 0.08) == (
        "Good: the dictionary keeps 97.8% of what layer_20 contributes to predictions, +0.154 nats; it can stand in "
        "for the site if a few percent do not matter.",
        "It leaves 22.0% of the variance unexplained. Half of the tokens have an error below 0.130, one in ten above "
        "0.310; 24% are above the threshold of 0.2.",
        "A larger k would help: with 40 atoms a token instead of 20, 15.0% instead of 22.0% stay unexplained.",
        "More atoms would probably help: the first half of them alone leaves 26.0%, all of them 22.0%, and the last "
        "tenth of the training tokens still gave 8% of the atoms; doubling k gains more.",
    )


@pytest.mark.parametrize(
    ("score", "name"),
    [
        *((score, "Very good:") for score in (0.999, 0.98)),
        *((score, "Good:") for score in (0.979, 0.95)),
        *((score, "Fair:") for score in (0.949, 0.9)),
        *((score, "Weak:") for score in (0.899, 0.75)),
        *((score, "Poor:") for score in (0.749, 0.0, -3.0)),
    ],
)
def test_the_band_is_that_of_the_loss_score(score, name):
    assert said(ce_loss_score=score).startswith(name)


def test_bands_fall():
    assert [band[0] for band in BANDS] == sorted((band[0] for band in BANDS), reverse=True)


def test_a_loss_lower_than_the_models_is_not_called_a_loss():
    assert said(ce_loss_score=1.02, ce_spliced=2.9).startswith("Very good: with the dictionary in place of layer_20")


@pytest.mark.parametrize("changed", [{"ce_loss_score": math.nan}, {"ce_zero": 3.0}, {"ce_zero": 2.9}])
def test_where_zeros_cost_nothing_there_is_no_verdict_on_predictions(changed):
    assert said(**changed).startswith("No verdict on predictions")


def test_a_model_without_predictions_has_the_other_sentences():
    lines = verdict(SITE, replace(FIGURES, ce_clean=None, ce_spliced=None, ce_zero=None, ce_loss_score=None))
    assert lines[0].startswith("It leaves 22.0%")
    assert len(lines) == 3


def test_an_interval_is_given_where_it_leaves_the_band_and_few_predictions_are_called_rough():
    assert "interval" not in said(intervals={"ce_loss_score": (0.96, 0.979)})
    assert "(95% interval: 96.0% to 98.5%)" in said(intervals={"ce_loss_score": (0.96, 0.985)})
    assert "Rough: only 999 predictions" in said(predicted=999)
    assert "Rough" not in said(predicted=1000)


@pytest.mark.parametrize(
    ("double_k", "full", "words"),
    [
        (0.17, 0.9, "A larger k would help: with 40"),
        (0.18, 0.9, "A larger k would help"),
        (0.181, 0.9, "A larger k would hardly help"),
        (0.1, 0.05, "A larger k would change little: 5% of the codes use all 20 atoms"),
    ],
)
def test_whether_a_larger_k_helps_is_measured(double_k, full, words):
    assert words in said(full=full, **headroom(double_k, None))


@pytest.mark.parametrize(
    ("half", "growing", "words", "others"),
    [
        (0.3, 0.08, "More atoms would probably help", "still gave 8%"),
        (0.3, 0.04, "More atoms would probably help", "all of them 20.0%;"),
        (0.3, None, "More atoms would probably help", "all of them 20.0%;"),
        (0.21, 0.2, "More atoms would hardly help", "leaves 21.0%"),
    ],
)
def test_whether_more_atoms_help_is_told_from_half_of_them(half, growing, words, others):
    assert words in said(growing, **headroom(0.17, half))
    assert others in said(growing, **headroom(0.17, half))


def test_what_gains_more_is_said_only_where_both_help():
    assert "doubling k gains less" in said(**headroom(0.17, 0.4))
    assert "doubling k gains more" in said(**headroom(0.1, 0.25))
    assert "doubling" not in said(**headroom(0.19, 0.25))
    assert "doubling" not in said(**headroom(0.1, 0.21))


def test_what_was_not_measured_is_not_said():
    assert len(verdict(SITE, replace(FIGURES, headroom=None))) == 2
    assert "threshold" not in said(threshold=None, over_threshold=None)
    nothing = Evaluation(tokens=5, predicted=0, fvu=math.nan, l0=1.0, atoms=3, unused_atoms=0)
    assert verdict(SITE, nothing) == ()
    assert verdict(SITE, replace(FIGURES, **headroom(0.0, 0.1, fvu=0.0)))[2:] == (
        "More atoms would probably help: the first half of them alone leaves 10.0%, all of them 0.0%.",
    )


def test_the_table_has_no_speed_where_one_group_alone_was_read():
    """The first group is not timed, as it compiles: of one group nothing is known."""
    assert "encoded per second" not in evaluation({SITE: FIGURES})
    both = evaluation({SITE: FIGURES, Site(3): replace(FIGURES, encode_per_second=1234.5)})
    assert both.split("encoded per second")[1].split()[:2] == ["-", "1,234"]
