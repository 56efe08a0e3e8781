"""The memory that growth takes beside a model, in bytes: what decides whether it can run on the model's GPU.

Runs and plans both count by these functions, so that they agree.
"""

MOST_ROWS = 4096
"""Most activations that growth encodes together on a GPU."""

LEAST_ROWS = 256
"""Activations that growth encodes together even if they take more than `WORKING_BYTES`."""

WORKING_BYTES = 2**29
"""Most bytes of a block's residuals and correlations."""

COPIES = 2
"""How often a block's numbers are there at the same time, at most: the block, and what is computed from it."""


def dictionary_bytes(atoms: int, d_model: int) -> int:
    """Return the bytes of a dictionary's atoms in float32, and of their Gram matrix in 16 bits.

    >>> dictionary_bytes(16_000, 4_096)
    774144000
    """
    return 4 * atoms * d_model + 2 * atoms**2


def rows_of_a_block(atoms: int, d_model: int) -> int:
    """Return the most activations that growth encodes together on a GPU.

    >>> rows_of_a_block(16_000, 768), rows_of_a_block(16_000, 16_384)
    (4096, 2737)
    """
    return min(MOST_ROWS, max(LEAST_ROWS, WORKING_BYTES // (8 * d_model + 4 * (atoms + LEAST_ROWS))))


def block_bytes(atoms: int, d_model: int) -> int:
    """Return the bytes that growth works with: a block's residuals in float64, and its correlations in float32.

    The correlations are those with the dictionary, and those of the block with itself.

    >>> block_bytes(16_000, 4_096)
    926941184
    """
    rows = rows_of_a_block(atoms, d_model)
    return COPIES * rows * (8 * d_model + 4 * (atoms + rows))


def growth_bytes(atoms: int, d_model: int, sites: int = 1) -> int:
    """Return the bytes of the dictionaries of so many sites, and of one block: sites take turns.

    >>> growth_bytes(16_000, 4_096, sites=2) == 2 * dictionary_bytes(16_000, 4_096) + block_bytes(16_000, 4_096)
    True
    """
    return sites * dictionary_bytes(atoms, d_model) + block_bytes(atoms, d_model)
