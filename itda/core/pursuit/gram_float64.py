"""A pursuit in few atoms: correlations and their Gram matrix in float64, so that no product with all atoms is repeated.

Its bits depend on the row alone, as `plain`'s do. They are not `plain`'s: c <- c - a G[j] rounds otherwise than <r, d>.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from itda.core.pursuit.fixed_order import fixed_dot, fixed_sum, root
from itda.core.pursuit.plain import RESOLUTION
from itda.core.pursuit.rules import Pursuit, rules_of
from itda.core.pursuit.subtraction import Projection


def gram_of(atoms: Float64[Tensor, "atoms d_model"]) -> Float64[Tensor, "atoms atoms"]:
    """Return <d_i, d_j> for all pairs, each summed in a fixed order.

    >>> gram_of(torch.eye(2).double()).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return fixed_sum(atoms[:, None, :] * atoms)


def picks(
    z: Float64[Tensor, "batch d_model"],
    atoms: Float64[Tensor, "atoms d_model"],
    gram: Float64[Tensor, "atoms atoms"],
    k: int,
    pursuit: Pursuit,
) -> tuple[Int64[Tensor, "batch k"], Float64[Tensor, "batch k"]]:
    """Return the atom and the coefficient of each of k steps; coefficients are 0 from where no atom is worth picking.

    For pursuits that subtract projections and do not refit. `gram` is `gram_of(atoms)`.

    >>> atoms = torch.eye(2).double()
    >>> picks(torch.tensor([[-4.0, 3.0]]).double(), atoms, gram_of(atoms), 2, "nn_mp")[1].tolist()
    [[3.0, 0.0]]
    """
    rules = rules_of(pursuit)
    assert rules.subtract is Projection
    assert not rules.refit
    correlation = fixed_sum(z[:, None, :] * atoms)  # batch atoms
    least, places = RESOLUTION * root(fixed_dot(z, z)), torch.arange(len(atoms), device=z.device)
    found, coefficients = [], []
    for _ in range(k):
        score = rules.score(correlation)
        best = score.amax(dim=1, keepdim=True)
        pick = torch.where(score == best, places, len(atoms)).amin(dim=1)  # the lowest of equals
        value = torch.where(best[:, 0] > least, correlation.gather(1, pick[:, None])[:, 0], 0.0)
        found.append(pick)
        coefficients.append(value)
        correlation -= value[:, None] * gram[pick]
    return torch.stack(found, dim=1), torch.stack(coefficients, dim=1)
