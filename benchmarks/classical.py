"""The classical indices of `itda.core.similarity` between all sites at once: a matrix [site, site] by name."""

import numpy as np
import torch

from itda.core.similarity import Linear, Relative, Statistics, rbf_cka_matrix, regression_r2, shared_neighbours_matrix

ANCHORS, DRAWS, SUBSAMPLE = 300, 5, 2000
TITLES = {
    "cka": "linear CKA",
    "cka_unbiased": "linear CKA, unbiased",
    "cka_zscored": "linear CKA of z-scored features",
    "svcca": "SVCCA (99% of the variance)",
    "cca": "mean CCA",
    "pwcca": "PWCCA",
    "procrustes": "orthogonal Procrustes",
    "regression": "linear regression, held-out R^2",
    "relative": "relative representations",
    "relative_centred": "relative representations, centred",
    "rbf_cka": "RBF CKA (2,000 tokens)",
    "neighbours": "mutual nearest neighbours (2,000 tokens)",
    "norms": "control: correlation of token norms",
}
"""Of the matrices by name, in tables."""


def classical_matrices(parts: list[torch.Tensor], documents: np.ndarray) -> dict[str, np.ndarray]:
    """Every index of `itda.core.similarity` for sites [tokens, d_model], on the same tokens: those that fit or draw
    anchors do so among them. `documents` has the number of each token's document."""
    widths, tokens = [x.shape[1] for x in parts], parts[0].shape[0]
    found = {}
    whole, fit, held_out = Statistics(widths), Statistics(widths), Statistics(widths)
    half = torch.from_numpy(halves(documents))
    for rows in torch.arange(tokens).split(1024):
        whole.add([x[rows] for x in parts])
        fit.add([x[rows[half[rows]]] for x in parts])
        held_out.add([x[rows[~half[rows]]] for x in parts])
    linear = Linear(whole)
    for name in ("cka", "cka_unbiased", "cka_zscored", "svcca", "cca", "pwcca", "procrustes"):
        found[name] = linear.matrix(name).numpy()
    found["regression"] = regression_r2(Linear(fit), held_out).numpy()
    means = [whole.mean(i) for i in range(len(parts))]
    for name, own in (("relative", None), ("relative_centred", means)):
        draws = []
        for draw in range(DRAWS):
            order = torch.randperm(tokens, generator=torch.Generator().manual_seed(draw))
            anchors, rest = order[: min(ANCHORS, tokens // 4)], order[min(ANCHORS, tokens // 4) :]
            relative = Relative([x[anchors] for x in parts], means=own)
            for rows in rest.split(1024):
                relative.add([x[rows] for x in parts])
            draws.append(relative.matrix().numpy())
        found[name] = np.mean(draws, axis=0)
    sample = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))[:SUBSAMPLE]
    found["rbf_cka"] = rbf_cka_matrix([x[sample] for x in parts]).numpy()
    found["neighbours"] = shared_neighbours_matrix([x[sample] for x in parts]).numpy()
    norms = torch.stack([x.norm(dim=1) for x in parts]).double()
    found["norms"] = np.corrcoef(norms.numpy())
    return found


def halves(documents: np.ndarray) -> np.ndarray:
    """A mask of about half of the tokens: every other document, or every other 64 tokens where documents are few."""
    number = np.unique(documents, return_inverse=True)[1]
    return (number if number.max() >= 3 else np.arange(len(documents)) // 64) % 2 == 0
