"""The table of similarity indices: each is one function with a line that says what it is.

An index is added in one file: write the function in a module of this package, new or old, and put `@similarity_index`
above it. `table()` imports every module of the package and collects what is marked so; nothing is registered elsewhere.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal, TypeVar, get_args

Change = Literal["rotation", "scale", "translation", "linear"]
CHANGES: tuple[Change, ...] = get_args(Change)
"""Changes of the activations of a site: any orthogonal map, reflections too; a positive factor; a vector added to all;
any invertible linear map."""

Needs = Literal["statistics", "held-out statistics", "anchors", "rows", "labels"]
"""The input of an index: covariances alone (`Statistics`), also those of other, held-out tokens, the
activations of anchor tokens beside the tokens (`Relative`), rows given whole, or the labels of dictionaries."""

KORNBLITH = "Kornblith et al. 2019, Similarity of neural network representations revisited"
SONG = "Song et al. 2012, Feature selection via dependence maximization"

Function = TypeVar("Function", bound=Callable[..., float])


@dataclass(frozen=True)
class SimilarityIndex:
    """A similarity index: how alike two sites are by the activations of the same tokens, or two dictionaries by labels.

    It is 1 for what is entirely alike.

    >>> SimilarityIndex("same", max, "labels", "none", ()).compares
    'labels'
    """

    name: str
    function: Callable[..., float]
    """The function that computes the index from two matrices [tokens, width], or from two dictionaries."""
    needs: Needs
    reference: str
    invariances: tuple[Change, ...]
    """Changes of a site's activations that leave the index as it is."""
    lowest: float = 0.0
    """The lowest value that the index can have."""
    symmetric: bool = True
    """True if the order of the two makes no difference; an index with two directions takes the mean of both."""

    @property
    def compares(self) -> Literal["activations", "labels"]:
        """The kind of input that the function is given two of."""
        return "labels" if self.needs == "labels" else "activations"


class SimilarityTable(dict[str, SimilarityIndex]):
    """The similarity indices by name; a prompt shows them as a table."""

    def __repr__(self) -> str:
        rows = [("index", "compares", "invariant to", "reference")]
        for name, index in self.items():
            rows.append((name, index.compares, ", ".join(index.invariances) or "-", index.reference.split(",")[0]))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows)
        return "\n".join(lines)


def similarity_index(
    needs: Needs, reference: str, invariances: Sequence[Change] = (), *, lowest: float = 0.0, symmetric: bool = True
) -> Callable[[Function], Function]:
    """Mark a function as a similarity index of its own name, which `table()` then finds."""

    def marked(function: Function) -> Function:
        name: str = function.__name__
        index = SimilarityIndex(name, function, needs, reference, tuple(invariances), lowest, symmetric)
        setattr(function, MARK, index)
        return function

    return marked


MARK = "__similarity_index__"


@cache
def table() -> SimilarityTable:
    """All similarity indices by name: those marked in any module of `itda.core.similarity`.

    >>> table()["cka"].invariances
    ('rotation', 'scale', 'translation')
    """
    package = __name__.rpartition(".")[0]
    found = SimilarityTable()
    for module in sorted(each.name for each in pkgutil.iter_modules(import_module(package).__path__, f"{package}.")):
        for function in list(vars(import_module(module)).values()):
            index = getattr(function, MARK, None)
            if isinstance(index, SimilarityIndex) and function.__module__ == module:
                assert index.name not in found, f"two similarity indices are called {index.name}"
                found[index.name] = index
    return found
