"""Do the atoms of two dictionaries from disjoint documents match, and do activations as they come?

    python benchmarks/replication.py a.pt b.pt --atoms 2048

Each file holds, under names such as x10 and x20, activations [tokens, d_model] of one layer, as `torch.save` writes a
dict; the two files are of documents that they do not share. Of each a dictionary is made, greedy and refined. Beside
them stands chance: as many activations, spread evenly, of the first file for its atoms, and of both files for both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import BEST
from torch import Tensor

import itda
from itda import ActivationBatch, Labels, Trainer
from itda.core.massive import norms
from itda.core.matching import largest_cosines

MOST_MEDIANS = 5.0
"""Activations of a norm above this many medians are left out."""


def ordinary(x: Tensor) -> Tensor:
    """Return activations without those of the largest norms."""
    norm = norms(x)
    return x[norm <= MOST_MEDIANS * norm.median()]


def dictionary_of(x: Tensor, atoms: int, k: int) -> itda.ITDA:
    """Make a dictionary with the settings that mode best had on 2026-11-27: greedy, then refined."""
    trainer = Trainer(x.shape[1], tokens=len(x), k=k, atoms=atoms, **BEST, passes=8, min_fidelity=0.9)
    trainer.offer(ActivationBatch(x, Labels.of_rows(len(x))))
    return trainer.finish()


def directions(x: Tensor, offset: Tensor, number: int) -> Tensor:
    """Return the unit vectors of so many activations, spread evenly, after the offset."""
    z = x[torch.arange(number) * len(x) // number].double() - offset.double()
    return z / z.norm(dim=1, keepdim=True)


def shares(a: Tensor, b: Tensor) -> str:
    """Return the mean of the largest |cosine| of each row of `a` to one of `b`, and the shares above .8 and .9."""
    found = largest_cosines(a, b.float())[0]
    return f"{found.mean():.3f}  {(found >= 0.8).double().mean():6.1%}  {(found >= 0.9).double().mean():6.1%}"


def main() -> None:
    """Print a table for each layer that both files have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs=2)
    parser.add_argument("--names", default="x10,x20")
    parser.add_argument("--atoms", type=int, default=2048)
    parser.add_argument("--k", type=int, default=20)
    given = parser.parse_args()
    a, b = (torch.load(file, weights_only=True) for file in given.files)
    for name in given.names.split(","):
        started = time.monotonic()
        x, y = ordinary(a[name].float()), ordinary(b[name].float())
        first, second = dictionary_of(x, given.atoms, given.k), dictionary_of(y, given.atoms, given.k)
        assert first.offset is not None
        assert second.offset is not None
        random = directions(x, first.offset, given.atoms), directions(y, second.offset, given.atoms)
        print(f"{name}: {len(x):,} and {len(y):,} tokens, {given.atoms:,} atoms, k {given.k}: mean, above .8, above .9")
        print(f"  atoms of the first in the second        {shares(first.atoms, second.atoms)}")
        print(f"  atoms of the second in the first        {shares(second.atoms, first.atoms)}")
        print(f"  activations of the first in the second  {shares(random[0], second.atoms)}")
        print(f"  activations of both                     {shares(random[0], random[1])}")
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
