"""The next tokens that a direction promotes: put through a model's final norm and unembedding."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.site import Site
from itda.errors import ModelError
from itda.sources.models.base import ActivationModel
from itda.sources.models.splicing import ResumableModel
from itda.sources.streamed.model import StreamedModel
from itda.sources.tokenizing.windows import Group, Window

ROOM = 8
"""Tokens of the window that the model runs on: enough for any tokenizer's special tokens and one more."""


@torch.inference_mode()
def direct_logits(
    model: ActivationModel, directions: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocabulary"]:
    """Return next-token logits as if the last block's output were these directions: final norm, then unembedding.

    The directions are put in the place of the last block's output in a pass of the model, so whatever a family does
    after that (norm, scaling, capping) is done; a streamed model runs no block for that. They are scaled to entries of
    size 1 in the mean square, as a norm's output has: but for its epsilon, a norm does not notice the scale. Raises
    `ModelError` for a model without logits.
    """
    group = _group(model, len(directions))
    scale = directions.shape[1] ** 0.5 / directions.norm(dim=1, keepdim=True).clamp(min=1e-30)
    wanted = (directions * scale).to(model.device)
    if isinstance(model, StreamedModel):
        return model.unembedded(group, wanted).float().cpu()
    if not isinstance(model, ResumableModel):
        raise ModelError(f"{model.name} runs elsewhere, and its unembedding is not here: load it into memory")
    logits = model.logits(group, Site(model.layers - 1), lambda _: wanted)
    return logits[group.is_activation.to(logits.device)].float().cpu()


def unembeds(model: ActivationModel) -> bool:
    """Return True if `direct_logits` takes the model."""
    if isinstance(model, StreamedModel):
        return model.is_causal and model.head and model.replayable
    return isinstance(model, ResumableModel) and model.is_causal


def _group(model: ActivationModel, rows: int) -> Group:
    """Make a group of windows of one ordinary token each."""
    bare = model.windower(ROOM)
    ordinary = next(i for i in range(len(bare.special) + 1) if i not in bare.special)
    one = Window("", "", 0, 0, np.array([ordinary]), np.zeros((1, 2), np.int64))
    return bare.group([one] * rows, rows)
