"""How far apart two models' predictions of the next token are."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

AT_ONCE = 2**22
"""Number of logits of each model that are looked at together."""


@torch.inference_mode()
def divergence(
    changed: Float[Tensor, "tokens vocabulary"], base: Float[Tensor, "tokens base_vocabulary"]
) -> Float32[Tensor, " tokens"]:
    """Return KL(changed || base) of the next-token distributions of some tokens, in nats, from their logits.

    Where one model has more logits than the other, as padding of its vocabulary, the first ones count that both have.

    >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]))
    tensor([0.8554])
    """
    width = min(changed.shape[1], base.shape[1])
    rows = max(1, AT_ONCE // width)
    parts = []
    for p, q in zip(changed[:, :width].split(rows), base[:, :width].split(rows), strict=True):
        log_p, log_q = p.float().log_softmax(-1), q.to(p.device).float().log_softmax(-1)
        # A token that is ruled out has a log-probability of -inf, and adds nothing.
        ratio = torch.where(log_p == -torch.inf, 0.0, log_p - log_q)
        parts.append((log_p.exp() * ratio).sum(-1, dtype=torch.float64).clamp(min=0).float())
    return torch.cat(parts) if parts else torch.zeros(0)
