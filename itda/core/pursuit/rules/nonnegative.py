"""Non-negative matching pursuit: no coefficient is below zero, so atoms add up and never take away.

Pick the atom with the largest <r, d>, as long as that is positive; a = <r, d>; r <- r - a d.
"""

from jaxtyping import Float
from torch import Tensor

from itda.core.pursuit.rules.base import PursuitRules
from itda.core.pursuit.subtraction import Projection


def signed(correlations: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Want atoms that point where the residual does: an atom that points away is worth less than none.

    >>> import torch
    >>> signed(torch.tensor([-2.0, 1.0])).tolist()
    [-2.0, 1.0]
    """
    return correlations


NONNEGATIVE = PursuitRules(score=signed, subtract=Projection)
