"""The methods that the benchmark of meaning compares: how a dictionary is made, and how an activation is read with it.

A method is a dictionary and a readout. `DICTIONARIES` makes dictionaries from activations by name, `READOUTS` turns
activations into features, one per atom; both may be added to (readout `features`, which is fitted to activations, is in
`meaning_bench`). Every dictionary is centred: the mean of the activations
it is made from is subtracted first. An atom's `row` is the training activation that names it, if there is one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import meaning_saelens
import torch
from common import BEST, batches, labels_for
from meaning_sae import Wanted, trained
from meaning_saelens import ARCHITECTURES
from saelens_sae import Architecture, TrainedSae, fvu_of
from torch import Tensor
from torch.nn.functional import normalize

from itda import ITDA, Trainer, refine

PASSES, MIN_FIDELITY = 8, 0.9
CENTRE_ROUNDS = 12  # of recipe 2
ROUNDS = 15  # of k-means
ROWS = 2048  # at once
PIECE = 1024  # activations that the trainer is offered at once


@dataclass(frozen=True, eq=False)
class Made:
    """A dictionary and what it cost."""

    model: ITDA
    row: Tensor | None
    """The row of the training activations that names each atom; None where nothing does."""
    seconds: float
    """Of processor time."""
    sae: TrainedSae | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Task:
    """What a dictionary is to be."""

    m: int
    k: int
    seed: int
    budget: Callable[[], float]
    """The processor seconds of `best`, for what is trained as long."""
    heldout: Callable[[], Tensor]
    """Activations that an autoencoder's learning rate is chosen on."""


def by_best(x: Tensor, task: Task) -> Made:
    """Greedy atoms, refined: recipe 1 of mode `best` of `itda.Trainer`."""
    return _by_trainer(x, task, passes=PASSES, min_fidelity=MIN_FIDELITY)


def by_recipe_2(x: Tensor, task: Task) -> Made:
    """Centres of groups: recipe 2 of mode `best`."""
    return _by_trainer(x, task, passes=CENTRE_ROUNDS, recipe=2)


def _by_trainer(x: Tensor, task: Task, **refinement: Any) -> Made:
    started = time.process_time()
    settings = {"k": task.k, "atoms": task.m, **BEST, **refinement}
    trainer = Trainer(x.shape[1], tokens=len(x), **settings)
    for batch in batches(x, PIECE):
        trainer.offer(batch)
    model = trainer.finish()
    return Made(model, torch.tensor(model.labels.position), time.process_time() - started)


def at_random(x: Tensor, task: Task) -> Made:
    """Activations drawn at random."""
    started = time.process_time()
    row = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + task.seed))[: task.m]
    mean = x.mean(dim=0)
    return Made(_itda(normalize(x[row] - mean), mean, task), row, time.process_time() - started)


def at_random_refined(x: Tensor, task: Task) -> Made:
    """Activations drawn at random, then refined as mode `best` refines."""
    made = at_random(x, task)
    started = time.process_time()
    model = refine(made.model, x, passes=PASSES, min_fidelity=MIN_FIDELITY)
    return replace(made, model=model, seconds=made.seconds + time.process_time() - started)


def by_exemplars(x: Tensor, task: Task) -> Made:
    """Exemplar partitioning: an activation becomes a leader if no leader so far has a cosine above a threshold to it.

    The threshold is halved towards the one that gives m leaders in one pass over the stream.
    """
    started = time.process_time()
    mean = x.mean(dim=0)
    z = normalize(x - mean)
    low, high, found = 0.0, 1.0, torch.empty(0, dtype=torch.int64)
    for _ in range(10):
        middle = (low + high) / 2
        row = leaders(z, middle, task.m)
        if len(row) > task.m:
            high = middle
        else:
            low, found = middle, row
            if len(row) > 0.98 * task.m:
                break
    return Made(_itda(z[found], mean, task), found, time.process_time() - started)


