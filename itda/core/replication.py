"""Replication: how much of a dictionary comes back in dictionaries that were made anew from other documents.

An atom that is found again does not depend on which documents happened to be read. One that is not found again may be
an accident of them, however well it reads. No tensors here: `itda info` shows these numbers at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from itda.errors import SettingError

DRAWS = 5
"""Draws, if nobody says how many."""
COSINE = 0.8
"""Size of the cosine from which on two atoms count as one direction, if nobody says another."""
NOT_FOUND_AGAIN = 0.5
"""An atom that came back in fewer than this share of the draws is shown as one that does not replicate."""


@dataclass(frozen=True, eq=False)
class Replication:
    """How often each atom of a dictionary came back. Raises `SettingError` if the parts do not fit together.

    A draw splits the documents at random into two halves, and a dictionary is made of each half alone, with the
    settings of the whole. An atom is looked for in the one of the half that lacks the document of its label, so that
    it is never found for the reason alone that the same activation was read again.

    >>> found = Replication(
    ...     cosines=np.array([[0.9, 0.7], [0.5, 0.6]], np.float32),
    ...     kept=np.array([3, 0], np.int32),
    ...     tokens=np.array([4, 0], np.int32),
    ...     halves=np.array([[0.7, 0.5], [0.8, 0.5]], np.float32),
    ...     chance=0.25,
    ... )
    >>> found.share.tolist(), found.readout.tolist(), found.replicates.tolist()
    ([0.5, 0.0], [0.75, nan], [True, False])
    """

    cosines: Float32[np.ndarray, "atoms draws"]
    """[atoms, draws]: size of the largest cosine of an atom to one of the half without its document; 0 where that has
    no atom."""
    kept: Int32[np.ndarray, " rows"]
    """Number of `tokens` whose strongest atom in the half's dictionary is within `cosine` of this atom."""
    tokens: Int32[np.ndarray, " others"]
    """Number of sampled tokens whose strongest atom this is, times the number of draws."""
    halves: Float32[np.ndarray, "splits two"]
    """[draws, 2]: between the two halves, which share no document, the mean over atoms of the largest cosine, and the
    share of atoms for which that is at least `cosine`."""
    chance: float
    """Share of activations, drawn evenly, that have an atom within `cosine` in the half without their document: what
    atoms would have that were nothing but activations."""
    cosine: float = COSINE
    seed: int = 0

    def __post_init__(self) -> None:
        atoms, draws = self.cosines.shape
        if len(self.kept) != atoms or len(self.tokens) != atoms or self.halves.shape != (draws, 2):
            raise SettingError(f"replication of {atoms} atoms in {draws} draws: give one row per atom, and per draw")
        check_draws(draws)
        check_cosine(self.cosine)

    def __len__(self) -> int:
        return len(self.cosines)

    def __repr__(self) -> str:
        mean = f"{self.share.mean():.0%}" if len(self) else "nothing"
        return f"<Replication of {len(self):,} atoms: {mean} comes back in {self.draws} draws>"

    @property
    def draws(self) -> int:
        """Number of draws."""
        return self.cosines.shape[1]

    @property
    def share(self) -> Float64[np.ndarray, " atoms"]:
        """The replication of each atom: the share of draws, from 0 to 1, in which it came back."""
        return (self.cosines >= np.float32(self.cosine)).mean(axis=1)

    @property
    def readout(self) -> Float64[np.ndarray, " atoms"]:
        """The share of tokens whose strongest atom this is that keep it, as a direction; NaN where there are none."""
        with np.errstate(invalid="ignore"):
            return self.kept / self.tokens

    @property
    def replicates(self) -> Bool[np.ndarray, " atoms"]:
        """Mask of the atoms that came back in at least half of the draws."""
        return self.share >= NOT_FOUND_AGAIN

    def order(self) -> Int64[np.ndarray, " atoms"]:
        """Return the atoms, the most replicated first; among equals by mean cosine, then by number."""
        return np.lexsort((np.arange(len(self)), -self.cosines.mean(axis=1), -self.share))

    def summary(self) -> dict[str, Any]:
        """Return what `itda info --json` says of all atoms together: shares from 0 to 1, None where there is none."""
        share, tokens = self.share, int(self.tokens.sum())
        some = len(self) > 0
        return {
            "draws": self.draws,
            "cosine": self.cosine,
            "seed": self.seed,
            "mean": float(share.mean()) if some else None,
            "in_all": float((share == 1).mean()) if some else None,
            "in_half": float(self.replicates.mean()) if some else None,
            "in_none": float((share == 0).mean()) if some else None,
            "mean_cosine": float(self.cosines.mean(dtype=np.float64)) if some else None,
            "readout": float(self.kept.sum() / tokens) if tokens else None,
            "chance": self.chance,
            "halves": {
                "mean_cosine": float(self.halves[:, 0].mean(dtype=np.float64)),
                "within": float(self.halves[:, 1].mean(dtype=np.float64)),
            },
        }


def half_of(
    documents: Sequence[str], tokens: Int64[np.ndarray, " documents"], *, seed: int, draw: int
) -> Bool[np.ndarray, " documents"]:
    """Return a mask of the documents of the first half of a draw; the others are the second half.

    The documents are put in the order of a hash of the seed, the draw and the id, the same on every machine, and cut
    where the tokens on both sides are most nearly as many. Each half has at least one document. Raises `SettingError`
    for fewer than two.

    >>> half_of(["a", "b", "c"], np.array([5, 5, 10]), seed=0, draw=0).tolist()
    [True, False, False]
    """
    if len(documents) < 2:
        raise SettingError("the run read one document, which cannot be split: train it on more documents")
    hashes = [hashlib.sha256(f"{seed}:{draw}:{name}".encode(errors="surrogatepass")).digest() for name in documents]
    order = np.array(sorted(range(len(documents)), key=hashes.__getitem__))
    before = tokens[order].cumsum()
    cut = 1 + int(np.abs(2 * before[:-1] - before[-1]).argmin())
    first = np.zeros(len(documents), dtype=bool)
    first[order[:cut]] = True
    return first


def no_finding(replication: float | None) -> bool:
    """Return True for the replication of an atom that came back in fewer than half of the draws; False if not known.

    Such an atom may be an accident of the documents that were read, so it is marked wherever it is shown.

    >>> no_finding(0.4), no_finding(0.5), no_finding(None)
    (True, False, False)
    """
    return replication is not None and replication < NOT_FOUND_AGAIN


NO_FINDING = "came back in fewer than half of the draws: no finding"
"""What the mark of such an atom, a question mark before its number, is said to mean."""


def check_draws(draws: int) -> None:
    """Raises `SettingError` unless there is at least one draw."""
    if draws < 1:
        raise SettingError(f"--draws is {draws}: it must be at least 1")


def check_cosine(cosine: float) -> None:
    """Raises `SettingError` unless the cosine is above 0 and at most 1."""
    if not 0 < cosine <= 1:
        raise SettingError(f"--cosine is {cosine}: it must be above 0 and at most 1")
