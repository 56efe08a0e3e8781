"""Sparse autoencoders trained by SAELens' own trainer on activations that are at hand, and the tuning of their recipe.

python benchmarks/saelens_sae.py check
python benchmarks/saelens_sae.py tune --train TRAIN.pt --heldout HELDOUT.pt --budget 5 20 60
"""

import argparse
import ctypes
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from common import RESULTS, Results, number, table
from common import seconds as seconds_of
from torch import Tensor

from itda import SparseCode

Architecture = Literal["topk", "batchtopk", "matryoshka", "relu"]
Inference = Literal["k", "threshold", "relu"]

ROWS = 2048  # that are encoded at once


@dataclass(frozen=True)
class Recipe:
    """What is tuned; the rest is SAELens' default."""

    lr: float = 3e-3
    batch_size: int = 512
    sparse: bool = True
    """TopK and BatchTopK: no scaling of the selection by the decoder's norms. Only so can SAELens 6.54 train TopK with
    sparse codes on a CPU, much its fastest way (else its backward raises). False: dense and scaled, its defaults."""
    init_norm: float = 0.1  # of the decoder's rows
    dead_share: float = 1.0
    """A latent is dead when it did not fire in this share of all steps; the auxiliary loss then pulls it. At 1 it never
    acts, nor would it with SAELens' 1000 steps, longer than our runs."""


@dataclass(frozen=True, eq=False)
class TrainedSae:
    """A trained autoencoder in the units of the activations: nothing is left to scale."""

    architecture: Architecture
    k: int
    W_enc: Tensor  # d_model m
    b_enc: Tensor  # m
    W_dec: Tensor  # m d_model
    b_dec: Tensor  # d_model
    threshold: float  # BatchTopK as SAELens saves it (JumpReLU): latents above this fire
    recipe: Recipe
    lr: float
    steps: int
    tokens: int
    seconds: float  # the training alone: no imports, no calibration
    quickest_step: float  # in seconds, the first two left out
    l1: float | None
    sae: Any  # SAELens' own object
    l0: float = math.nan  # on a sample of the training data, with `inference`

    @property
    def atoms(self) -> Tensor:
        """The decoder with unit rows."""
        return self.W_dec / self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12)

    @property
    def inference(self) -> Inference:
        """What is done unless told: k latents per activation (also BatchTopK, for an equal L0), but ReLU's own."""
        return "relu" if self.architecture == "relu" else "k"

    def latents(self, x: Tensor, inference: Inference | None = None) -> Tensor:
        active = (x - self.b_dec) @ self.W_enc + self.b_enc
        match inference or self.inference:
            case "k":
                best = active.topk(self.k, dim=1)
                return torch.zeros_like(active).scatter_(1, best.indices, best.values.relu())
            case "threshold":
                return active.relu() * (active > self.threshold)
            case "relu":
                return active.relu()

    def encode(self, x: Tensor, inference: Inference | None = None) -> SparseCode:
        """The largest latent first; rows are padded to the longest."""
        parts = [self.latents(part, inference).to_sparse() for part in x.split(ROWS)]
        counts = torch.cat([torch.bincount(part.indices()[0], minlength=len(part)) for part in parts])
        width = max(1, int(counts.max()))
        best = [part.to_dense().topk(width, dim=1) for part in parts]
        values, indices = torch.cat([part.values for part in best]), torch.cat([part.indices for part in best])
        return SparseCode(indices.masked_fill(values == 0, 0), values, counts)

    def decode(self, code: SparseCode) -> Tensor:
        dense = self.W_dec.new_zeros(len(code.indices), len(self.W_dec))
        return dense.scatter_add_(1, code.indices, code.coefficients) @ self.W_dec + self.b_dec

    def reconstruct(self, x: Tensor, inference: Inference | None = None) -> Tensor:
        return torch.cat([self.latents(part, inference) @ self.W_dec + self.b_dec for part in x.split(ROWS)])

    def measured_l0(self, x: Tensor, inference: Inference | None = None) -> float:
        return sum(int((self.latents(part, inference) > 0).sum()) for part in x.split(ROWS)) / len(x)


