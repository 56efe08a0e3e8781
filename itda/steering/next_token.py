"""How steering changes the next token: the tokens it promotes and suppresses most, and how much changes in all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from itda.core.metrics import kl_divergence


@dataclass(frozen=True)
class TokenChange:
    """The probability of one next token, before and after."""

    token: str
    before: float
    after: float


@dataclass(frozen=True)
class NextToken:
    """The change of a model's prediction of one token."""

    kl: float
    """KL(before || after), in nats."""
    promoted: tuple[TokenChange, ...]
    """The tokens that gain most probability, the most first."""
    suppressed: tuple[TokenChange, ...]
    """The tokens that lose most probability, the most first."""

    @staticmethod
    def between(
        before: Float[Tensor, " vocabulary"],
        after: Float[Tensor, " vocabulary"],
        show: Callable[[int], str],
        top: int = 5,
    ) -> NextToken:
        """Compare the logits of two predictions; `show` returns a token's text, and `top` limits both lists.

        >>> import torch
        >>> logits = torch.tensor([1.0, 0.0, 0.0])
        >>> found = NextToken.between(logits, logits.flip(0), "abc".__getitem__)
        >>> found.promoted[0].token, found.suppressed[0].token, round(found.kl, 4)
        ('c', 'a', 0.3642)
        """
        p, q = before.double().softmax(dim=0), after.double().softmax(dim=0)
        change = q - p

        def ends(values: Tensor) -> tuple[TokenChange, ...]:
            found = values.topk(min(top, len(values)))
            pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
            return tuple(TokenChange(show(i), p[i].item(), q[i].item()) for i, value in pairs if value > 0)

        return NextToken(kl_of(before, after), ends(change), ends(-change))


def kl_of(before: Float[Tensor, " vocabulary"], after: Float[Tensor, " vocabulary"]) -> float:
    """Return KL(before || after) of the next token's distributions, in nats; 0 for the same bits.

    >>> import torch
    >>> kl_of(torch.zeros(3), torch.zeros(3))
    0.0
    """
    return max(0.0, kl_divergence(before[None], after[None]).item())
