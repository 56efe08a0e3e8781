"""Are the features that activations were made of found again? On `sae_lens.synthetic`, with its own measures.

    python benchmarks/true_features.py            # needs sae-lens (requirements.txt); minutes

512 features in 128 dimensions, unit vectors as far apart as SAELens makes them, about 12 active at a time, plus a bias;
40,000 activations to learn from, 4,000 to be judged on. Features fire each for itself, in correlated groups (a low-rank
Gaussian copula), or in a hierarchy (a child only with its parent: 24 trees of 1, 4 and 16 features). Every dictionary
has 512 atoms and at most as many active ones a token as features are active on average.

MCC: features and atoms matched one to one, the mean absolute cosine of the pairs. F1: how well an atom being active
tells that the feature nearest to it is, mean over atoms.
"""

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from common import Results, arguments_for, number, paragraph, results_for, table
from meaning_methods import DICTIONARIES, OF_ITDA, READOUTS, Made, Task, reconstruction
from meaning_report import READ, TITLES
from meaning_saelens import ARCHITECTURES
from saelens_sae import fvu_of
from torch import Tensor

from itda import fit_features

FEATURES, WIDTH, TRAIN, TEST = 512, 128, 40_000, 4_000
KINDS = {"independent": "each for itself", "correlated": "in correlated groups", "hierarchical": "in a hierarchy"}
TREES, BRANCHES, CHANCES = 24, 4, (0.1, 0.4, 0.4)
METHODS = {
    "random": OF_ITDA["random"],
    "random_refined": ("code",),
    "best": OF_ITDA["best"],
    "recipe_2": OF_ITDA["recipe_2"],
    "exemplars": OF_ITDA["exemplars"][:2],
    "kmeans": ("code", "features"),
    **dict.fromkeys(ARCHITECTURES, ("latents", "code")),
}
DENSE = ("similarity", "lasting")  # all atoms are active: no l0 to compare at


def sampled(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Activations [tokens, WIDTH], the activity of features [tokens, FEATURES], and their vectors."""
    from sae_lens import synthetic  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    vectors = synthetic.FeatureDictionary(FEATURES, WIDTH, bias=2.0, seed=seed)
    chances = synthetic.linear_firing_probabilities(FEATURES, 0.04, 0.008)
    given: dict[str, Any] = {}
    if kind == "correlated":
        given["correlation_matrix"] = synthetic.generate_random_low_rank_correlation_matrix(FEATURES, 16, 0.15, seed)
    if kind == "hierarchical":
        config = synthetic.HierarchyConfig(total_root_nodes=TREES, branching_factor=BRANCHES, max_depth=2)
        trees = synthetic.generate_hierarchy(FEATURES, config, seed)
        given["modify_activations"] = trees.modifier
        chances = torch.zeros(FEATURES)
        for feature, depth in depths(trees.roots):
            chances[feature] = CHANCES[depth]
    generator = synthetic.ActivationGenerator(FEATURES, chances, std_firing_magnitudes=0.3, **given)
    with torch.no_grad():
        active = torch.cat([generator.sample(1000) for _ in range((TRAIN + TEST) // 1000)])
        return vectors(active), active, vectors.feature_vectors.clone()


def depths(nodes: Any, depth: int = 0) -> Iterator[tuple[int, int]]:
    """The number and the depth of each feature of some trees."""
    for node in nodes:
        yield node.feature_index, depth
        yield from depths(node.children, depth + 1)


def measured(made: Made, readout: str, x: Tensor, active: Tensor, vectors: Tensor, k: int) -> dict[str, float]:
    """SAELens' measures of one method on the activations after the first TRAIN."""
    from sae_lens import synthetic  # pyright: ignore[reportMissingImports]

    test = x[TRAIN:]
    if readout == "features":
        fitted = fit_features(made.model, x[:TRAIN])
        found = fitted.features(test).dense(len(fitted))
    else:
        found = READOUTS[readout](made, test)
    atoms = made.model.atoms
    told = synthetic.compute_classification_metrics(found, active[TRAIN:], atoms, vectors)
    values = {
        "mcc": synthetic.mean_correlation_coefficient(atoms, vectors),
        "f1": told.f1_score,
        "precision": told.precision,
        "recall": told.recall,
        "l0": float((found != 0).sum(dim=1).double().mean()),
        "k": float(k),
        "seconds": made.seconds,
    }
    if readout in ("code", "latents", "one-hot"):
        values["fvu"] = fvu_of(test, reconstruction(made, readout, test))
    return values


def run(arguments: argparse.Namespace, results: Results) -> None:
    """All methods on all kinds of data."""
    for kind, seed in itertools.product(KINDS, range(1 if arguments.quick else arguments.seeds)):
        keys = [
            {"kind": kind, "seed": seed, "dictionary": name, "readout": readout}
            for name, readouts in METHODS.items()
            for readout in readouts
            if readout not in DENSE and (arguments.only is None or name in arguments.only)
        ]
        if all(results.find(key) for key in keys):
            continue
        x, active, vectors = sampled(kind, seed)
        known = ~(active == 0).all(dim=0)
        k = round(float((active > 0).sum(dim=1).double().mean()))
        made: dict[str, Made] = {}

        def made_of(name: str, made: dict = made, x: Tensor = x, k: int = k, seed: int = seed) -> Made:
            if name not in made:
                task = Task(FEATURES, k, seed, lambda: made_of("best").seconds, lambda: x[TRAIN:])
                made[name] = DICTIONARIES[name](x[:TRAIN], task)
            return made[name]

        for key in keys:
            if results.find(key) is None:
                given = x, active[:, known], vectors[known], k
                values = measured(made_of(key["dictionary"]), key["readout"], *given)
                results.add(key, values)
                print(*key.values(), {name: round(value, 3) for name, value in values.items()}, flush=True)


COLUMNS = ("mcc", "f1", "precision", "recall", "l0", "fvu", "seconds")


def report(rows: list[dict[str, Any]]) -> list[str]:
    """A table for each kind of data."""
    parts = [paragraph((__doc__ or "").partition("minutes\n")[2])]
    for kind, title in KINDS.items():
        body = []
        for name, readouts in METHODS.items():
            for readout in readouts:
                wanted = {"kind": kind, "dictionary": name, "readout": readout}
                mine = [row for row in rows if wanted.items() <= row["key"].items()]
                if mine:
                    cells = [_mean([row[column] for row in mine if column in row]) for column in COLUMNS]
                    body.append([TITLES[name], READ[readout], *cells])
        if body:
            seeds = len({row["key"]["seed"] for row in rows if row["key"]["kind"] == kind})
            k = rows[0]["k"]
            parts += [
                f"## Features fire {title}",
                f"Mean over {seeds} seed(s); k about {k:.0f}.",
                table(["atoms", "read by", "MCC", "F1", *COLUMNS[2:]], body),
            ]
    return parts


def _mean(values: list[float]) -> str:
    return number(sum(values) / len(values)) if values else "-"


def main() -> None:
    parser = arguments_for(__doc__, "true_features")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="dictionaries")
    arguments = parser.parse_args()
    results = results_for(arguments, "true_features")
    run(arguments, results)
    results.compact()
    print(results.write(report(results.rows)))


if __name__ == "__main__":
    main()
