"""Windows that become equal once their activations are replaced: one is run, and its hidden states serve for all."""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

REPEATED_BYTES = 2**27
"""Memory in bytes for the hidden states of such windows, for each replacement."""

FEW, ONE_IN = 2, 8
"""A window is repeated if no more than FEW, and one in ONE_IN, of its hidden states differ from the one before."""


class Repeats:
    """Windows that were run: the hidden states [tokens, d_model] before the blocks, and those after them.

    As no token sees a later one, a window that is the beginning of another has the hidden states of that one.

    >>> repeats = Repeats()
    >>> repeats.keep(torch.ones(3, 2), torch.zeros(3, 2))
    >>> repeats.find(torch.ones(2, 2)) is None, repeats.find(torch.zeros(2, 2)) is None
    (False, True)
    """

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, list[tuple[Tensor, Tensor]]] = OrderedDict()
        self._bytes = 0

    def find(self, begins: Float[Tensor, "some d_model"]) -> Float[Tensor, "tokens d_model"] | None:
        """Return the last hidden states of a kept window that begins with these hidden states, or None."""
        for hidden, after in self._held.get(_first(begins), ()):
            if torch.equal(hidden[: len(begins)], begins):
                return after
        return None

    def keep(self, hidden: Float[Tensor, "tokens d_model"], after: Float[Tensor, "tokens d_model"]) -> None:
        """Keep a window; if memory is short, the oldest ones are dropped."""
        self._held.setdefault(_first(hidden), []).append((hidden, after))
        self._bytes += hidden.nbytes + after.nbytes
        while self._bytes > REPEATED_BYTES and len(self._held) > 1:
            self._bytes -= sum(hidden.nbytes + after.nbytes for hidden, after in self._held.popitem(last=False)[1])


def _first(hidden: Tensor) -> bytes:
    return hidden[0].contiguous().view(torch.uint8).cpu().numpy().tobytes()


def needed(predicts: Bool[Tensor, "windows tokens"]) -> Int64[Tensor, " windows"]:
    """Return how many of each window's first hidden states its predictions need.

    >>> needed(torch.tensor([[True, False, True, False], [False, False, False, False]])).tolist()
    [3, 0]
    """
    return (predicts * torch.arange(1, predicts.shape[1] + 1, device=predicts.device)).amax(dim=1)


def are_repeated(hidden: Float[Tensor, "windows tokens d_model"], length: Int64[Tensor, " windows"]) -> bool:
    """Return True if in each window nearly all of the first `length` hidden states equal the one before them.

    >>> are_repeated(torch.ones(1, 9, 2), torch.tensor([9])), are_repeated(torch.rand(1, 9, 2), torch.tensor([9]))
    (True, False)
    """
    changes = (hidden[:, 1:] != hidden[:, :-1]).any(dim=2)
    inside = torch.arange(1, hidden.shape[1], device=hidden.device) < length[:, None]
    return bool(((changes & inside).sum(dim=1) <= FEW + length // ONE_IN).all())
