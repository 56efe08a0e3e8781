"""What atoms do to the next token: effects of adding and of ablating each atom, beside controls.

No tensors here: `itda info` shows these numbers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from itda.core.exceeding import either, exceeding
from itda.errors import SettingError

MEASURES = ("added_continuation", "added_promoted", "ablated_continuation", "ablated_promoted")
"""What is done to an atom, and the tokens on which its effect is measured."""
LEVEL = 0.05
"""The p up to which an effect exceeds that of its controls."""
CONTEXTS, STRENGTH, SAMPLE, LEAST_USES = 50, 4.0, 20_000, 100
"""Contexts of an atom, typical coefficients that are added, tokens to draw contexts from, and the uses in that sample
from which on an atom counts as used often, if nobody says others."""


@dataclass(frozen=True)
class EffectSettings:
    """How effects are measured. Raises `SettingError` for numbers out of range."""

    contexts: int = CONTEXTS
    """Texts in which each atom is added, and tokens at which it is ablated, at most."""
    strength: float = STRENGTH
    """How much is added, in typical coefficients of the dictionary."""
    tokens: int = SAMPLE
    """Tokens of the sample that contexts are drawn from."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.contexts < 5:
            raise SettingError(f"--contexts is {self.contexts}: it must be at least 5")
        if self.tokens < 100:
            raise SettingError(f"--tokens is {self.tokens}: it must be at least 100")
        if self.seed < 0:
            raise SettingError(f"--seed is {self.seed}: give a number from 0")
        if not 0 < self.strength < float("inf"):
            raise SettingError(f"--strength is {self.strength}: it must be above 0, and finite")


@dataclass(frozen=True, eq=False)
class TargetEffects:
    """What one change does to the log-probability of each atom's own tokens, in nats; NaN where it is not known."""

    effect: Float32[np.ndarray, " atoms"]
    """The mean change over contexts."""
    control: Float32[np.ndarray, " atoms"]
    """The mean change of the same tokens, in the same contexts, by the atom's controls."""
    low: Float32[np.ndarray, " atoms"]
    high: Float32[np.ndarray, " atoms"]
    """The 95% interval of `effect` less `control`, by bootstrap over contexts."""
    p: Float32[np.ndarray, " atoms"]
    """The share of the atom and its controls that move the tokens at least as far as the atom does."""


FIELDS = ("effect", "control", "low", "high", "p")


@dataclass(frozen=True, eq=False)
class AtomEffects:
    """The effects of all atoms of a dictionary. Raises `SettingError` if the parts do not fit together.

    >>> column = np.zeros(2, np.float32)
    >>> same = {name: TargetEffects(*[column] * 5) for name in MEASURES}
    >>> uses = np.array([5, 200], np.int32)
    >>> found = AtomEffects(same, uses, uses, uses, ("a", None), (("b",), ()), {"level": 0.05})
    >>> found.share("added_promoted"), found.exceeds("added_promoted").tolist()
    (1.0, [True, True])
    """

    measures: Mapping[str, TargetEffects]
    """By the names of `MEASURES`."""
    uses: Int32[np.ndarray, " atoms"]
    """How often each atom is used in the sample that contexts were drawn from."""
    added: Int32[np.ndarray, " atoms"]
    ablated: Int32[np.ndarray, " atoms"]
    """In how many contexts each atom was added, and ablated."""
    continuation: tuple[str | None, ...]
    """The token that follows the atom's own in its label; None where there is none."""
    promoted: tuple[tuple[str, ...], ...]
    """The tokens that the atom's direction favours, put through the final norm and the unembedding."""
    about: Mapping[str, Any]
    """Settings, and the shares of false positives: strength, push, contexts, sample, seed, controls, level,
    false_positives."""

    def __post_init__(self) -> None:
        lengths = {len(self.added), len(self.ablated), len(self.continuation), len(self.promoted)}
        lengths |= {len(getattr(each, name)) for each in self.measures.values() for name in FIELDS}
        if lengths != {len(self.uses)} or set(self.measures) != set(MEASURES):
            raise SettingError(f"effects of {len(self.uses)} atoms: give {', '.join(MEASURES)}, one row per atom")

    def __len__(self) -> int:
        return len(self.uses)

    def __repr__(self) -> str:
        shares = (f"{self.share(name):.0%} {name.replace('_', ' ')}" for name in MEASURES)
        return f"<Effects of {len(self):,} atoms beyond those of controls: {', '.join(shares)}>"

    def exceeds(self, measure: str) -> Bool[np.ndarray, " atoms"]:
        """Return True for the atoms whose effect exceeds that of their controls, at `LEVEL`."""
        return self.measures[measure].p <= LEVEL

    def share(self, measure: str, least_uses: int = 0) -> float:
        """Return the share of the atoms with so many uses whose effect exceeds their controls', NaN if none is known.

        `measure` may also be `added` or `ablated`: an effect on either of the two targets, at half of `LEVEL` each.
        """
        return exceeding(self.p(measure), LEVEL, self.uses >= least_uses)

    def p(self, measure: str) -> np.ndarray:
        """Return the p of each atom by one measure; of `added` and `ablated`, that of either target."""
        if measure in self.measures:
            return self.measures[measure].p
        return either(*(self.measures[f"{measure}_{target}"].p for target in ("continuation", "promoted")))

    def summary(self, least_uses: int = LEAST_USES) -> dict[str, Any]:
        """Return what `itda info --json` says of all atoms together; None where nothing is known."""
        often = self.uses >= least_uses
        shares = {
            name: {
                "tested": int((~np.isnan(self.p(name)) & often).sum()),
                "beyond_control": _number(self.share(name, least_uses)),
                "false_positives": _number(self.about.get("false_positives", {}).get(name)),
                **self._middle(name, often),
            }
            for name in ("added", "ablated", *MEASURES)
        }
        made = {name: value for name, value in self.about.items() if name != "false_positives"}
        return {**made, "least_uses": least_uses, "used_often": int(often.sum()), "measures": shares}

    def _middle(self, name: str, often: np.ndarray) -> dict[str, float | None]:
        if name not in self.measures:
            return {}
        found = self.measures[name]
        parts = {"median_effect": found.effect, "median_control": found.control}
        parts["median_difference"] = found.effect - found.control
        return {
            key: _number(float(np.median(known))) if len(known := values[often & ~np.isnan(values)]) else None
            for key, values in parts.items()
        }

    def values(self, atom: int) -> dict[str, Any]:
        """Return what is known of one atom, as JSON values."""
        rows = {
            name: {field: _number(float(getattr(each, field)[atom])) for field in FIELDS}
            | {"beyond_control": bool(self.exceeds(name)[atom])}
            for name, each in self.measures.items()
        }
        return {
            "strength": self.about.get("strength"),
            "uses": int(self.uses[atom]),
            "contexts": {"added": int(self.added[atom]), "ablated": int(self.ablated[atom])},
            "continuation": self.continuation[atom],
            "promoted": list(self.promoted[atom]),
            "measures": rows,
        }


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 6)
