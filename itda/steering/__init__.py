"""Steering: a model that runs with atoms added to its activations, taken away, or held at a coefficient.

`itda.steer` does it; here is what goes with it: `difference_of_means` makes a vector to steer by of two lists of texts,
`proposed_atoms` finds atoms to steer by, `cost_of_removal` measures `lm.without`.

>>> import itda
>>> lm = itda.load_model("tiny")
>>> direction = itda.steering.difference_of_means(lm, 3, ["import os, sys"], ["a = b + c"])
>>> with itda.steer(lm, direction=direction, site=3, strength=2):
...     steered = lm.generate("import", max_new_tokens=2)
"""

from itda.steering.directions import difference_of_means
from itda.steering.finding import proposed_atoms
from itda.steering.removal import cost_of_removal

__all__ = ["cost_of_removal", "difference_of_means", "proposed_atoms"]
