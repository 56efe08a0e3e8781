"""How much of a streamed model is in memory at once, and how many tokens fly together: what runs and what plans agree.

All sizes are in bytes.
"""

from collections.abc import Callable

import torch

MOST_TOKENS = 2**20
"""Tokens in flight: past some tens of thousands, reading weights takes less time than using them."""

BLOCKS_IN_USE = 2
"""One that runs, and the next, which is being read."""


def weights_in_use(block: int, outside: int) -> int:
    """Memory for weights, if the largest block takes `block` and all that is outside the blocks `outside`."""
    return BLOCKS_IN_USE * block + outside


def left_for_hidden_states(budget: int, in_use: int, device: str) -> int:
    """What hidden states may take of a budget, of which weights use some where they are in the same memory."""
    return max(0, budget - in_use) if torch.device(device).type == "cpu" else budget


def groups_in_flight(tokens: int, state: int, memory: int, on_disk: Callable[[], int] = lambda: 0) -> int:
    """Groups of so many tokens to run together, each with `state` bytes of hidden states, in memory or on a disk.

    `on_disk` says what is free there; it is asked only if memory is too small. At least 1.

    >>> groups_in_flight(1024, 2**25, 2**30), groups_in_flight(1024, 2**25, 2**40)
    (32, 1024)
    """
    most = max(1, MOST_TOKENS // tokens)
    fit = memory // state
    if fit < most:
        fit = max(fit, int(0.9 * on_disk()) // state)
    return max(1, min(most, fit))