def leaders(z: Tensor, threshold: float, most: int) -> Tensor:
    """The rows of unit vectors that become leaders; it ends when there is one more than `most`.

    >>> leaders(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 0.7, 10).tolist()
    [0, 2]
    """
    chosen: list[int] = []
    for start in range(0, len(z), ROWS):
        part = z[start : start + ROWS]
        nearest = (part @ z[chosen].T).amax(dim=1) if chosen else torch.full((len(part),), -1.0)
        left = torch.nonzero(nearest < threshold)[:, 0]
        while len(left):
            first = int(left[0])
            chosen.append(start + first)
            if len(chosen) > most:
                return torch.tensor(chosen)
            left = left[1:][part[left[1:]] @ part[first] < threshold]
    return torch.tensor(chosen)


def by_kmeans(x: Tensor, task: Task) -> Made:
    """Centres of spherical k-means, each named by the activation nearest to it."""
    started = time.process_time()
    mean = x.mean(dim=0)
    z = normalize(x - mean)
    start = torch.randperm(len(z), generator=torch.Generator().manual_seed(2000 + task.seed))[: task.m]
    centres = z[start]
    for _ in range(ROUNDS):
        _, nearest = nearest_of(z, centres)
        centres = normalize(torch.zeros_like(centres).index_add_(0, nearest, z))
        empty = centres.norm(dim=1) < 0.5
        centres[empty] = z[start[empty]]
    row = torch.cat([(part @ z.T).argmax(dim=1) for part in centres.split(256)])
    return Made(_itda(centres, mean, task), row, time.process_time() - started)


