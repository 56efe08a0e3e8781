"""Similarity of representations: classical indices, which see activations of the same tokens at two or more sites.

One pass of `Statistics` serves all the linear ones, another over held-out tokens `regression_r2`; `Relative` needs
anchors; `rbf_cka` and `shared_neighbours` a few thousand rows. Each gives the matrix [sites, sites] of all pairs.
`INDICES` says what each is, and what it is invariant to.
"""

from itda.core.similarity.index import INDICES, Index
from itda.core.similarity.linear import LINEAR, Linear, undersampled
from itda.core.similarity.neighbours import rbf_cka, shared_neighbours
from itda.core.similarity.regression import directed_r2, regression_r2
from itda.core.similarity.relative import Relative
from itda.core.similarity.statistics import Statistics

__all__ = [
    "INDICES",
    "Index",
    "LINEAR",
    "Linear",
    "Relative",
    "Statistics",
    "directed_r2",
    "rbf_cka",
    "regression_r2",
    "shared_neighbours",
    "undersampled",
]
