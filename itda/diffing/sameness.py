"""Whether two models are one and the same, and whether their activations are in one basis."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from itda.sources.models.base import ActivationModel

ROWS = 512
"""Number of tokens whose embeddings are compared."""
LEAST_COSINE = 0.5
"""Median cosine of the embeddings of two models, below which their activations are taken to be in different bases."""


def basis_apart(base: ActivationModel, changed: ActivationModel) -> str | None:
    """Say in words why the activations of two models cannot be subtracted; None if they can, as after a fine-tune.

    They must be of one width and depth. And their embeddings must be alike: those of a model that was trained from
    another hardly turn, and those of two seeds have a cosine of about 0.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> lm = LanguageModel.load("tiny")
    >>> basis_apart(lm, lm) is None
    True
    """
    if base is changed:
        return None
    if base.d_model != changed.d_model:
        return f"{base.name} is {base.d_model} wide, and {changed.name} {changed.d_model}"
    if base.layers != changed.layers:
        return f"{base.name} has {base.layers} layers, and {changed.name} {changed.layers}"
    cosine = embedding_cosine(base, changed)
    if cosine is not None and cosine < LEAST_COSINE:
        return (
            f"the embeddings of {base.name} and {changed.name} are not alike (median cosine {cosine:.2f}): neither was "
            "trained from the other"
        )
    return None


def embedding_cosine(base: ActivationModel, changed: ActivationModel) -> float | None:
    """Return the median cosine of the embeddings that two models have of some tokens; None if they are not known."""
    matrices = [_embeddings(model) for model in (base, changed)]
    if any(each is None for each in matrices):
        return None
    a, b = (each for each in matrices if each is not None)
    if a.shape[1] != b.shape[1]:
        return None
    rows = torch.linspace(0, min(len(a), len(b)) - 1, ROWS).long().unique()
    pairs = [each[rows.to(each.device)].float().cpu() for each in (a, b)]
    return float(nn.functional.cosine_similarity(*pairs, dim=1).median())


def _embeddings(model: Any) -> Tensor | None:
    inner = getattr(model, "inner", model)  # a streamed model has its embeddings in memory
    module: Any = getattr(inner, "model", None)
    found = module.get_input_embeddings() if isinstance(module, transformers.PreTrainedModel) else None
    weight = getattr(found, "weight", None)
    return weight.detach() if isinstance(weight, Tensor) and weight.ndim == 2 and not weight.is_meta else None
