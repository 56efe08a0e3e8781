"""Checks of what the indices are given: activations of the same tokens, one tensor per site."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from itda.core.intake import rows_of
from itda.errors import ActivationError, SettingError

ROUNDING = 1e-12
"""A distance from the mean, as a share of the mean's length, that is rounding: float32 cannot differ by so little."""


PAIR = ("x", "y")
"""The names, in errors, of two sites that are given to one call."""


def pair_of(x: Any, y: Any) -> list[Float[Tensor, "tokens _"]]:
    """Two matrices [tokens, width] of the same tokens, as tensors on one device.

    Raises `ActivationError` for what is no matrix of finite numbers, and for different or no tokens.

    >>> [site.shape for site in pair_of(torch.ones(5, 2), torch.ones(5, 3))]
    [torch.Size([5, 2]), torch.Size([5, 3])]
    """
    sites = [rows_of(x, "x"), rows_of(y, "y")]
    checked_rows(sites, [site.shape[1] for site in sites], PAIR)
    if len(sites[0]) == 0:
        raise ActivationError("x and y have no rows: give the activations of some tokens")
    # Contiguous, so that the layout in memory decides no last bit.
    return [site.to(sites[0].device).contiguous() for site in sites]


def leading(rows: int, chosen: Sequence[int] | None, most: int, what: str) -> Int64[np.ndarray, " chosen"]:
    """Row numbers that are chosen, or without a choice the first third of them, at most `most`.

    Raises `SettingError` for rows that are not there, and where none would be left.

    >>> leading(9, None, 1000, "anchors").tolist()
    [0, 1, 2]
    """
    if chosen is None:
        return np.arange(min(rows // 3, most))
    numbers = np.unique(np.asarray(chosen))
    if numbers.dtype.kind not in "iu" or not ((numbers >= 0) & (numbers < rows)).all() or len(numbers) >= rows:
        raise SettingError(
            f"{what} are not some of {rows} rows: give row numbers from 0 to {rows - 1}, and leave some out"
        )
    return numbers.astype(np.int64)


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
    """Return the number of rows, which all the sites share.

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
    """Return a site's variance, summed over dimensions. Raises `ActivationError` naming the site where it is none."""
    if variance <= ROUNDING**2 * mean.square().sum().item():
        raise ActivationError(f"{name} is the same at every token: leave that site out")
    return variance


def unit_rows(rows: Float64[Tensor, "batch width"], name: str, least: float = 0.0) -> Float64[Tensor, "batch width"]:
    """Divide rows by their norms. Raises `ActivationError` naming the site where one is not above `least`."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not (norms > least).all():
        row = int((norms[:, 0] <= least).nonzero()[0])
        raise ActivationError(
            f"{name} has no direction in row {row}, zero or the mean: leave that token out of every site"
        )
    return rows / norms
