"""The memory of a streamed model, and the number of tokens that are in flight with it.

Runs and plans both use these functions, so that they agree. All sizes are in bytes.
"""

from collections.abc import Callable

import torch

MOST_TOKENS = 2**20
"""Tokens in flight, at most: from some tens of thousands on, reading weights takes less time than using them."""

BLOCKS_IN_USE = 2
"""Blocks whose weights are in memory: one that runs, and the next, which is being read."""


def weights_in_use(block: int, outside: int, read_ahead: bool = True) -> int:
    """Return the memory for weights, if the largest block takes `block`, and all outside the blocks `outside`.

    Without `read_ahead` one block is in memory at a time.
    """
    return (BLOCKS_IN_USE if read_ahead else 1) * block + outside


def left_for_hidden_states(budget: int, in_use: int, device: str) -> int:
    """Return the bytes of a budget that are left for hidden states; on a CPU, weights in use take some of it."""
    return max(0, budget - in_use) if torch.device(device).type == "cpu" else budget


def groups_in_flight(tokens: int, state: int, memory: int, on_disk: Callable[[], int] = lambda: 0) -> int:
    """Return how many groups of so many tokens run together, each with `state` bytes of hidden states; at least 1.

    They are in memory, or else on a disk: `on_disk` returns its free bytes, and is called only if memory is too small.

    >>> groups_in_flight(1024, 2**25, 2**30), groups_in_flight(1024, 2**25, 2**40)
    (32, 1024)
    """
    most = max(1, MOST_TOKENS // tokens)
    fit = memory // state
    if fit < most:
        fit = max(fit, int(0.9 * on_disk()) // state)
    return max(1, min(most, fit))
