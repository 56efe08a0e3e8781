"""Activations as users hand them in: what is taken, and what is refused with one line that says what to do.

Taken are tensors and NumPy arrays of float16, bfloat16, float32 and float64: on any device, contiguous or not, with or
without a gradient, read-only, in either byte order. Refused are integers, booleans, complex numbers, lists, sparse
tensors and masked arrays. Every function that users give activations to begins with `tensor_of` or `rows_of`, so the
rules are the same everywhere.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from itda.errors import ActivationError

Activations = Shaped[Tensor, "*batch d_model"] | Shaped[np.ndarray, "*batch d_model"]
"""A tensor, or an array, which is copied into one. Its dtype is checked by `tensor_of`."""

Rows = Shaped[Tensor, "batch d_model"] | Shaped[np.ndarray, "batch d_model"]
"""Activations with exactly two axes, [batch, d_model]."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def tensor_of(activations: Any, name: str = "activations") -> Tensor:
    """Take activations of any shape: a tensor as it is, without its gradient; of an array, a copy.

    `name` is what the errors call them. Raises `ActivationError` for what holds no floating-point numbers.

    >>> import numpy as np
    >>> tensor_of(np.ones(2, dtype=np.float32))
    tensor([1., 1.])
    """
    if isinstance(activations, Tensor):
        if activations.layout != torch.strided:
            raise ActivationError(f"{name} are a sparse tensor: give it dense, as x.to_dense()")
        if activations.dtype in FLOATS:
            return activations.detach() if activations.requires_grad else activations
    elif isinstance(activations, np.ma.MaskedArray):
        raise ActivationError(f"{name} are a masked array: leave the masked rows out, and give its .data")
    elif isinstance(activations, np.ndarray) and activations.dtype.kind == "f" and activations.dtype.itemsize <= 8:
        # Torch knows neither the other byte order nor negative strides.
        return torch.from_numpy(np.array(activations, dtype=activations.dtype.newbyteorder("="), order="C"))
    kind = type(activations).__name__
    if isinstance(activations, Tensor | np.ndarray):
        kind += f" of {str(activations.dtype).removeprefix('torch.')}"
    raise ActivationError(f"{name} are a {kind}: give a tensor, or an array of floating-point numbers, as x.float()")


def rows_of(activations: Any, name: str = "activations") -> Shaped[Tensor, "rows width"]:
    """Take activations [rows, width], as `tensor_of`. Raises `ActivationError` for another number of axes.

    >>> rows_of(torch.ones(4, 3)).shape
    torch.Size([4, 3])
    """
    rows = tensor_of(activations, name)
    if rows.ndim != 2:
        raise ActivationError(
            f"{name} are of shape {list(rows.shape)}: give [rows, width], as x.reshape(-1, x.shape[-1])"
        )
    return rows


def check_finite(activations: Shaped[Tensor, "*batch d_model"], name: str = "activation") -> None:
    """Refuse activations with a NaN or an infinity. Raises `ActivationError` naming the first such row.

    >>> check_finite(torch.tensor([[1.0], [float("nan")]]))
    Traceback (most recent call last):
    itda.errors.ActivationError: activation 1 is not finite: leave it out, or run the model in float32
    """
    finite = torch.isfinite(activations).all(dim=-1).flatten()
    if not bool(finite.all()):
        row = int(finite.logical_not().nonzero()[0])
        raise ActivationError(f"{name} {row} is not finite: leave it out, or run the model in float32")
