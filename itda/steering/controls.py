"""Controls: other atoms of the same dictionary, with which steering is to be compared.

Any vector that is long enough changes what a model says. An effect is an atom's own only where it exceeds that of
atoms drawn at random, pushed as far as the atom is, and used about as often.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Integer, Shaped

from itda.errors import SettingError

POOL = 64
"""Atoms to draw from: those most like the atom in how often they are used."""


def matched_atoms(
    uses: Integer[np.ndarray, " atoms"], atom: int, number: int, seed: int = 0, without: Collection[int] = ()
) -> list[int]:
    """Return atoms drawn among the `POOL` that are used most nearly as often as an atom, and are none of `without`.

    No atom twice; the same ones for a seed. Raises `SettingError` where there are fewer than `number` others.

    >>> sorted(matched_atoms(np.array([5, 5, 900, 6, 0]), 0, number=4))
    [1, 2, 3, 4]
    """
    return nearest_in(np.log1p(uses.astype(np.float64)), atom, number, seed, without)


def nearest_in(
    values: Shaped[np.ndarray, " atoms"], atom: int, number: int, seed: int = 0, without: Collection[int] = ()
) -> list[int]:
    """Return `number` atoms drawn among those whose value is nearest to that of an atom: see `matched_atoms`."""
    order = np.argsort(np.abs(values - values[atom]), kind="stable")
    order = order[~np.isin(order, [atom, *without])]
    if len(order) < number:
        raise SettingError(f"{number} controls of a dictionary with {len(order)} other atoms: ask for fewer")
    pool = order[: max(POOL, number)]
    drawn = np.random.default_rng([seed, atom]).permutation(len(pool))[:number]
    return [int(each) for each in pool[drawn]]
