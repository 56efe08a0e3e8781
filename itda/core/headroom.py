"""What a dictionary would gain: its error with codes twice as long, and with half of its atoms, on some tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64

from itda.core.dictionary import ITDA

SAMPLE_TOKENS = 2048
"""Activations on which both are tried: they take about as long to encode as 6,000 others."""


@dataclass(frozen=True)
class Headroom:
    """fvu of one sample of activations, in the dictionary as it is and otherwise."""

    tokens: int
    fvu: float
    fvu_double_k: float | None
    """With codes of up to twice as many atoms; None where the dictionary has no more than k."""
    fvu_half_atoms: float | None
    """With the first half of the atoms alone; None where that is less than k."""


@torch.no_grad()
def headroom(
    dictionary: ITDA, sample: Float[torch.Tensor, "tokens d_model"], mean: Float64[torch.Tensor, " d_model"]
) -> Headroom | None:
    """Try a dictionary on a sample, `mean` being what variance is about; None if there is no variance."""
    exact = sample.double()
    variance = (exact - mean.to(exact)).square().sum().item()
    if not variance > 0:
        return None

    def fvu(tried: ITDA) -> float:
        return (exact - tried.decode(tried.encode(sample)).to(exact)).square().sum().item() / variance

    half = len(dictionary) // 2
    return Headroom(
        tokens=len(sample),
        fvu=fvu(dictionary),
        fvu_double_k=fvu(replace(dictionary, k=2 * dictionary.k)) if len(dictionary) > dictionary.k else None,
        fvu_half_atoms=fvu(_first(dictionary, half)) if half >= dictionary.k else None,
    )


def _first(dictionary: ITDA, number: int) -> ITDA:
    def cut(values: torch.Tensor | None) -> torch.Tensor | None:
        return values[:number].clone() if values is not None else None

    atoms = dictionary.atoms[:number].clone()
    parts = {"fidelity": cut(dictionary.fidelity), "novelty": cut(dictionary.novelty)}
    return replace(dictionary, atoms=atoms, labels=dictionary.labels[:number], **parts)
