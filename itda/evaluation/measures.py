"""What is measured for a dictionary that stands in for the activations at its site."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from itda.core.headroom import Headroom

Massive = Literal["clean", "splice"]
"""Says of massive activations whether they stay what they are in a splice, and in ablations, or are replaced too."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one dictionary. Cross-entropies and KL are in nats per predicted token.

    These are None for a model that does not predict the next token. `fvu`, `l0` and `unused_atoms` are of the tokens
    that are not massive (`ITDA.is_massive`).
    """

    tokens: int
    """Activations decomposed, massive ones too."""
    predicted: int
    """Tokens whose prediction was scored: those that follow an activation, be it replaced or massive."""
    fvu: float
    l0: float
    atoms: int
    unused_atoms: int
    massive_tokens: int = 0
    massive_energy: float = 0.0
    """Their share of sum ||x||^2."""
    fvu_all: float = math.nan
    """fvu of all tokens, massive ones too: where there are some, it is about them."""
    massive: Massive = "clean"
    """Whether they stayed what they are in the splice, or were replaced too."""
    ce_clean: float | None = None
    ce_spliced: float | None = None
    ce_zero: float | None = None
    ce_mean: float | None = None
    ce_loss_score: float | None = None
    kl: float | None = None
    """KL(clean || spliced)."""
    encode_per_second: float = field(default=0.0, compare=False)
    """Activations encoded per second, after the first group of windows."""
    k: int = 0
    threshold: float | None = None
    """The threshold of the dictionary."""
    full: float | None = None
    """Share of the tokens that are not massive whose code has k atoms."""
    error_median: float | None = None
    error_tenth: float | None = None
    """The median of the errors of these tokens, and the error that one in ten is above."""
    over_threshold: float | None = None
    """Share of them above the threshold."""
    headroom: Headroom | None = None
    """How the fvu of the first of them changes with longer codes, and with half of the atoms."""
    verdict: tuple[str, ...] = ()
    """The figures in words (`itda.evaluation.verdict`)."""
    documents: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95% intervals of fvu, l0, ce_loss_score and kl by bootstrap over documents; none where there is one document."""
