"""What a diff found, in sentences: whether anything changed comes first, and what cannot be said comes last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from itda.core.diffing.ranking import FACTOR, MOST_SCALED

TIMES_NOISE = 2.0
"""A difference whose quantiles are all below this many times those of the noise is called no larger than noise."""


def verdict(found: Mapping[str, Any]) -> list[str]:
    """Return the sentences about a `summary` that is made but for these.

    >>> verdict({"unchanged": True, "same": True, "base": "tiny"})
    ['Nothing changed: both are the same model, tiny.']
    """
    if found["unchanged"]:
        return [_unchanged(found)]
    noise = _beside_noise(found)
    said = [noise] if noise is not None else []
    if found["by"] is None:
        said.append(
            f"The activations cannot be subtracted ({found['why_no_shared_basis']}), so there is no list of "
            "differences. Only labels, and atoms that only the changed model needs, can be compared."
        )
    elif found["by"] == "energy":
        said.append(
            "Predictions are not compared, so atoms are ranked by the energy that they explain, and none is called a "
            "finding."
        )
    elif found["controls"]:
        said.append(_findings(found))
    else:
        said.append(
            "Any training changes a model a little. Only a control can tell which of these atoms are more than that: "
            "give --control a model that was trained in the same way on text without what you look for."
        )
    return said


def _unchanged(found: Mapping[str, Any]) -> str:
    if found["same"]:
        return f"Nothing changed: both are the same model, {found['base']}."
    sites = len(found["sites"])
    where = "the one site that was read" if sites == 1 else f"all {sites} sites that were read"
    return f"Nothing changed: at {where} both models compute the same at each of {found['tokens']:,} tokens."


def _beside_noise(found: Mapping[str, Any]) -> str | None:
    """Say where the difference is no larger than that of the base from itself; None if it is larger everywhere."""
    small = [site["site"] for site in found["sites"] if is_noise(site)]
    if not small:
        return None
    if len(small) == len(found["sites"]):
        return (
            "Nothing changed beyond noise: at all sites the difference is no larger than that of the base from itself, "
            "read in another way."
        )
    return f"At {', '.join(small)} the difference is no larger than that of the base from itself, read in another way."


def is_noise(site: Mapping[str, Any]) -> bool:
    """Return True if a site's difference is like its noise at every quantile of the tokens.

    >>> is_noise({"relative_norm": {"0.5": 0.1, "1": 0.3}, "noise": {"batch_size 4": {"0.5": 0.1, "1": 0.1}}})
    False
    """
    size, noise = site["relative_norm"], site["noise"]
    if not size or not noise:
        return False
    return all(
        value <= TIMES_NOISE * max(each.get(share, 0.0) for each in noise.values()) for share, value in size.items()
    )


def _findings(found: Mapping[str, Any]) -> str:
    """Say how many atoms are findings and by what rule, and whether the controls are fit to say so."""
    control = found["controls"][0] if len(found["controls"]) == 1 else "any of the controls"
    strongest = [
        each for site in found["sites"] if site["difference"] for each in site["difference"]["strongest_of_controls"]
    ]
    if not max(strongest, default=0.0):
        return (
            f"Nothing can be called a finding: {control} has nothing of its own on this text. Give --control a model "
            "that was trained in the same way."
        )
    number, listed = sum(bool(atom["finding"]) for atom in found["atoms"]), len(found["atoms"])
    rule = f"more than {FACTOR:g} times as far as anything in {control} does"
    if not number:
        said = f"Nothing stands out {rule}. On this text, all that differs is what any training changes."
    else:
        which = "1 is a finding: it stands" if number == 1 else f"{number} are findings: they stand"
        most = max(atom["times"] for atom in found["atoms"] if atom["finding"])
        said = f"Of the {listed} atoms listed {which} out {rule}, {most:.3g} times at most."
    return " ".join([said, *_unlike(found)])


def _unlike(found: Mapping[str, Any]) -> list[str]:
    """Say of controls that were not trained likewise how far they moved beside the changed model."""
    said = []
    for control, level in zip(found["controls"], found["level"], strict=True):
        if level is not None and not 1 / MOST_SCALED <= level <= MOST_SCALED:
            said.append(
                f"But at a typical token {found['changed']} moved {level:.2g} times as far as {control}: one of them "
                "was trained more, or the change is nearly everywhere, and findings say less."
            )
    return said
