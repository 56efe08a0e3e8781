"""What is new to a site, token by token, in variants: plain and for benchmarks. The product's is `itda fingerprint`.

The dictionary has k = 1: a token's *cosine* to an earlier one is squared, so that 1 - cos^2 is the error of the best
reconstruction of its direction from the one atom. Its *novelty* is 1 - the largest cos^2 to any earlier token, its
*nearest* is the token that has it, and its *novelty to four* is 1 - the mean of the four largest cos^2; at a *rung* t
it is an atom if 1 - cos^2 is above t for each atom before it.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch

RUNGS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Variant:
    """How novelty is taken."""

    offset: str = "mean"
    """none; mean; pcN (mean and the first N principal directions removed); half or white (whitened)."""
    signed: bool = False
    """Only atoms on the same side count: a negative cosine is taken for 0."""
    segment: int = 0
    """Tokens after which dictionaries start anew; 0: never."""
    order: int = 0
    """Seed of an order of documents; 0: their own."""


@dataclass(frozen=True, eq=False)
class Novelty:
    """Of each token of a site, in the stream's own order."""

    novelty: np.ndarray
    to_four: np.ndarray
    """Novelty to the four nearest."""
    nearest: np.ndarray
    """Row of the earlier token that is nearest; -1 for the first of a segment."""
    atoms: np.ndarray
    """[rung, token]: is it an atom?"""


def novelty_of(x: torch.Tensor, variant: Variant, document: np.ndarray) -> Novelty:
    """Take it of [tokens, d_model]."""
    order = ordered(document, variant.order)
    rows = x[torch.from_numpy(order)]
    novelty, to_four = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    nearest = np.empty(len(x), np.int64)
    atoms = np.empty((len(RUNGS), len(x)), bool)
    size = variant.segment or len(x)
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        squares = squared_cosines(rows[part], variant)
        place = order[part]
        largest, at = _nearest(squares)
        novelty[place], to_four[place] = 1 - largest[:, 0], 1 - largest.mean(1)
        nearest[place] = np.where(at < 0, -1, place[at])
        for rung, found in zip(RUNGS, atoms, strict=True):
            found[place] = _atoms(squares, 1 - rung)
    return Novelty(novelty, to_four, nearest, atoms)


def ordered(document: np.ndarray, seed: int) -> np.ndarray:
    """Rows of the stream with documents in an order of their own; each document's tokens stay as they are."""
    if seed == 0:
        return np.arange(len(document))
    drawn = np.random.default_rng(seed).permutation(document.max() + 1)
    return np.argsort(drawn[document], kind="stable")


def squared_cosines(x: torch.Tensor, variant: Variant) -> np.ndarray:
    """cos^2 of all pairs of rows, after the offset."""
    units = torch.nn.functional.normalize(shifted(x.double(), variant.offset), dim=1).float()
    cosines = (units @ units.T).numpy()
    if variant.signed:
        np.maximum(cosines, 0, out=cosines)
    return np.multiply(cosines, cosines, out=cosines)


def shifted(x: torch.Tensor, offset: str) -> torch.Tensor:
    """Activations with what is common to all tokens taken away, more or less of it."""
    if offset == "none":
        return x
    x = x - x.mean(0)
    if offset == "mean":
        return x
    values, directions = torch.linalg.eigh(x.T @ x / len(x))
    if offset.startswith("pc"):
        first = directions[:, -int(offset[2:]) :]
        return x - (x @ first) @ first.T
    # The least directions of a covariance are noise: their variance is lifted to a ten thousandth of the largest.
    return (x @ directions) * values.clamp_min(values.max() * 1e-4) ** -{"half": 0.25, "white": 0.5}[offset]


@numba.njit(cache=True)
def _nearest(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four largest cos^2 [row, 4] to earlier rows, 0 where there are fewer, and the row of the largest."""
    number = len(squares)
    largest, at = np.zeros((number, 4), np.float32), np.full(number, -1, np.int64)
    for row in range(number):
        own = largest[row]
        for column in range(row):
            value = squares[row, column]
            if value <= own[3]:
                continue
            place = 3
            while place > 0 and own[place - 1] < value:
                own[place] = own[place - 1]
                place -= 1
            own[place] = value
            if place == 0:
                at[row] = column
    return largest, at


@numba.njit(cache=True)
def _atoms(squares: np.ndarray, limit: float) -> np.ndarray:
    number, count = len(squares), 0
    atoms, found = np.empty(number, np.int64), np.zeros(number, np.bool_)
    for row in range(number):
        new = True
        for place in range(count):
            if squares[row, atoms[place]] >= limit:
                new = False
                break
        if new:
            atoms[count] = row
            count += 1
            found[row] = True
    return found
