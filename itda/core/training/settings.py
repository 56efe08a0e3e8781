"""The settings of a trainer, checked together before any activation comes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.checks import (
    check_number,
    check_offset_tokens,
    check_recipe,
    check_refinement,
    check_steps,
    check_threshold,
)
from itda.core.dictionary import check_offset, check_pursuit
from itda.core.massive import FIRST_TOKENS, Use
from itda.core.pursuit import Pursuit
from itda.core.training.growth import GrowOn, check_grow_on, growth_device
from itda.core.training.refine import PASS_TOKENS
from itda.core.training.schedule import sample_of
from itda.errors import SettingError

KEPT_BYTES = 2**31
"""Most bytes that the activations kept for refinement may take."""

CENTRE_TOKENS = 160_000
"""The most activations whose groups are the atoms of recipe 2, unless there are many atoms."""

PER_ATOM, LEAST_PER_ATOM = 20, 8
"""Activations for each atom of recipe 2, where there are many; and at least, whatever memory they take."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainerSettings:
    """The settings of a trainer: those that decide the dictionary, and those of cost. Raises `SettingError`.

    `itda.Trainer` explains each.

    >>> settings = TrainerSettings(d_model=64, k=8, atoms=500, tokens=40_000, passes=2)
    >>> settings.wait, settings.stride
    (20000, 1)
    """

    d_model: int
    k: int
    threshold: float | None = None
    atoms: int | None = None
    tokens: int | None = None
    pursuit: Pursuit = "mp"
    offset: Float[Tensor, " width"] | None = None
    offset_tokens: int = 0
    passes: int = 0
    min_fidelity: float = 0.0
    recipe: int = 1
    steps: int | None = None
    massive: Use | None = None
    most: int | None = None
    block_size: int | None = None
    memory: int | None = None
    grow_on: GrowOn = "auto"

    def __post_init__(self) -> None:
        check_pursuit(self.k, self.pursuit)
        check_refinement(self.passes, self.min_fidelity)
        check_recipe(self.recipe, self.passes, self.min_fidelity, self.massive)
        check_steps(self.steps, self.recipe)
        if (self.threshold is None) == (self.atoms is None):
            raise SettingError("give a threshold or a number of atoms, one of the two")
        if self.threshold is not None:
            check_threshold(self.threshold)
        for name in ("d_model", "tokens", "atoms", "most", "block_size", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name} is {value}: it must be at least 1")
        check_grow_on(self.grow_on)
        check_offset_tokens(self.offset_tokens)
        check_offset(self.offset, self.d_model)
        if self.offset is not None and self.offset_tokens:
            raise SettingError("an offset and offset_tokens: give one of the two")
        if self.massive not in ("skip", "atoms", None):
            raise SettingError(f"massive is {self.massive!r}: it must be skip, atoms, or None for no rule")
        if self.tokens is None and (self.atoms is not None or self.passes):
            asked = "a number of atoms needs" if self.atoms is not None else "passes of refinement need"
            raise SettingError(f"{asked} the number of activations that will be offered: give tokens")
        if self.atoms is not None and self.tokens is not None:
            check_number(self.atoms, self.tokens)

    @property
    def grows(self) -> bool:
        """True if a dictionary grows; with a number of atoms, recipe 2 has no use for one."""
        return self.recipe == 1 or self.atoms is None

    def grows_on(self, activations: torch.device) -> torch.device:
        """Return the device that the dictionary grows on, if its activations are on this one."""
        return growth_device(activations, self.grow_on, atoms=self.atoms or self.most, d_model=self.d_model)

    @property
    def sample(self) -> int:
        """Number of first activations that turn a number of atoms into a threshold; 0 if a threshold was given."""
        if self.atoms is None or self.tokens is None or not self.grows:
            return 0
        return sample_of(self.tokens, self.d_model)

    @property
    def limit_tokens(self) -> int:
        """Number of first activations that decide which norms are massive; 0 if no rule was asked for."""
        return FIRST_TOKENS if self.massive is not None else 0

    @property
    def wait(self) -> int:
        """Number of activations that have to come before the first is gone through."""
        wait = max(self.offset_tokens, self.sample, self.limit_tokens, 1)
        return wait if self.tokens is None else min(self.tokens, wait)

    @property
    def stride(self) -> int:
        """One activation in this many is kept for refinement; 0 if none is."""
        return stride_of(self.tokens, self.d_model, atoms=self.atoms, recipe=self.recipe, passes=self.passes)

    @property
    def most_kept(self) -> int:
        """Number of activations of the stream that are kept for refinement."""
        return math.ceil(self.tokens / self.stride) if self.stride and self.tokens is not None else 0

    def saved(self) -> dict[str, Any]:
        """Return, as JSON values for a training state, all settings that decide the dictionary but the offset."""
        names = ("d_model", "tokens", "k", "threshold", "atoms", "pursuit", "offset_tokens", "passes", "min_fidelity")
        saved = {name: getattr(self, name) for name in (*names, "massive")}
        # Left out where they are not used, so that the files are those of earlier versions.
        recipe = {} if self.recipe == 1 else {"recipe": self.recipe}
        recipe |= {} if self.steps is None else {"steps": self.steps}
        return saved | recipe | ({} if self.most is None else {"most": self.most})


def stride_of(tokens: int | None, d_model: int, *, atoms: int | None, recipe: int, passes: int) -> int:
    """Return one in how many activations is kept of a stream of so many tokens, for what is made in the end of it.

    Recipe 1 keeps as many as its passes read, but no more than `KEPT_BYTES` of them as float32. Recipe 2 keeps
    `CENTRE_TOKENS`, or `PER_ATOM` for each atom if these are more, and no more bytes either; but `LEAST_PER_ATOM` in
    any case. Returns 0 if none is kept.

    >>> [stride_of(1_000_000, d_model, atoms=8 * d_model, recipe=2, passes=12) for d_model in (576, 4096)]
    [7, 4]
    """
    if passes == 0 or tokens is None:
        return 0
    wanted, most = passes * PASS_TOKENS, max(1, KEPT_BYTES // (4 * d_model))
    if recipe == 2:
        wanted, most = max(CENTRE_TOKENS, PER_ATOM * (atoms or 0)), max(most, LEAST_PER_ATOM * (atoms or 0))
    return math.ceil(tokens / min(wanted, most))
