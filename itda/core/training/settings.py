"""The settings of a trainer, checked together before any activation comes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.checks import check_number, check_offset_tokens, check_recipe, check_refinement, check_threshold
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
"""The most activations whose groups are the atoms of recipe 2."""


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
    massive: Use | None = None
    most: int | None = None
    block_size: int | None = None
    memory: int | None = None
    grow_on: GrowOn = "auto"

    def __post_init__(self) -> None:
        check_pursuit(self.k, self.pursuit)
        check_refinement(self.passes, self.min_fidelity)
        check_recipe(self.recipe, self.min_fidelity)
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
            asked = "a number of atoms" if self.atoms is not None else "passes of refinement"
            raise SettingError(f"{asked} for a stream of unknown length: say with tokens how many will be offered")
        if self.atoms is not None and self.tokens is not None:
            check_number(self.atoms, self.tokens)

    def grows_on(self, activations: torch.device) -> torch.device:
        """Return the device that the dictionary grows on, if its activations are on this one."""
        return growth_device(activations, self.grow_on, atoms=self.atoms or self.most, d_model=self.d_model)

    @property
    def sample(self) -> int:
        """Number of first activations that turn a number of atoms into a threshold; 0 if a threshold was given."""
        return sample_of(self.tokens, self.d_model) if self.atoms is not None and self.tokens is not None else 0

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
        if self.passes == 0 or self.tokens is None:
            return 0
        # Recipe 2 reads all that are kept in each round, and has a copy of them, divided by their norms.
        tokens, copies = (self.passes * PASS_TOKENS, 1) if self.recipe == 1 else (CENTRE_TOKENS, 2)
        wanted = min(tokens, max(1, KEPT_BYTES // (4 * self.d_model * copies)))
        return math.ceil(self.tokens / wanted)

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
        return saved | recipe | ({} if self.most is None else {"most": self.most})
