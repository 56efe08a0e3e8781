"""Vectors to steer by that are no atoms."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float32
from torch import Tensor

from itda.core.massive import limit_of, massive, median_norm
from itda.core.site import Site
from itda.errors import SettingError
from itda.sources.models.base import ActivationModel
from itda.steering.steering import steerable
from itda.steering.units import activations_of


def difference_of_means(
    model: ActivationModel, site: Site | str | int, texts: Iterable[str], others: Iterable[str]
) -> Float32[Tensor, " d_model"]:
    """Return the mean activation of some texts less that of others, at a site: a vector to steer by (CAA, 2312.06681).

    Its length means something: strength 1 moves an activation as far as the means are apart. Special tokens and massive
    activations do not count. Raises `SettingError` for texts without a token, `ModelError` for a site that the model
    has not.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> direction = itda.steering.difference_of_means(lm, 3, ["import os"], ["def f(x):"])
    >>> direction.shape
    torch.Size([192])
    """
    lm, where = steerable(model), Site.of(site)
    both = []
    for number, each in enumerate((texts, others)):
        x = torch.cat([x.float().cpu() for x in activations_of(lm, where, each)] or [torch.zeros(0, lm.d_model)])
        if not len(x):
            raise SettingError(f"the {('first', 'second')[number]} texts have no token: give some words")
        both.append(x)
    limit = limit_of(median_norm(torch.cat(both)))
    means = [x[~massive(x, limit)].double().mean(dim=0) for x in both]
    return (means[0] - means[1]).float()
