"""The headroom of a dictionary: its error on a sample with codes twice as long, and with half of its atoms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64

from itda.core.dictionary import ITDA, UNKNOWN
from itda.core.metrics import energies

SAMPLE_TOKENS = 2048
"""Activations in the sample. Trying both on them takes about as long as encoding 6,000 others."""


@dataclass(frozen=True)
class Headroom:
    """fvu of a sample of activations, in the dictionary as it is and with either change."""

    tokens: int
    fvu: float
    fvu_double_k: float | None
    """fvu with codes of up to 2 k atoms; None where the dictionary has no more than k."""
    fvu_half_atoms: float | None
    """fvu with the first half of the atoms alone; None where that is less than k."""


@torch.no_grad()
def headroom(
    dictionary: ITDA, sample: Float[torch.Tensor, "tokens d_model"], mean: Float64[torch.Tensor, " d_model"]
) -> Headroom | None:
    """Measure the headroom on a sample, with variance about `mean`; return None if there is no variance."""
    x = sample.double()
    variance = math.fsum(energies(x - mean.to(x)).tolist())
    if not variance > 0:
        return None

    def fvu(tried: ITDA) -> float:
        return math.fsum(energies(x - tried.decode(tried.encode(sample)).to(x)).tolist()) / variance

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
    parts = UNKNOWN | {
        "fidelity": cut(dictionary.fidelity),
        "novelty": cut(dictionary.novelty),
    }
    return replace(dictionary, atoms=atoms, labels=dictionary.labels[:number], **parts)
