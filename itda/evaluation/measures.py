"""The figures of an evaluation of one dictionary."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from itda.core.headroom import Headroom

Massive = Literal["clean", "splice"]
"""How massive activations are treated in splices and ablations: "clean" keeps them, "splice" replaces them too."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one dictionary. Cross-entropies and KL are in nats per predicted token.

    Cross-entropies, `ce_loss_score` and `kl` are None for a model that does not predict the next token. `fvu`, `l0` and
    `unused_atoms` are of the tokens that are not massive (`ITDA.is_massive`).
    """

    tokens: int
    """Number of activations decomposed, massive ones included."""
    predicted: int
    """Number of tokens whose prediction was scored: those that follow an activation, be it replaced or massive."""
    fvu: float
    """Fraction of variance unexplained, from 0 (all is explained)."""
    l0: float
    """Atoms in a code, the mean over tokens."""
    atoms: int
    """Number of atoms of the dictionary."""
    unused_atoms: int
    """Number of atoms that no token uses."""
    massive_tokens: int = 0
    """Number of massive activations."""
    massive_energy: float = 0.0
    """Share of the energy, sum ||x||^2 over all activations x, that massive activations have."""
    fvu_all: float = math.nan
    """fvu of all tokens, massive ones included: where there are some, they decide it."""
    massive: Massive = "clean"
    """How massive activations were treated in the splice: see `Massive`."""
    ce_clean: float | None = None
    """Cross-entropy of the model itself."""
    ce_spliced: float | None = None
    """Cross-entropy with reconstructions in the place of activations."""
    ce_zero: float | None = None
    """Cross-entropy with zeros in the place of activations."""
    ce_mean: float | None = None
    """Cross-entropy with the mean activation in the place of activations."""
    ce_loss_score: float | None = None
    """(ce_zero - ce_spliced) / (ce_zero - ce_clean): 1 is perfect, 0 as bad as zeros."""
    kl: float | None = None
    """KL(clean || spliced) of next-token distributions, the mean over predictions."""
    encode_per_second: float = field(default=0.0, compare=False)
    """Activations encoded per second, after the first group of windows."""
    k: int = 0
    """Atoms in a code, at most."""
    threshold: float | None = None
    """The threshold of the dictionary (`ITDA.threshold`), if it has one."""
    full: float | None = None
    """Share of the tokens that are not massive whose code has all k atoms."""
    error_median: float | None = None
    """Median error of the tokens that are not massive."""
    error_tenth: float | None = None
    """The error that one in ten of the tokens that are not massive is above."""
    over_threshold: float | None = None
    """Share of the tokens that are not massive whose error is above the threshold."""
    headroom: Headroom | None = None
    """Changes of fvu with longer codes and with half of the atoms, on the first tokens that are not massive."""
    verdict: tuple[str, ...] = ()
    """Sentences on the figures (`itda.evaluation.verdict`)."""
    documents: int = 0
    """Number of documents that the tokens are from."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95% intervals of fvu, l0, ce_loss_score and kl by bootstrap over documents; empty if there is one document."""
