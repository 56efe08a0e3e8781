"""What the indices are given: activations of the same tokens, one tensor per site."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.errors import ActivationError, SettingError

ROUNDING = 1e-12
"""A distance from the mean, as a share of the mean's length, that is rounding: float32 cannot differ by so little."""


def names_of(names: Sequence[str] | None, number: int) -> tuple[str, ...]:
    """The sites' names for messages: as given, or by number. Raises `SettingError` if their number is another, or 0.

    >>> names_of(None, 2)
    ('site 0', 'site 1')
    """
    if number == 0:
        raise SettingError("there is no site: give at least one")
    if names is None:
        return tuple(f"site {i}" for i in range(number))
    if len(names) != number:
        raise SettingError(f"{len(names)} names for {number} sites: give one name per site")
    return tuple(names)


def checked_rows(parts: Sequence[Float[Tensor, "batch _"]], widths: Sequence[int], names: Sequence[str]) -> int:
    """The number of rows, which all the sites share.

    Raises `ActivationError` naming the site whose width or number of rows is wrong, or which has a non-finite row.
    """
    if len(parts) != len(widths):
        raise ActivationError(f"activations of {len(parts)} sites instead of {len(widths)}: give every site each time")
    for part, width, name in zip(parts, widths, names, strict=True):
        if part.shape[1] != width:
            raise ActivationError(f"{name} has width {part.shape[1]} instead of {width}: give the sites in their order")
        if len(part) != len(parts[0]):
            raise ActivationError(
                f"{name} has {len(part)} rows, and {names[0]} {len(parts[0])}: give the same tokens at every site"
            )
        finite = part.isfinite().all(dim=1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ActivationError(f"{name} has a NaN or an infinity in row {row}: leave that token out of every site")
    return len(parts[0]) if parts else 0


def checked_variance(variance: float, mean: Float64[Tensor, " width"], name: str) -> float:
    """The variance summed over dimensions. Raises `ActivationError` naming the site where it is none."""
    if variance <= ROUNDING**2 * mean.square().sum().item():
        raise ActivationError(f"{name} is the same at every token: leave that site out")
    return variance


def unit_rows(rows: Float64[Tensor, "batch width"], name: str, least: float = 0.0) -> Float64[Tensor, "batch width"]:
    """Rows divided by their norms. Raises `ActivationError` naming the site where one is not above `least`."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not (norms > least).all():
        row = int((norms[:, 0] <= least).nonzero()[0])
        raise ActivationError(
            f"{name} has no direction in row {row}, zero or the mean: leave that token out of every site"
        )
    return rows / norms
