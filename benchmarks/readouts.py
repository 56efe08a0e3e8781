"""Which detectors make good features: sparse probing of what `itda.fit_features` fits, and of what was tried beside it.

    python benchmarks/readouts.py                # after meaning.py's text, prompts and dictionaries

Activations, dictionaries, sets of prompts and probes are those of `benchmarks/meaning.py`, from its cache. The rule for
features was chosen on the first `CHOSEN` sets (in the order of a hash); the others were looked at once it stood. Sparse
readouts have at most k = 20 active features a token. Tables: benchmarks/results/readouts.md.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import arguments_for, paragraph, results_for, table
from meaning_bench import Bench, probes
from meaning_methods import latents
from meaning_prompts import fetch, names
from torch import Tensor
from torch.nn.functional import normalize

import itda
from itda import ITDA
from itda.core.readout_features import FeatureEncoder
from itda.core.readout_features_fit import Moments, encoder_of

CACHE = Path("~/.cache/itda-meaning").expanduser()
ATOMS, K, SIZES, CHOSEN = 2048, 20, (1, 5, 16), 45
DICTIONARIES = ("best", "recipe_2", "random")
TOPK, NEURONS = "TopK SAE, equal time", "neurons (dense)"

Features = Callable[[Tensor], Tensor]


class Alike(Moments):
    """As if all directions lasted alike: what is left is whitening."""

    def lasting(self) -> Tensor:
        """The covariance itself."""
        return self.covariance()


def moments_of(x: Tensor, kind: type[Moments] = Moments) -> Moments:
    moments = kind(x.shape[1])
    moments.add(x)
    return moments


def largest(scores: Tensor) -> Tensor:
    """The k largest positive scores."""
    best = scores.topk(K, dim=1)
    return torch.zeros_like(scores).scatter_(1, best.indices, best.values.relu())


def largest_of_either_sign(scores: Tensor) -> Tensor:
    """The k largest scores by size."""
    best = scores.abs().topk(K, dim=1).indices
    return torch.zeros_like(scores).scatter_(1, best, scores.gather(1, best))


def scores(encoder: FeatureEncoder, x: Tensor) -> Tensor:
    """All scores, in standard deviations."""
    return encoder.scale * (x - encoder.mean) @ encoder.detectors.T


def apart(neighbours: Tensor, found: Tensor) -> Tensor:
    """The k largest positive scores, none of which is a neighbour of a larger one."""
    left, kept = found.clone(), torch.zeros_like(found)
    for _ in range(K):
        value, atom = left.max(dim=1)
        kept.scatter_(1, atom[:, None], value.relu()[:, None])
        left = left.masked_fill(neighbours[atom], -torch.inf)
    return kept


def tried(model: ITDA, x: Tensor) -> Iterator[tuple[str, Features]]:
    """What was tried with one dictionary, beside features."""
    moments = moments_of(x)
    whole = encoder_of(model.atoms, moments)
    of_words = encoder_of(
        model.atoms, moments_of(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))])
    )
    assert len(whole.broad) > len(of_words.broad) == 0
    yield "fine features only", lambda z: largest(scores(of_words, z))
    yield "all fine scores (dense)", lambda z: scores(of_words, z)
    yield "broad features only", lambda z: largest(scores(whole, z)[:, whole.broad])
    yield (
        "the k largest cosines where what lasts is long",
        lambda z: largest(whole.lasting_cosines(z - whole.mean, model.atoms)),
    )
    alike = encoder_of(model.atoms, moments_of(x, Alike))
    yield "broad ones of whitened space", lambda z: alike.strongest(z - alike.mean, K).dense(len(model))
    yield "cosines in whitened space (dense)", lambda z: alike.lasting_cosines(z - alike.mean, model.atoms)
    yield "fine, either sign", lambda z: largest_of_either_sign(scores(of_words, z))
    above = scores(of_words, x).topk(len(x) // 100, dim=0).values[-1]
    yield "fine, divided by the score of 1 in 100", lambda z: largest(scores(of_words, z) / above)
    half = torch.linalg.cholesky(moments.covariance() + 1e-9 * torch.eye(model.d_model)).float()
    alike_scores = normalize(of_words.detectors @ half)
    neighbours = alike_scores @ alike_scores.T > 0.5
    yield "fine, no two that correlate above .5", lambda z: apart(neighbours, scores(of_words, z))


def readouts(bench: Bench) -> Iterator[tuple[str, Features]]:
    """Every readout by name; made when it is its turn."""
    x = bench.text("a").x
    yield NEURONS, lambda z: z
    for name, said in (("topk", TOPK), ("topk_10x", "TopK SAE, ten times the time")):
        yield said, partial(latents, bench.made(name, 0))
    for name in DICTIONARIES:
        fitted = itda.fit_features(bench.made(name, 0).model, x)
        yield f"{name}: features", lambda z, model=fitted: model.features(z).dense(len(model))
        yield f"{name}: lasting similarity (dense)", fitted.lasting_similarity
    for said, features in tried(bench.made("best", 0).model, x):
        yield f"best: {said}", features


def rows_of(found: dict[str, dict[str, list[float]]], sets: list[str]) -> Iterator[list[str]]:
    """Lines of a table: mean AUC, and paired differences with their standard errors over sets."""
    areas = {name: np.array([each[one][: len(SIZES)] for one in sets]) for name, each in found.items()}
    for name, auc in areas.items():
        line = [name, " / ".join(f"{a:.3f}" for a in auc.mean(0))]
        for base in (TOPK, NEURONS):
            gap = auc - areas[base]
            error = gap.std(0, ddof=1) / np.sqrt(len(sets))
            line.append(", ".join(f"{g:+.3f} ± {e:.3f}" for g, e in zip(gap.mean(0), error, strict=True)))
        yield line


def main() -> None:
    parser = arguments_for(__doc__, "readouts")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 10])
    arguments = parser.parse_args()
    results, wheel, parts = results_for(arguments, "readouts"), fetch(arguments.cache), []
    order = names(wheel)
    for layer in arguments.layers:
        bench, found = Bench(arguments.cache, layer, ATOMS, K), {}
        for name, features in readouts(bench):
            key = {"layer": layer, "readout": name}
            row = results.find(key) or results.add(key, {"sets": probes(bench, wheel, features, {}, whole=False)})
            found[name] = row["sets"]
            mean = np.mean([row["sets"][one][: len(SIZES)] for one in order], axis=0)
            print(layer, name, " / ".join(f"{area:.3f}" for area in mean), flush=True)
        for sets, of in (
            (order[:CHOSEN], "sets that the rule was chosen on"),
            (order[CHOSEN:], "other sets"),
            (order, "sets"),
        ):
            said = f"Layer {layer}, {len(sets)} {of}: AUC with the best 1 / 5 / 16 features, and paired differences."
            parts += [
                paragraph(said),
                table(["readout", "AUC", f"less {TOPK}", f"less {NEURONS}"], list(rows_of(found, sets))),
            ]
    print(results.write(parts))


if __name__ == "__main__":
    main()
