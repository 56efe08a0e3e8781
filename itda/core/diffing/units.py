"""Unit vectors, with the bits that the growth of a dictionary gives its atoms."""

from __future__ import annotations

from jaxtyping import Float, Float32
from torch import Tensor

from itda.core.pursuit.fixed_order import fixed_dot, root


def unit_rows(rows: Float[Tensor, "batch width"]) -> Float32[Tensor, "batch width"]:
    """Return rows divided by their norms.

    >>> import torch
    >>> unit_rows(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    z = rows.double()
    return (z / root(fixed_dot(z, z))[:, None]).float()
