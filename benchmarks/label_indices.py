"""Indices of how alike sites are, from their labels and novelty: a matrix [site, site] each, higher for more alike."""

from collections.abc import Sequence

import numpy as np
from novelty import RUNGS, Novelty

LADDER = (0.05, 0.1, 0.15, 0.2, 0.3)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def jaccard(atoms: np.ndarray) -> np.ndarray:
    """Of sets [site, token]."""
    both, either = _both_and_either(atoms)
    return both / np.maximum(either, 1)


def adjusted(atoms: np.ndarray) -> np.ndarray:
    """Jaccard with what random sets of these sizes share taken out."""
    both, either = _both_and_either(atoms)
    sizes = atoms.sum(1).astype(float)
    expected = np.outer(sizes, sizes) / atoms.shape[1]
    chance = expected / np.maximum(sizes[:, None] + sizes - expected, 1e-9)
    return (both / np.maximum(either, 1) - chance) / np.maximum(1 - chance, 1e-9)


def _both_and_either(atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = atoms.astype(np.float32)
    both, sizes = (rows @ rows.T).astype(float), atoms.sum(1).astype(float)
    return both, sizes[:, None] + sizes - both


def most_novel(values: np.ndarray, share: float) -> np.ndarray:
    """The share of tokens with the largest values, of each site: sets of equal size. Ties go to the earlier token."""
    found = np.zeros(values.shape, bool)
    order = np.argsort(-values, axis=1, kind="stable")[:, : round(share * values.shape[1])]
    np.put_along_axis(found, order, True, axis=1)
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of each site's values; equal ones share the middle."""
    found = np.empty(values.shape)
    for site, row in enumerate(values):
        _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        ends = counts.cumsum()
        found[site] = (ends - (counts - 1) / 2)[inverse]
    return found


def correlation(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.corrcoef(values))


def concordance(values: np.ndarray) -> np.ndarray:
    """Lin's: correlation, less where means or spreads differ; 2 cov / (var + var + (mean - mean)^2)."""
    together, means = np.cov(values), values.mean(1)
    spread = np.diag(together)
    return 2 * together / np.maximum(spread[:, None] + spread + (means[:, None] - means) ** 2, 1e-12)


def closeness(values: np.ndarray) -> np.ndarray:
    """Minus the distance of one number per site: all that sizes can say."""
    return -np.abs(values[:, None] - values)


def same_nearest(nearest: np.ndarray) -> np.ndarray:
    """The share of tokens whose nearest earlier token is the same one."""
    return np.stack([(nearest == row).mean(1) for row in nearest])


def at_share(atoms: np.ndarray, share: float) -> np.ndarray:
    """[site, token] from [site, rung, token]: each site's atoms at the rung where their share is nearest to `share`."""
    shares = atoms.mean(2)
    return np.stack([site[np.argmin(np.abs(own - share))] for site, own in zip(atoms, shares, strict=True)])


def label_matrices(found: Sequence[Novelty]) -> dict[str, np.ndarray]:
    """Every index of the labels and novelty of sites."""
    atoms = np.stack([one.atoms for one in found])
    novelty = np.maximum(np.stack([one.novelty for one in found]).astype(float), 0)
    to_four = np.maximum(np.stack([one.to_four for one in found]).astype(float), 0)
    nearest = np.stack([one.nearest for one in found])
    rungs = [RUNGS.index(rung) for rung in LADDER]
    ladder = [atoms[:, rung] for rung in rungs]
    sizes = np.log(np.maximum(atoms.sum(2), 1))
    made = {f"Jaccard at {rung}": jaccard(atoms[:, place]) for place, rung in enumerate(RUNGS)}
    made["Jaccard, ladder"] = np.mean([jaccard(rung) for rung in ladder], axis=0)
    made["Jaccard, all rungs"] = np.mean([jaccard(atoms[:, place]) for place in range(len(RUNGS))], axis=0)
    made["adjusted, ladder"] = np.mean([adjusted(rung) for rung in ladder], axis=0)
    made["nearly equal shares of atoms"] = np.mean([jaccard(at_share(atoms, share)) for share in SHARES], axis=0)
    for name, values in (("novelty", novelty), ("novelty to four", to_four)):
        made[f"{name}, correlation"] = correlation(values)
        made[f"{name}, rank correlation"] = correlation(ranks(values))
        made[f"{name}, weighted Jaccard"] = weighted(values)
        made[f"{name}, concordance"] = concordance(values)
        made[f"{name}, concordance of roots"] = concordance(np.sqrt(values))
        made[f"{name}, weighted Jaccard at equal sums"] = weighted(values / values.mean(1, keepdims=True))
        made[f"{name}, weighted Jaccard of ranks"] = weighted(ranks(values))
        made[f"{name}, equal shares"] = np.mean([jaccard(most_novel(values, share)) for share in SHARES], axis=0)
        made[f"control: mean {name}"] = closeness(values.mean(1))
        # Whichever tokens they belong to: all that the values alone can say.
        made[f"control: sorted {name}"] = weighted(np.sort(values, axis=1))
    made["same nearest"] = same_nearest(nearest)
    made["control: sizes, ladder"] = np.mean([closeness(sizes[:, rung]) for rung in rungs], axis=0)
    return made


def weighted(values: np.ndarray) -> np.ndarray:
    """Sum of the smaller over sum of the larger value: sum |a - b| gives both."""
    totals = values.sum(1)
    apart = np.stack([np.abs(values - row).sum(1) for row in values])
    together = totals[:, None] + totals
    return (together - apart) / np.maximum(together + apart, 1e-12)
