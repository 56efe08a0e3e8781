"""Similarity indices, one call each: how alike two sites are, or two dictionaries.

Two matrices of activations [tokens, width] of the same tokens, of any widths, NumPy or tensors, give a float:
`cka`, `cka_unbiased`, `cka_zscored`, `cca`, `svcca`, `pwcca`, `procrustes`, `regression`, `relative`,
`relative_centred`, `rbf_cka`, `rbf_cka_unbiased`, `shared_neighbours`, `shared_neighbours_overlap`. Two dictionaries,
or their labels, give `jaccard`. `table()` (also `INDICES`) lists them all, with what each is invariant to and where
it comes from. For more activations than memory holds, and many sites at once, there is `itda.core.similarity`.

>>> import itda, torch
>>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
>>> round(itda.similarity.cka(x, 3 * x.flip(1)), 6)
1.0
>>> itda.similarity.table()["jaccard"].compares
'labels'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from itda.core.similarity.table import SimilarityIndex, SimilarityTable, table

__all__ = ["SimilarityIndex", "SimilarityTable", "table"]

if TYPE_CHECKING:
    INDICES: SimilarityTable

    def __getattr__(name: str) -> Callable[..., float]: ...

else:

    def __getattr__(name: str) -> Any:
        if name == "INDICES":
            return table()
        # Python asks for names such as __path__, before anything is loaded.
        if not name.startswith("__") and name in table():
            return table()[name].function
        raise AttributeError(f"module 'itda.similarity' has no attribute {name!r}: itda.similarity.table() lists them")


def __dir__() -> list[str]:
    return sorted({*__all__, "INDICES", *table()})