def fvu_of(x: Tensor, rebuilt: Tensor) -> float:
    """Fraction of variance unexplained, in float64."""
    x = x.double()
    return ((x - rebuilt.double()).square().sum() / (x - x.mean(dim=0)).square().sum()).item()


def fvu(sae: TrainedSae, x: Tensor, inference: Inference | None = None) -> float:
    return fvu_of(x, sae.reconstruct(x, inference))


def at_l0(sae: TrainedSae, x: Tensor, l0: float) -> TrainedSae:
    """With the threshold at which these activations have so many latents on average, as in a batch of BatchTopK."""
    active = torch.cat([sae.latents(part, "relu") for part in x.split(ROWS)]).flatten()
    return replace(sae, threshold=active.topk(int(l0 * len(x)) + 1).values[-1].item())


def shuffled(x: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches without end: every activation once per epoch, in a new order each time; no batch is cut short."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    while True:
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(x), generator=generator)])
        yield x[order[:batch_size]]
        order = order[batch_size:]


def keep_memory() -> None:
    """Let glibc reuse freed memory, for the whole process: a sixth of the time of SAELens, which allocates a lot."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def train(
    architecture: Architecture,
    activations: Tensor,
    *,
    latents: int,
    k: int,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    l1: float | None = None,
    recipe: Recipe | None = None,
    **changes: Any,
) -> TrainedSae:
    """An autoencoder of so many steps, or of no less than so many seconds.

    Seconds become steps by the fastest step of a short training that is thrown away; should the training be faster yet,
    it is done again with more. `changes` (lr=..., batch_size=...) are made to the recipe, `best_settings` unless given.
    """
    assert (steps is None) != (seconds is None), "give steps or seconds"
    recipe = replace(recipe or best_settings(architecture, latents, seconds or 20), **changes)
    run = partial(_fit, architecture, activations, latents, k, recipe, seed, l1)
    if seconds is None:
        return run(steps or 0)
    steps = math.ceil(seconds / run(10).quickest_step)
    while (sae := run(steps)).seconds < seconds:
        steps = math.ceil(steps * 1.02 * seconds / sae.seconds)
    return sae


def _fit(
    architecture: Architecture, x: Tensor, latents: int, k: int, recipe: Recipe, seed: int, l1: float | None, steps: int
) -> TrainedSae:
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training import sae_trainer  # pyright: ignore[reportMissingImports]

    keep_memory()
    batch, scale = recipe.batch_size, x.shape[1] ** 0.5 / x.norm(dim=1).double().mean().item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sae = _untrained(architecture, x.shape[1], latents, k, recipe, l1, steps)
    # SAELens only ever starts from a bias of 0, a handicap where activations have a large mean.
    sae.b_dec.data = x.double().mean(dim=0).mul(scale).float()
    config = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=recipe.lr,
        lr_end=recipe.lr,
        lr_warm_up_steps=min(1000, max(2, steps // 20)),
        lr_decay_steps=steps // 5,
        dead_feature_window=max(5, round(recipe.dead_share * steps)),
        feature_sampling_window=steps + 1,
    )
    starts: list[float] = []
    batches = (starts.append(time.perf_counter()) or part for part in shuffled(x, batch, seed))
    trainer = sae_trainer.SAETrainer(config, sae, batches)
    # Exact; without it the trainer spends a thousand batches on an estimate. `fit` folds it into the weights.
    trainer.activation_scaler.scaling_factor = scale
    with mock.patch.object(sae_trainer, "tqdm", partial(sae_trainer.tqdm, disable=True)):
        taken = seconds_of(trainer.fit)
    sae.eval()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        sae.fold_W_dec_norm()
    W_enc, b_enc, W_dec, b_dec = (getattr(sae, name).detach().clone() for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    quickest = min((later - earlier for earlier, later in pairwise(starts[2:])), default=math.nan)
    threshold = float(getattr(sae, "topk_threshold", 0.0))
    costs = (recipe, recipe.lr, steps, steps * batch, taken, quickest)
    trained = TrainedSae(architecture, k, W_enc, b_enc, W_dec, b_dec, threshold, *costs, l1, sae)
    return replace(trained, l0=trained.measured_l0(x[:: max(1, len(x) // 4096)]))


def _untrained(
    architecture: Architecture, d_model: int, latents: int, k: int, recipe: Recipe, l1: float | None, steps: int
) -> Any:
    """SAELens' object before training."""
    import sae_lens  # pyright: ignore[reportMissingImports]

    settings: dict[str, Any] = {"d_in": d_model, "d_sae": latents, "decoder_init_norm": recipe.init_norm}
    settings["normalize_activations"] = "expected_average_only_in"
    if architecture == "relu":
        assert l1 is not None, "relu needs l1: see find_l1"
        settings |= {"l1_coefficient": l1, "l1_warm_up_steps": max(1, steps // 20)}
    else:
        settings |= {"k": k, "rescale_acts_by_decoder_norm": not recipe.sparse}
    if architecture == "topk":
        settings["use_sparse_activations"] = recipe.sparse
    if architecture == "matryoshka":
        settings["matryoshka_widths"] = [latents * share // 32 for share in NESTED]
    if architecture in ("batchtopk", "matryoshka"):
        # The threshold is a running mean that starts at 0; at SAELens' 0.01 a short run leaves it far too low.
        settings["topk_threshold_lr"] = min(1.0, max(0.01, 10 / steps))
    name = NAMES[architecture] + "TrainingSAE"
    return getattr(sae_lens, name)(getattr(sae_lens, name + "Config")(**settings))


NAMES = {"topk": "TopK", "batchtopk": "BatchTopK", "matryoshka": "MatryoshkaBatchTopK", "relu": "Standard"}
"""SAELens' classes."""
NESTED = (1, 3, 7, 15, 32)
"""The nested dictionaries of a Matryoshka SAE, in 32nds of its latents: those of SAEBench."""

# Latents, seconds, recipe: best in results/saelens_tuning.jsonl (layer 2, Python code, k 20, one core). For TopK
# 2048, 20 s, batch 512, fvu is .215 at lr 1e-3, .177 at 3e-3, .176 at 5e-3. ReLU is hardly tuned.
BEST = {
    "topk": [
        (2048, 5, Recipe(batch_size=256)),
        (2048, 20, Recipe()),
        (2048, 60, Recipe(dead_share=0.1)),
        (8192, 5, Recipe(init_norm=0.5)),
        (8192, 20, Recipe()),
    ],
    "batchtopk": [(2048, 5, Recipe(batch_size=256)), (2048, 20, Recipe()), (8192, 20, Recipe())],
    "relu": [(2048, 20, Recipe())],
}
BEST["matryoshka"] = BEST["batchtopk"]  # not tuned


def best_settings(architecture: Architecture, latents: int, seconds: float) -> Recipe:
    """What did best in the nearest case that was tuned, by the ratios of latents and seconds."""
    cases = BEST[architecture]
    return min(cases, key=lambda case: abs(math.log(case[0] / latents)) + abs(math.log(case[1] / seconds)))[2]


def find_l1(activations: Tensor, *, k: float, tolerance: float = 0.1, rounds: int = 8, **settings: Any) -> float:
    """The L1 coefficient with which a ReLU training (`settings` of `train`) ends near k latents, by bisection.

    Its steps should be those of the real run: with the same coefficient a shorter one is much denser.
    """
    low, high, tried = 0.1, 1000.0, 10.0
    for _ in range(rounds):
        l0 = train("relu", activations, k=1, l1=tried, **settings).l0
        if abs(l0 - k) <= tolerance * k:
            break
        low, high = (tried, high) if l0 > k else (low, tried)
        tried = (low * high) ** 0.5
    return tried


COST = {"topk": 24e-9, "batchtopk": 34e-9, "matryoshka": 60e-9, "relu": 28e-9}
"""Nominal seconds per activation and latent on a quiet core of an AMD EPYC; and an optimizer step's per latent:"""
STEP_COST = 2.4e-6

AXES: dict[str, tuple[Callable[[str], Any], list[Any]]] = {
    "architecture": (str, ["topk"]),
    "latents": (int, [2048]),
    "k": (int, [20]),
    "budget": (float, [5.0]),
    "batch_size": (int, [512, 1024, 2048]),
    "lr": (float, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]),
    "init_norm": (float, [0.1]),
    "dead_share": (float, [1.0]),
    "sparse": ("True".__eq__, [True]),
    "l1": (float, [None]),
}


def tune(arguments: argparse.Namespace) -> None:
    """One row for each setting, best first; what is in the log already is not run again.

    A budget is nominal seconds, made steps by COST: tuning must not depend on what else the machine does.
    """
    train_x, heldout = torch.load(arguments.train)[:100_000], torch.load(arguments.heldout)[:8000]
    results, rows = Results(RESULTS / "saelens_tuning.md"), []
    for values in product(*(getattr(arguments, name) for name in AXES)):
        key = {"data": arguments.train.stem, **dict(zip(AXES, values, strict=True))}
        recipe = Recipe(**{name: key[name] for name in ("lr", "batch_size", "sparse", "init_norm", "dead_share")})
        cost = key["latents"] * (STEP_COST + recipe.batch_size * COST[key["architecture"]])
        key["steps"] = math.ceil(key["budget"] / cost)
        if (row := results.find(key)) is None:
            given = {name: key[name] for name in ("latents", "k", "steps", "l1")}
            sae = train(key["architecture"], train_x, recipe=recipe, **given)
            values = {"fvu": fvu(sae, heldout), "l0": sae.measured_l0(heldout), "seconds": sae.seconds}
            if sae.architecture == "batchtopk":
                values["fvu_threshold"] = fvu(sae, heldout, "threshold")
                values["l0_threshold"] = sae.measured_l0(heldout, "threshold")
            row = results.add(key, values)
        rows.append(row)
    columns = (*AXES, "steps")
    rows.sort(key=lambda row: (*(row["key"][name] for name in columns[:4]), row["fvu"]))
    body = ([*(row["key"][name] for name in columns), number(row["fvu"], 4), number(row["l0"])] for row in rows)
    print(table([*columns, "fvu", "l0"], body))


def check() -> None:
    """Our encoding against that of the model that SAELens saves for inference and loads."""
    from sae_lens import SAE  # pyright: ignore[reportMissingImports]

    x = 5 * torch.randn(4000, 24, generator=torch.Generator().manual_seed(0)) ** 3 + 20
    for architecture, sparse in product(("topk", "batchtopk", "matryoshka", "relu"), (True, False)):
        sae = train(architecture, x, latents=96, k=5, steps=60, l1=1.0, recipe=Recipe(1e-3, 256, sparse))
        inference: Inference = "threshold" if architecture in ("batchtopk", "matryoshka") else sae.inference
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            sae.sae.save_inference_model(folder)
            theirs = fvu_of(x, SAE.load_from_disk(folder)(x))
        ours, coded = fvu(sae, x, inference), fvu_of(x, sae.decode(sae.encode(x, inference)))
        print(f"{architecture:9} sparse={sparse!s:5} ours {ours:.7f}, by codes {coded:.7f}, SAELens {theirs:.7f}")
        assert max(abs(ours - theirs), abs(coded - theirs)) < 1e-5 * theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="our encoding against SAELens' own")
    options = commands.add_parser("tune", help="held-out fvu by settings, at equal nominal seconds")
    options.add_argument("--train", type=Path, required=True, help="a tensor [n, d_model] saved by torch")
    options.add_argument("--heldout", type=Path, required=True)
    for name, (kind, default) in AXES.items():
        options.add_argument("--" + name.replace("_", "-"), nargs="+", type=kind, default=default)
    arguments = parser.parse_args()
    check() if arguments.command == "check" else tune(arguments)


if __name__ == "__main__":
    main()
