"""The rules of a pursuit, as a value: which atom each step picks, what it subtracts, and what happens at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from itda.core.pursuit.subtraction import Subtraction

Score = Callable[[Tensor], Tensor]
"""A function from correlations <r, d>, of any shape, to scores of that shape: how much each atom is wanted."""


@dataclass(frozen=True)
class PursuitRules:
    """The rules of one pursuit; `plain.pursue` follows any, and faster ways follow those they know.

    Residual r = z. Repeat k times: pick the atom with the largest `score(<r, d>)`, and let `subtract` say which
    coefficients the picked atoms have now, and what r is. A row ends where the best score is no longer above
    `plain.RESOLUTION` ||z||. At the end, if `refit`, the coefficients become those of least squares.

    Values with the same rules are equal, whatever name the table has for them.

    >>> from itda.core.pursuit.rules.mp import MP
    >>> MP.refit, MP == PursuitRules(score=magnitude, subtract=MP.subtract)
    (False, True)
    """

    score: Score
    """The score, entry by entry. |score(a) - score(b)| <= |a - b|: rounding errors of products do not grow."""
    subtract: Callable[[Tensor, Tensor, int], Subtraction]
    """Makes a `Subtraction` from targets [batch, d_model], atoms and k; as a rule its class."""
    refit: bool = False


def magnitude(correlations: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Want atoms that are most correlated with the residual, with either sign.

    >>> import torch
    >>> magnitude(torch.tensor([-2.0, 1.0])).tolist()
    [2.0, 1.0]
    """
    return correlations.abs()
