"""A plain TopK sparse autoencoder, for the benchmark of meaning: no package needed, and its time is processor time.

Adam, batches of 512, decoder rows of unit norm, a bias before and after, activations centred and scaled to a mean norm
of sqrt(d). It is trained once at each learning rate of `RATES`, each for the whole time, and the one that reconstructs
held-out activations better is kept: this favours the autoencoder.
"""

import time
from dataclasses import dataclass

import torch
from saelens_sae import Recipe, TrainedSae, fvu
from torch import Tensor

RATES = (1e-3, 3e-3)
BATCH = 512


@dataclass(frozen=True)
class Wanted:
    """Size, active latents, seed and processor seconds."""

    m: int
    k: int
    seed: int
    seconds: float


def trained(x: Tensor, heldout: Tensor, wanted: Wanted) -> TrainedSae:
    """The better of the learning rates."""
    return min((train(x, wanted, rate) for rate in RATES), key=lambda sae: fvu(sae, heldout))


def train(x: Tensor, wanted: Wanted, rate: float) -> TrainedSae:
    """One training."""
    started, mean = time.process_time(), x.mean(dim=0)
    z = x - mean
    scale = x.shape[1] ** 0.5 / z.norm(dim=1).mean()
    z *= scale
    generator = torch.Generator().manual_seed(wanted.seed)
    decoder = torch.nn.functional.normalize(torch.randn(wanted.m, x.shape[1], generator=generator))
    parts = decoder.T.clone(), decoder, torch.zeros(wanted.m), torch.zeros(x.shape[1])
    for part in parts:
        part.requires_grad_(True)
    adam, steps = torch.optim.Adam(parts, lr=rate), 0
    while True:
        for rows in torch.randperm(len(z), generator=generator).split(BATCH):
            _step(z[rows], parts, wanted.k, adam)
            steps += 1
            taken = time.process_time() - started
            if taken > wanted.seconds:
                return in_units(tuple(part.detach() for part in parts), mean, float(scale), wanted, rate, steps, taken)


def _step(x: Tensor, parts: tuple[Tensor, ...], k: int, adam: torch.optim.Adam) -> None:
    encoder, decoder, bias, centre = parts
    best = ((x - centre) @ encoder + bias).topk(k, dim=1)
    sparse = torch.zeros(len(x), len(bias)).scatter(1, best.indices, best.values.relu())
    loss = (x - sparse @ decoder - centre).square().sum(dim=1).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    with torch.no_grad():
        decoder /= decoder.norm(dim=1, keepdim=True)


def in_units(
    parts: tuple[Tensor, ...], mean: Tensor, scale: float, wanted: Wanted, rate: float, steps: int, seconds: float
) -> TrainedSae:
    """The autoencoder in the units of the activations."""
    encoder, decoder, bias, centre = parts
    weights = encoder * scale, bias, decoder / scale, mean + centre / scale
    costs = steps, steps * BATCH, seconds, seconds / steps
    return TrainedSae("topk", wanted.k, *weights, 0.0, Recipe(rate, BATCH), rate, *costs, None, None)
