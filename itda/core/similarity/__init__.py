"""Similarity of representations. What each module compares:

- of labels, two dictionaries: `overlap` (Jaccard, also adjusted for chance and weighted);
- of activations of the same tokens, two or more sites: `linear` (CKA, CCA, Procrustes: from `statistics`),
  `regression`, `relative`, `neighbours` (RBF-CKA, shared neighbours);
- of dictionaries read in another model: `transport`.

`table` lists the similarity indices, and `itda.similarity` has each as one call for two sites. The classes here take
streams, and many sites at once: one pass of `Statistics` serves all the linear ones, another over held-out tokens
`regression_r2`; `Relative` needs anchors; `rbf_cka_matrix` and `shared_neighbours_matrix` a few thousand rows. Each
gives the matrix [sites, sites] of all pairs.
"""

from itda.core.similarity.linear import LINEAR, Linear, undersampled
from itda.core.similarity.neighbours import rbf_cka_matrix, shared_neighbours_matrix
from itda.core.similarity.regression import directed_r2, regression_r2
from itda.core.similarity.relative import Relative
from itda.core.similarity.statistics import Statistics
from itda.core.similarity.table import SimilarityIndex

__all__ = [
    "LINEAR",
    "Linear",
    "Relative",
    "SimilarityIndex",
    "Statistics",
    "directed_r2",
    "rbf_cka_matrix",
    "regression_r2",
    "shared_neighbours_matrix",
    "undersampled",
]
