"""The report of a diff: one list of atoms over all sites, and a verdict in words, from what `itda diff` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itda.diffing.verdict import verdict

SHOWN = 24
"""Atoms of the list, at most."""


def summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report shows of a diff, as JSON values; `values` are those of `itda.store.diffs.Diff`.

    - what was compared: `base`, `changed`, `controls`, `corpus`, `tokens`, `documents`, `kl`, `control_kl`, ...;
    - `unchanged`: True if nothing differs at any site; `verdict`: sentences, the most important first;
    - `by`: what the list is ranked by, "kl" (nats per token) or "energy"; None without a shared basis;
    - `atoms`: those of all sites in one ranking, each with `rank`, `site`, `finding`: True, False, or None where no
      control was given, and `times`: how many times as much it has beyond the controls as their strongest atom. Of
      those that are shown by tokens of one document, the first alone is listed, or the first finding;
    - `level`: for each control, how many times as far the changed model moved as it at a typical token;
    - `sites`: each with its `noise`, by what is different, beside what the diff keeps of it, but for its atoms.
    """
    kl = values.get("kl")
    found: dict[str, Any] = {
        **{name: values[name] for name in ("same", "why_no_shared_basis", "tokens", "documents", "roles")},
        "base": short_name(values["base"]["name"]),
        "changed": short_name(values["changed"]["name"]),
        "controls": [short_name(each["name"]) for each in values["controls"]],
        "corpus": short_name(values["corpus"]),
        "first_left_out": values["first_tokens_left_out"],
        "massive": max((site["massive"]["left_out"] for site in values["sites"].values()), default=0),
        "kl": kl["mean"] if kl is not None else None,
        "control_kl": kl["controls"] if kl is not None else [],
        "level": _levels(kl),
        "unchanged": all(site["unchanged"] for site in values["sites"].values()),
        "by": _ranked_by(values),
        "atoms": listed_atoms(values),
        "sites": [_site(name, values) for name in values["sites"]],
    }
    return {**found, "verdict": verdict(found)}


def listed_atoms(values: Mapping[str, Any], most: int = SHOWN) -> list[dict[str, Any]]:
    """Return the atoms of all sites in one ranking: by effect, or by energy where predictions are not compared."""
    score = "energy" if _ranked_by(values) == "energy" else "effect"
    atoms = [
        {**atom, "site": name, "share": _share(atom["effect"], site["difference"]["total_kl"])}
        for name, site in values["sites"].items()
        for atom in (site["difference"] or {"atoms": []})["atoms"]
    ]
    known = bool(values["controls"]) and score == "effect"
    chosen: dict[str, dict[str, Any]] = {}
    for atom in sorted(atoms, key=lambda atom: (-atom["finding"] if known else 0, -(atom[score] or 0))):
        if atom[score]:
            chosen.setdefault(atom["document"], atom)
    listed = sorted(list(chosen.values())[:most], key=lambda atom: -atom[score])
    strongest = strongest_of_controls(values)
    return [
        {
            **atom,
            "rank": rank,
            "finding": atom["finding"] if known else None,
            "times": atom["beyond"] / strongest if known and strongest else None,
        }
        for rank, atom in enumerate(listed, 1)
    ]


def strongest_of_controls(values: Mapping[str, Any]) -> float:
    """Return the most that an atom of any control has beyond, at all sites of a diff; 0 without controls."""
    sites = [site["difference"] for site in values["sites"].values() if site["difference"] is not None]
    return max((each for site in sites for each in site["strongest_of_controls"]), default=0.0)


def _levels(kl: Mapping[str, Any] | None) -> list[float | None]:
    if kl is None or kl["quantiles"] is None:
        return []
    own = kl["quantiles"]["0.5"]
    return [own / each if each else None for each in kl["control_medians"]]


def _ranked_by(values: Mapping[str, Any]) -> str | None:
    kinds = [site["difference"]["ranked_by"] for site in values["sites"].values() if site["difference"] is not None]
    return kinds[0] if kinds else None


def _share(effect: float | None, total: float | None) -> float | None:
    return effect / total if effect is not None and total else None


def _site(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    site, noise = values["sites"][name], values.get("noise") or {}
    difference = site["difference"]
    without = {key: value for key, value in difference.items() if key != "atoms"} if difference is not None else None
    sites = {kind: found["sites"].get(name) for kind, found in noise.items()}
    return {**site, "site": name, "difference": without, "noise": {k: v for k, v in sites.items() if v is not None}}


def short_name(name: str) -> str:
    """Return the last part of a path, and any other name as it is.

    >>> short_name("/models/tuned"), short_name("user/name")
    ('tuned', 'user/name')
    """
    return Path(name).name if Path(name).is_absolute() else name
