"""SAELens' own sparse autoencoders for the benchmark of meaning, and how an autoencoder is kept in the cache.

Training needs `sae-lens`, which may live in an environment of its own; what is kept is plain tensors that any
environment reads. The recipes are those that `saelens_sae.py` was tuned to (Matryoshka: that of BatchTopK), with one
seed and one learning rate each, and a budget of *processor* seconds: it is made steps by the mean step of a short
training that is thrown away.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import saelens_sae
import torch
from meaning_sae import Wanted
from saelens_sae import Architecture, Recipe, TrainedSae
from torch import Tensor

ARCHITECTURES: tuple[Architecture, ...] = ("topk", "batchtopk", "matryoshka")
TRIAL = 30  # steps
KEPT = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "architecture", "k", "lr", "steps", "tokens", "seconds")


def trained(architecture: Architecture, x: Tensor, wanted: Wanted) -> TrainedSae:
    """An autoencoder by SAELens' trainer in about so many processor seconds; `seconds` says how many it took."""
    recipe = saelens_sae.best_settings(architecture, wanted.m, wanted.seconds)
    settings: dict[str, Any] = {"latents": wanted.m, "k": wanted.k, "seed": wanted.seed, "recipe": recipe}
    with mock.patch.multiple(saelens_sae, seconds_of=_processor, time=SimpleNamespace(perf_counter=time.process_time)):
        trial = saelens_sae.train(architecture, x, steps=TRIAL, **settings)
        steps = math.ceil(wanted.seconds / (trial.seconds / TRIAL))
        return saelens_sae.train(architecture, x, steps=steps, **settings)


def _processor(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def save_sae(file: Path, sae: TrainedSae) -> None:
    """Write an autoencoder's weights and costs, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: getattr(sae, name) for name in KEPT}, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def load_sae(file: Path) -> TrainedSae:
    """What `save_sae` has written."""
    kept = torch.load(file)
    each = kept["seconds"] / kept["steps"]
    recipe = Recipe(kept["lr"], kept["tokens"] // kept["steps"])
    return TrainedSae(**kept, recipe=recipe, quickest_step=each, l1=None, sae=None)