def nearest_of(z: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of each unit vector to a centre, and which; products in bfloat16."""
    table = centres.bfloat16().T.contiguous()
    best = [(part.bfloat16() @ table).max(dim=1) for part in z.split(ROWS)]
    return torch.cat([each.values for each in best]).float(), torch.cat([each.indices for each in best])


def by_topk(times: float) -> Callable[[Tensor, Task], Made]:
    """Our short TopK autoencoder, trained for so many times the processor seconds of `best`."""

    def make(x: Tensor, task: Task) -> Made:
        sae = trained(x, task.heldout(), Wanted(task.m, task.k, task.seed, times * task.budget()))
        return of_sae(sae, task.k)

    return make


def by_saelens(architecture: Architecture, times: float) -> Callable[[Tensor, Task], Made]:
    """An autoencoder of SAELens, trained for so many times the processor seconds of `best`."""

    def make(x: Tensor, task: Task) -> Made:
        wanted = Wanted(task.m, task.k, task.seed, times * task.budget())
        return of_sae(meaning_saelens.trained(architecture, x, wanted), task.k)

    return make


def of_sae(sae: TrainedSae, k: int) -> Made:
    """An autoencoder, and its decoder as a dictionary."""
    model = ITDA(sae.atoms, labels_for(len(sae.atoms)), k=k, pursuit="mp_refit", offset=sae.b_dec)
    return Made(model, None, sae.seconds, sae, sae.steps)


def _itda(atoms: Tensor, mean: Tensor, task: Task) -> ITDA:
    return ITDA(normalize(atoms), labels_for(len(atoms)), k=task.k, pursuit="mp_refit", offset=mean)


DICTIONARIES: dict[str, Callable[[Tensor, Task], Made]] = {
    "best": by_best,
    "recipe_2": by_recipe_2,
    "random": at_random,
    "random_refined": at_random_refined,
    "exemplars": by_exemplars,
    "kmeans": by_kmeans,
    "own_topk": by_topk(1),
    "own_topk_10x": by_topk(10),
    **{name: by_saelens(name, 1) for name in ARCHITECTURES},
    **{f"{name}_10x": by_saelens(name, 10) for name in ARCHITECTURES},
}
AUTOENCODERS = [name for name in DICTIONARIES if name.removesuffix("_10x").removeprefix("own_") in ARCHITECTURES]
BY_SAELENS = [name for name in AUTOENCODERS if not name.startswith("own_")]
"""Made in an environment that has sae-lens."""


# Readouts: features [rows, atoms] of activations.


def code(made: Made, x: Tensor) -> Tensor:
    """The coefficients of our pursuit."""
    return made.model.encode(x).dense(len(made.model))


def similarity(made: Made, x: Tensor) -> Tensor:
    """The cosine to every atom."""
    return made.model.similarity(x)  # pyright: ignore[reportReturnType] - dense without `top`


def largest(made: Made, x: Tensor) -> Tensor:
    """The k largest cosines."""
    cosines = similarity(made, x)
    best = cosines.topk(made.model.k, dim=1)
    return torch.zeros_like(cosines).scatter_(1, best.indices, best.values)


def one_hot(made: Made, x: Tensor) -> Tensor:
    """1 for the nearest atom."""
    cosines = similarity(made, x)
    return torch.zeros_like(cosines).scatter_(1, cosines.argmax(dim=1, keepdim=True), 1.0)


def latents(made: Made, x: Tensor) -> Tensor:
    """The latents of an autoencoder by its own encoder."""
    assert made.sae is not None
    return made.sae.latents(x)


READOUTS: dict[str, Callable[[Made, Tensor], Tensor]] = {
    "code": code,
    "similarity": similarity,
    "largest": largest,
    "one-hot": one_hot,
    "latents": latents,
}
OF_ITDA = {
    "random": ("code", "similarity", "largest", "features", "lasting"),
    "random_refined": ("code",),
    "best": ("code", "similarity", "largest", "features", "lasting"),
    "recipe_2": ("code", "similarity", "largest", "features", "lasting"),
    "exemplars": ("one-hot", "code", "similarity"),
    "kmeans": ("code", "similarity", "largest", "features", "lasting"),
}
OF_AUTOENCODERS = {
    "topk": ("latents", "code", "similarity", "features", "lasting"),
    "batchtopk": ("latents", "code", "similarity"),
    "matryoshka": ("latents", "code", "similarity"),
    "topk_10x": ("latents", "code", "similarity"),
    "batchtopk_10x": ("latents", "code"),
    "matryoshka_10x": ("latents", "code"),
    "own_topk": ("latents", "code"),
    "own_topk_10x": ("latents", "code"),
}
METHODS = [(name, each) for name, readouts in (OF_ITDA | OF_AUTOENCODERS).items() for each in readouts]
"""The dictionary and the readout of each method."""


def reconstruction(made: Made, readout: str, x: Tensor) -> Tensor:
    """What a readout that decodes says of activations."""
    if readout == "latents":
        assert made.sae is not None
        return made.sae.reconstruct(x)
    if readout == "one-hot":
        mean = made.model.offset
        assert mean is not None
        nearest = made.model.atoms[similarity(made, x).argmax(dim=1)]
        return ((x - mean) * nearest).sum(dim=1, keepdim=True) * nearest + mean
    return torch.cat([made.model(part) for part in x.split(ROWS)])


def measured(made: Made, readout: str, x: Tensor) -> dict[str, float]:
    """Reconstruction of held-out activations, and the processor time of reading them."""
    rebuilt = reconstruction(made, readout, x)
    read = made.model.encode if readout == "code" else lambda part: READOUTS[readout](made, part)
    part = x[:ROWS]
    read(part)
    started = time.process_time()
    read(part)
    taken = time.process_time() - started
    active = (READOUTS[readout](made, part) != 0).sum(dim=1).double().mean()
    return {"fvu": fvu_of(x, rebuilt), "microseconds": 1e6 * taken / len(part), "active": float(active)}


class Neurons:
    """The activation itself, or whitened, instead of a dictionary."""

    def __init__(self, x: Tensor, *, whitened: bool) -> None:
        self.mean = x.mean(dim=0) if whitened else torch.zeros(x.shape[1])
        self.map = torch.eye(x.shape[1])
        if whitened:
            values, vectors = torch.linalg.eigh(torch.cov((x - self.mean).T.double()))
            floor = 1e-3 * values.mean()
            self.map = (vectors * (values + floor).rsqrt() @ vectors.T).float()

    def features(self, x: Tensor) -> Tensor:
        """The coordinates [rows, d_model]."""
        return (x - self.mean) @ self.map
