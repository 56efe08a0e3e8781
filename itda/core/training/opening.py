"""How training opens: the offset, the limit of massive activations and the threshold, from the first activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from itda.core.dictionary import target_of
from itda.core.massive import Tally, massive, median_norm
from itda.core.training.schedule import Schedule, calibrated
from itda.core.training.settings import TrainerSettings

PART = 1024
"""Rows whose float64 copy is in memory at once."""


@dataclass(frozen=True, eq=False)
class Opening:
    """The offset, the threshold and the rules that the pass over the stream begins with."""

    tally: Tally | None
    """Counts massive activations above the limit found; None if there is no such rule."""
    offset: Float32[Tensor, " width"] | None
    schedule: Schedule | None
    """Moves the threshold on the way; None if a threshold was given, or nothing grows."""
    threshold: float | None
    """None if nothing grows."""


def opening_of(first: Float[Tensor, "tokens d_model"], settings: TrainerSettings, *, ended: bool) -> Opening:
    """Find the opening of a pass; `first` are the first `settings.wait` activations, fewer if the stream `ended`.

    Raises `SettingError`.
    """
    tally, ordinary = None, torch.ones(len(first), dtype=torch.bool, device=first.device)
    if settings.massive is not None:
        tally = Tally(median_norm(first[: settings.limit_tokens]))
        ordinary = ~massive(first, tally.limit)
    offset = _offset(first[: settings.offset_tokens][ordinary[: settings.offset_tokens]], settings)
    if settings.threshold is not None or not settings.grows:
        return Opening(tally, offset, None, settings.threshold)
    schedule = _schedule(first, ordinary, offset, settings, ended=ended)
    return Opening(tally, offset, schedule, schedule.threshold)


def _offset(begun: Float[Tensor, "tokens d_model"], settings: TrainerSettings) -> Float32[Tensor, " width"] | None:
    """Return the given offset, or the mean of the first activations, massive ones left out."""
    if settings.offset is not None:
        return settings.offset.float()
    if len(begun) == 0:
        return None
    return (sum_of_rows(begun) / len(begun)).float()


def sum_of_rows(rows: Float[Tensor, "tokens d_model"]) -> Float64[Tensor, " d_model"]:
    """Return the sum of some rows in float64, one added after the other: the same bits wherever they are.

    >>> sum_of_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [4.0, 6.0]
    """
    if rows.device.type == "cpu":
        return rows.double().cumsum(dim=0)[-1]  # a GPU's adds in another order
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    for part in rows.split(PART):
        for row in part.double():
            total += row
    return total


def _schedule(
    first: Float[Tensor, "tokens d_model"],
    ordinary: Bool[Tensor, " tokens"],
    offset: Float32[Tensor, " width"] | None,
    settings: TrainerSettings,
    *,
    ended: bool,
) -> Schedule:
    assert settings.atoms is not None
    assert settings.tokens is not None
    sample = target_of(first[: settings.sample][ordinary[: settings.sample]], settings.d_model, offset)
    tokens = max(1, len(first)) if ended else settings.tokens
    atoms = min(settings.atoms, tokens)
    if settings.massive == "skip" and len(first):  # of those that are gone through
        tokens = max(atoms, round(tokens * int(ordinary.sum()) / len(first)))
    sample = sample.to(settings.grows_on(sample.device))
    k, pursuit, memory = settings.k, settings.pursuit, settings.memory
    return calibrated(sample, atoms=atoms, tokens=tokens, k=k, pursuit=pursuit, memory=memory)
