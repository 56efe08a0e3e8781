"""The tables of the benchmark of diffing."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import number, paragraph, table

Row = dict[str, Any]
KINDS = ("fact", "trigger", "topic", "style", "forgotten", "link")
RESAMPLES = 10_000


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95% interval of a share.

    >>> [round(end, 3) for end in wilson(17, 20)]
    [0.64, 0.948]
    """
    z = 1.959963984540054
    share, weight = successes / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / weight
    half = z / weight * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the ends of the 95% interval of a mean, by resampling the values: NaN for fewer than two.

    >>> bootstrap([0.5, 0.5])
    (0.5, 0.5)
    """
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.array(values)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def report(rows: list[Row]) -> list[str]:
    """Return paragraphs and tables: of each part, by the number of planted documents, most first."""
    parts = []
    for part, (title, about) in PARTS.items():
        mine = [row for row in rows if row["key"]["part"] == part]
        if not mine:
            continue
        parts += [f"## {title}", paragraph(about)]
        if part.endswith("null"):
            parts.append(nulls(mine))
            continue
        for planted in sorted({row["key"]["planted"] for row in mine}, reverse=True):
            here = [row for row in mine if row["key"]["planted"] == planted]
            parts += [f"Planted documents: {planted}.", found(here)]
    judged = [row for row in rows if row.get("times") is not None]
    return [*parts, "## The rule for findings", paragraph(RULE), by_rule(judged)] if judged else parts


RULE = """Rows of itda that were measured by the rule for findings of now, at all three layers: subjects, those with any
finding, organisms whose plant is shown by a finding among the first four, and how many times as far the strongest atom
stands out as that of the control. Wilson's 95% interval."""


def by_rule(rows: list[Row]) -> str:
    """Return the table of what the rule for findings makes of organisms and null pairs, by part and strength."""
    body = []
    rows = [row for row in rows if row["key"]["method"] == "itda" and len(row["key"]["layers"]) > 1]
    for part in PARTS:
        of_part = [row for row in rows if row["key"]["part"] == part]
        strengths = sorted({row["strength"] for row in of_part})
        for strength in [*strengths, None] if of_part else []:
            mine = [row for row in of_part if strength in (None, row["strength"])]
            times = sorted(row["times"] for row in mine)
            called = _share(sum(row["called"] > 0 for row in mine), len(mine))
            shown = "-" if part.endswith("null") else _share(sum(row["found_called"] for row in mine), len(mine))
            ends = [number(float(value)) for value in (times[0], np.median(times), times[-1])]
            body.append([part, strength or "all", len(mine), called, shown, *ends])
    header = ["part", "strength", "subjects", "with a finding", "plant is a finding", "times: least", "median", "most"]
    return table(header, body)


PARTS = {
    "dev": (
        "Organisms of development",
        "Those on which rankings were chosen; columns as in the next table of organisms.",
    ),
    "dev-null": ("Null pairs of development", "Those on which thresholds were chosen; columns as for the others."),
    "held": (
        "Held-out organisms",
        """Plants among the first four findings, by the rule of organisms_rule.py, with Wilson's 95% interval, by kind,
        and how many of the finds are by text; mean AUROC of planted documents with a 95% interval by resampling
        organisms; median processor seconds, without the reading of the models.""",
    ),
    "null": (
        "Null pairs",
        """Two neutral fine-tunes: pairs with any finding that the method itself calls more than noise, with Wilson's
        95% interval, and findings called in all. Baselines have no threshold, so they call all that they list. By
        chance: the share of the organisms' plants, none of them there, that the first four findings would show. Rows of
        itda are by the rule for findings of before: the rule of now was set on these, and stands at the end.""",
    ),
    "fresh-null": (
        "Fresh null pairs",
        """Pairs of neutral fine-tunes that share no model, made for the rule for findings and looked at once, after
        it was set; columns as for the others.""",
    ),
}


def groups(rows: list[Row]) -> dict[tuple[str, tuple[int, ...]], list[Row]]:
    """Return the rows of each method and set of layers, in the order of their first rows."""
    kept: dict[tuple[str, tuple[int, ...]], list[Row]] = {}
    for row in rows:
        kept.setdefault((row["key"]["method"], tuple(row["key"]["layers"])), []).append(row)
    order = list(dict.fromkeys(name for name, _ in kept))
    return {key: kept[key] for key in sorted(kept, key=lambda key: (order.index(key[0]), key[1]))}


def found(rows: list[Row]) -> str:
    """Return the table of organisms: found in the first four, by kind, and AUROC."""
    body = []
    for (name, layers), mine in groups(rows).items():
        hits = sum(row["found"] for row in mine)
        by_text = sum("text" in row["how"] for row in mine)
        kinds = [[row for row in mine if row["kind"] == kind] for kind in KINDS]
        areas = [row["auroc"] for row in mine]
        body.append(
            [
                name,
                " ".join(map(str, layers)),
                _share(hits, len(mine)),
                *(f"{sum(row['found'] for row in kind)}/{len(kind)}" for kind in kinds),
                f"{by_text}",
                f"{np.mean(areas):.3f} ({_interval(bootstrap(areas), '.3f')})",
                number(float(np.median([row["processor_seconds"] for row in mine]))),
            ]
        )
    return table(["method", "layers", "found", *KINDS, "by text", "AUROC", "seconds"], body)


def nulls(rows: list[Row]) -> str:
    """Return the table of null pairs: how many have a finding."""
    body = []
    for (name, layers), mine in groups(rows).items():
        pairs = sum(row["called"] > 0 for row in mine)
        chance = f"{np.mean([row['chance'] for row in mine]):.3f}"
        called = sum(row["called"] for row in mine)
        body.append([name, " ".join(map(str, layers)), _share(pairs, len(mine)), called, chance])
    return table(["method", "layers", "pairs with a finding", "findings", "by chance"], body)


def _share(successes: int, trials: int) -> str:
    return f"{successes}/{trials} ({_interval(wilson(successes, trials), '.2f')})"


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"
