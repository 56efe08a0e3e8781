"""What each similarity index is, and which changes of a site it does not see."""

from dataclasses import dataclass
from typing import Literal

Source = Literal["statistics", "held-out statistics", "anchors", "rows"]


@dataclass(frozen=True)
class Index:
    """A similarity of two sites from activations of the same tokens, and what it is invariant to.

    `source` says what it is computed from: `Statistics` alone (by `Linear`), also those of other, held-out tokens
    (`regression_r2`), the activations of anchor tokens beside the tokens (`Relative`), or rows given whole (`rbf_cka`,
    `shared_neighbours`).
    """

    name: str
    citation: str
    source: Source
    rotation: bool
    """Any orthogonal map of a site's activations, reflections too."""
    scale: bool
    """A positive factor on all of a site's activations."""
    translation: bool
    """A vector added to all of a site's activations."""
    linear: bool
    """Any invertible linear map of a site's activations."""
    symmetric: bool
    """The same from either site."""


def _index(
    name: str, citation: str, source: Source, *, rotation: bool = True, translation: bool = True, linear: bool = False
) -> Index:
    """All of these are blind to scale and symmetric, those with two directions as the mean of both."""
    return Index(name, citation, source, rotation, True, translation, linear, True)


KORNBLITH = "Kornblith et al. 2019, Similarity of neural network representations revisited"
SONG = "Song et al. 2012, Feature selection via dependence maximization"
MOSCHELLA = "Moschella et al. 2022, Relative representations enable zero-shot latent space communication"

INDICES: dict[str, Index] = {
    index.name: index
    for index in (
        _index("cka", KORNBLITH, "statistics"),
        _index("cka_unbiased", f"{SONG}; {KORNBLITH}", "statistics"),
        _index("cka_zscored", f"{KORNBLITH}, of features divided by their deviations", "statistics", rotation=False),
        _index("svcca", "Raghu et al. 2017, SVCCA", "statistics"),
        _index("cca", "Hotelling 1936, Relations between two sets of variates", "statistics", linear=True),
        # The weights are sums of absolute values over features, so they depend on the basis.
        _index("pwcca", "Morcos et al. 2018, Insights on representational similarity", "statistics", rotation=False),
        _index("procrustes", "Ding et al. 2021, Grounding representation similarity", "statistics"),
        _index("regression", f"{KORNBLITH}, on held-out tokens", "held-out statistics"),
        _index("relative", MOSCHELLA, "anchors", translation=False),
        _index("relative_centred", f"{MOSCHELLA}, of activations from their mean", "anchors"),
        _index("rbf_cka", KORNBLITH, "rows"),
        _index("rbf_cka_unbiased", f"{SONG}; {KORNBLITH}", "rows"),
        _index("neighbours", "Klabunde et al. 2024, ReSi: Jaccard index of nearest neighbours by cosine", "rows"),
        _index("neighbours_overlap", "Huh et al. 2024, The platonic representation hypothesis", "rows"),
    )
}
"""The indices by name."""
