"""Fingerprints by loops in float64, one token after the other: the oracle of `itda.core.similarity.fingerprint`."""

import math

import numpy as np
import torch

from itda.core.massive import norms
from itda.core.pursuit.fixed_order import fixed_dot
from itda.core.similarity.fingerprint import LEFT_OUT, PARTS, STEPS, FingerprintSettings


def slow_fingerprint(x: torch.Tensor, settings: FingerprintSettings) -> tuple[list[int], list[int]]:
    """Return novelty and bits of all tokens of a stream."""
    novelty, bits = [], []
    for start in range(0, len(x), settings.segment):
        found = slow_segment(x[start : start + settings.segment].double(), settings)
        novelty += found[0]
        bits += found[1]
    return novelty, bits


def slow_segment(x: torch.Tensor, settings: FingerprintSettings) -> tuple[list[int], list[int]]:
    taken, units = slow_units(x, settings)
    atoms: list[list[int]] = [[] for _ in settings.rungs]
    novelty, bits = [], []
    for i in range(len(x)):
        if not taken[i]:
            novelty.append(LEFT_OUT)
            bits.append(0)
        elif not units[i].any():
            novelty.append(0)
            bits.append(0)
        else:
            wide = units[: i + 1].double()
            cosines = fixed_dot(wide, wide[i].expand(wide.shape)).tolist()
            novelty.append(math.floor(slow_novelty(cosines[:i]) * STEPS + 0.5))
            new = [
                slow_novelty([cosines[j] for j in some]) > rung
                for rung, some in zip(settings.rungs, atoms, strict=True)
            ]
            for some, wanted in zip(atoms, new, strict=True):
                if wanted:
                    some.append(i)
            bits.append(sum(2**r for r, wanted in enumerate(new) if wanted))
    return novelty, bits


def slow_novelty(cosines: list[float]) -> float:
    """Return the share of the energy that the nearest of some rows leaves over."""
    return max(0.0, 1 - max((cosine * cosine for cosine in cosines), default=0.0))


def slow_units(x: torch.Tensor, settings: FingerprintSettings) -> tuple[list[bool], torch.Tensor]:
    """Return who is not massive, and the unit rows, with zeros for those who are and those who have no direction."""
    length = norms(x).tolist()
    middle = sorted(length)[(len(length) - 1) // 2]
    taken = [each <= 10 * middle or middle == 0 or not settings.massive for each in length]
    sums = [torch.zeros(x.shape[1], dtype=torch.float64) for _ in range(PARTS)]
    for i in range(len(x)):
        if taken[i]:
            sums[i % PARTS] += x[i]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [a + b for a, b in zip(sums[:half], sums[half:], strict=True)]
    mean = sums[0] / max(1, sum(taken)) if settings.centred else torch.zeros(x.shape[1])
    units = torch.zeros(x.shape, dtype=torch.float32)
    for i in range(len(x)):
        z = x[i] - mean
        norm = np.sqrt(fixed_dot(z, z).item())
        if taken[i] and norm > 0:
            units[i] = (z / norm).float()
    return taken, units
