"""All methods of the benchmark of diffing by name: the baselines, and ours.

To add one: write a function that takes readings and a set of layers and returns a `Found`, and name it in `OURS`. It
may look at `Readings.control`, and must not look at `Readings.planted`. Findings beyond the fourth do not count. One
that is within the noise by the method's own account says so with `called=False`: null pairs count those called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from diffing_baselines import BASELINES, Found
from diffing_ours import METHODS, SETS
from diffing_readings import LAYERS, Readings

Layers = tuple[int, ...]


@dataclass(frozen=True)
class Method:
    """A method of diffing, and the layers that it looks at: a row of the results for each set."""

    run: Callable[[Readings, Layers], Found]
    layer_sets: Sequence[Layers]


SINGLE: Sequence[Layers] = tuple((layer,) for layer in LAYERS)
LAST: Sequence[Layers] = ((LAYERS[-1],),)

OURS = {name: Method(run, SETS) for name, run in METHODS.items()}
"""Methods of itda, by name."""


def methods(sae_seconds: float) -> dict[str, Method]:
    """Return all methods by name."""
    found = {}
    for name, baseline in BASELINES.items():
        call = partial(baseline, seconds=sae_seconds) if name == "sae" else baseline
        # KL is of no layer: only what its directions promote is.
        found[name] = Method(partial(_at_one, call), LAST if name.startswith("kl") else SINGLE)
    return found | OURS


def _at_one(call: Callable[[Readings, int], Found], readings: Readings, layers: Layers) -> Found:
    (layer,) = layers
    return call(readings, layer)
