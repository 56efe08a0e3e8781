"""What the atoms of a difference promote: the next tokens that a model becomes more, and less, likely to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.sources.models.base import ActivationModel
from itda.sources.unembedding import direct_logits

SHOWN = 10
"""Tokens at each end."""
CHUNK = 32
"""Atoms whose logits are in memory at once."""


@torch.inference_mode()
def promoted(model: ActivationModel, directions: Float[Tensor, "atoms d_model"]) -> list[dict[str, Any]]:
    """Return for each direction the next tokens that it promotes and suppresses most, with its logits in JSON values.

    Each direction is put through the final norm and the unembedding, and so is its opposite; half the difference of
    the two is what the direction itself does, without what the norm and the head add to any. Logits are centred.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> found = promoted(LanguageModel.load("tiny"), torch.eye(192)[:2])
    >>> len(found), len(found[0]["promoted"]), len(found[0]["suppressed"])
    (2, 10, 10)
    """
    found = []
    for part in directions.float().split(CHUNK):
        both = direct_logits(model, torch.cat([part, -part]))
        found += [_both_ends(model, (up - down) / 2) for up, down in zip(*both.chunk(2), strict=True)]
    return found


def _both_ends(model: Any, logits: Float[Tensor, " vocabulary"]) -> dict[str, Any]:
    tokenizer = getattr(model, "inner", model).tokenizer
    known = logits[: len(tokenizer)]  # an unembedding may be padded to more rows than there are tokens
    known = known - known.mean()
    ends: Sequence[Any] = [known.topk(min(SHOWN, len(known)), largest=up) for up in (True, False)]
    return {
        name: [
            [tokenizer.decode([token]), value]
            for token, value in zip(end.indices.tolist(), end.values.tolist(), strict=True)
        ]
        for name, end in zip(("promoted", "suppressed"), ends, strict=True)
    }
