"""Where the time of a streamed model goes, block by block."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class BlockTime:
    """The seconds of one block in one flight: `StreamedModel.times` has one for each."""

    layer: int
    read: float
    """Reading its weights, while the block before ran."""
    waited: float
    """Waiting for its weights, while nothing else was done; part of `read`."""
    ran: float = 0.0
    """Running it over all groups of windows."""
    used: float = 0.0
    """What was done with its activations, between groups: growth of dictionaries, as a rule."""
