"""Layers of two networks are matched by every index where tokens are paired, and by none where they are not."""

import pytest
import torch
from core.similarity.cases import NAMES, matrix, normal, random, rotation

LAYERS, ROWS, LATENT, WIDTH = 8, 240, 6, 10


def layers(seed: int) -> list[torch.Tensor]:
    """What is latent drifts from layer to layer, alike in all networks; each network shows it in a basis of its own."""
    latent, found = normal(ROWS, LATENT, seed=100), []
    for layer in range(LAYERS):
        latent = 0.8 * latent + 0.6 * normal(ROWS, LATENT, seed=101 + layer)
        spread = latent * torch.linspace(1, 2, LATENT)
        shown = spread @ rotation(WIDTH, 10 * seed + layer)[:LATENT] * (1 + layer % 3)
        found.append(shown + 0.2 * (1 + layer % 3) * normal(ROWS, WIDTH, seed=1000 * seed + layer))
    return found


def matched(name: str, first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
    """Of each layer of the first network, the most similar layer of the second."""
    return matrix(name, first + second)[:LAYERS, LAYERS:].argmax(dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_layers_match_where_tokens_are_paired(name):
    assert matched(name, layers(1), layers(2)).tolist() == list(range(LAYERS))


@pytest.mark.parametrize("name", NAMES)
def test_matching_is_at_chance_where_tokens_are_shuffled(name):
    first, second = layers(1), layers(2)
    right = []
    for seed in range(6):
        order = torch.randperm(ROWS, generator=random(seed))
        right.append(matched(name, first, [layer[order] for layer in second]) == torch.arange(LAYERS))
    # One in eight of 48 is 6, with a deviation of 2.3 were they independent.
    assert 1 <= torch.cat(right).sum() <= 14
