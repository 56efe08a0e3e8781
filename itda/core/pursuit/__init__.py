"""Pursuits: ways to find a sparse code. `rules` has a file for each; `plain.pursue` follows any, and defines the bits.

The `gram_*` files are faster ways to the same bits, by device; `encoder` chooses one.
"""

from itda.core.pursuit.by_device import Encoder, decoded, encoder
from itda.core.pursuit.plain import pursue
from itda.core.pursuit.rules import PURSUITS, Pursuit

__all__ = ["PURSUITS", "Encoder", "Pursuit", "decoded", "encoder", "pursue"]
