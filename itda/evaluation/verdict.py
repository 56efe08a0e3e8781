"""The verdict on a dictionary: sentences that each rest on a measured figure and a threshold given here."""

from __future__ import annotations

import math

from itda.core.batch import Site
from itda.evaluation.measures import Evaluation

BANDS = (
    (0.98, "Very good", "it can stand in for the site"),
    (0.95, "Good", "it can stand in for the site if a few percent do not matter"),
    (0.90, "Fair", "it shows most of what the site does, but is too coarse to stand in for it"),
    (0.75, "Weak", "what it leaves out matters: read its strongest atoms only"),
    (-math.inf, "Poor", "it keeps too little of the site to say what it does"),
)
"""Bands of the CE loss score: the least score of a band, its name, and what such a dictionary is good for."""

HELPS = 0.1
"""Share of the unexplained variance that a change must take away to be said to help."""

FEW_FULL = 0.05
"""Share of tokens whose codes have all k atoms up to which a larger k is said to change little."""

GROWING = 0.05
"""Share of the atoms from the last tenth of the training tokens from which a dictionary is said to grow still."""

FEW_PREDICTED = 1000
"""Number of scored predictions below which a CE loss score is called rough."""


def verdict(site: Site, figures: Evaluation, growing: float | None = None) -> tuple[str, ...]:
    """Return up to four paragraphs on one dictionary, of a sentence or two each; docs/measures.md says how they come.

    `growing` is the share of the atoms that the last tenth of the training tokens gave, None if that is not known.
    """
    lines = [_predictions(site, figures), _tail(figures), _longer_codes(figures), _more_atoms(figures, growing)]
    return tuple(line for line in lines if line)


def _predictions(site: Site, figures: Evaluation) -> str:
    score, clean, spliced = figures.ce_loss_score, figures.ce_clean, figures.ce_spliced
    if score is None or clean is None or spliced is None:
        return ""
    if math.isnan(score) or figures.ce_zero is None or figures.ce_zero <= clean:
        return f"No verdict on predictions: the model predicts this text no worse if {site} is zero."
    _, name, use = next(band for band in BANDS if score >= band[0])
    low, high = figures.intervals.get("ce_loss_score", (score, score))
    sure = f" (95% interval: {low:.1%} to {high:.1%})" if _band(low) != _band(high) else ""
    rough = f" Rough: only {figures.predicted:,} predictions were scored." * (figures.predicted < FEW_PREDICTED)
    if score >= 1:
        return f"{name}: with the dictionary in place of {site} predictions are no worse.{rough}"
    return (
        f"{name}: the dictionary keeps {max(0.0, score):.1%} of what {site} contributes to predictions{sure}, "
        f"{spliced - clean:+.3f} nats; {use}.{rough}"
    )


def _band(score: float) -> int:
    return next((place for place, band in enumerate(BANDS) if score >= band[0]), len(BANDS) - 1)


def _tail(figures: Evaluation) -> str:
    if not math.isfinite(figures.fvu) or figures.error_median is None or figures.error_tenth is None:
        return ""
    above = (
        f"; {figures.over_threshold:.0%} are above the threshold of {figures.threshold:.3g}"
        if figures.over_threshold is not None and figures.threshold is not None
        else ""
    )
    return (
        f"It leaves {figures.fvu:.1%} of the variance unexplained. Half of the tokens have an error below "
        f"{figures.error_median:.3f}, one in ten above {figures.error_tenth:.3f}{above}."
    )


def _longer_codes(figures: Evaluation) -> str:
    more = figures.headroom
    if more is None or more.fvu_double_k is None or figures.full is None or not more.fvu > 0:
        return ""
    change = f"with {2 * figures.k} atoms a token instead of {figures.k}, {more.fvu_double_k:.1%} instead of"
    change += f" {more.fvu:.1%} stay unexplained"
    if figures.full <= FEW_FULL:
        return f"A larger k would change little: {figures.full:.0%} of the codes use all {figures.k} atoms."
    if _gain(more.fvu_double_k, more.fvu) >= HELPS:
        return f"A larger k would help: {change}."
    return f"A larger k would hardly help: {change}."


def _more_atoms(figures: Evaluation, growing: float | None) -> str:
    more = figures.headroom
    if more is None or more.fvu_half_atoms is None or not more.fvu_half_atoms > 0:
        return ""
    gain = _gain(more.fvu, more.fvu_half_atoms)
    half = f"the first half of them alone leaves {more.fvu_half_atoms:.1%}, all of them {more.fvu:.1%}"
    if gain < HELPS:
        return f"More atoms would hardly help: {half}."
    line = f"More atoms would probably help: {half}"
    if growing is not None and growing >= GROWING:
        line += f", and the last tenth of the training tokens still gave {growing:.0%} of the atoms"
    if more.fvu_double_k is not None and (figures.full or 0) > FEW_FULL:
        longer = _gain(more.fvu_double_k, more.fvu)
        if longer >= HELPS:
            line += f"; doubling k gains {'more' if longer > gain else 'less'}"
    return line + "."


def _gain(after: float, before: float) -> float:
    """Return the share of an error that a change takes away."""
    return 1 - after / before if before > 0 else 0.0
