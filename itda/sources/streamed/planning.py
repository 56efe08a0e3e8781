"""Estimates of what a streamed model reads, holds and computes, from its configuration alone: nothing is loaded.

The arithmetic is that of `StreamedModel`, by the same functions (`itda.sources.streamed.memory_use`). Bytes are
counted; seconds are bytes, operations and tokens at the rates of the machine, which are measured or assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from itda.core.batch import Site
from itda.core.training.centres import readings, usual_steps
from itda.core.training.growth import GrowOn
from itda.core.training.growth_bytes import block_bytes, dictionary_bytes, growth_bytes
from itda.core.training.kept import SHARE
from itda.core.training.refine import pass_size
from itda.core.training.settings import stride_of
from itda.sources.models.splicing import REPLACEMENTS, branches
from itda.sources.streamed.memory_use import groups_in_flight, left_for_hidden_states, weights_in_use
from itda.sources.streamed.model import LOGITS
from itda.sources.streamed.model_shape import ModelShape
from itda.sources.streamed.rates import Rates

LOGITS_BYTES = 4 * 4 * LOGITS
"""Bytes of logits in evaluation, at most: clean and spliced ones in float32, and a masked copy of each."""

PROCESS_BYTES = 700 * 2**20
"""Bytes of memory of a Python process with all libraries."""

NEAREST = 0.25
"""What finding the nearest atom costs, as a share of encoding; an assumption, near to what a CPU takes at k 20."""

CUDA_BYTES = 2**30
"""Bytes of a GPU's memory that CUDA and its libraries take; an assumption."""


@dataclass(frozen=True)
class Work:
    """The work to estimate: tokens to read, and dictionaries to make or to evaluate."""

    sites: Sequence[Site]
    tokens: int
    """Number of tokens in full windows: where documents are short, padding comes on top."""
    window: int
    batch_size: int
    atoms: int
    """Number of atoms of each dictionary."""
    k: int
    recipe: int = 1
    """How dictionaries are made: 1 grows and refines them, 2 groups activations."""
    passes: int = 0
    """Passes of refinement, or rounds of recipe 2."""
    evaluation: bool = False
    """True to evaluate: dictionaries are spliced in and the predictions scored. False to make dictionaries."""

    @property
    def group(self) -> int:
        """Number of tokens that run together."""
        return self.window * self.batch_size

    @property
    def grows(self) -> bool:
        """True if dictionaries grow; recipe 2 makes their atoms in the end."""
        return self.recipe == 1

    def encoded(self, d_model: int) -> int | float:
        """Return how many tokens making each dictionary encodes after growth, or does what costs as much."""
        if self.grows:
            return self.passes * min(self.tokens, pass_size(self.atoms, self.k))
        kept = self.kept(d_model)
        steps = usual_steps(kept, self.atoms)
        return kept * (steps + NEAREST * (readings(self.passes, steps) - steps))

    def kept(self, d_model: int) -> int:
        """Return the number of activations of each site that are kept for what is made in the end."""
        stride = stride_of(self.tokens, d_model, atoms=self.atoms, recipe=self.recipe, passes=self.passes)
        return math.ceil(self.tokens / stride) if stride else 0

    @property
    def branches(self) -> int:
        """Number of hidden states that are kept for each token."""
        return branches(len(self.sites)) if self.evaluation else 1


@dataclass(frozen=True)
class Machine:
    """The machine to estimate for: its memory and its rates."""

    gpu: int | None
    """Bytes of memory of its GPU, if it has one."""
    ram: int
    """Bytes of the machine's memory."""
    dtype: torch.dtype | None
    """The dtype of the weights in memory; None for float32 without a GPU, and the model's own with one."""
    model_memory: int
    """Bytes for the streamed model's hidden states; without a GPU, for its weights too."""
    scratch: int
    """Free bytes on a disk for hidden states."""
    rates: Rates
    grow_on: GrowOn = "auto"
    """Where dictionaries grow; on the CPU in any case without a GPU."""


@dataclass(frozen=True)
class Estimate:
    """The bytes, operations and seconds that some work takes on a machine."""

    dtype: str
    """The dtype of the weights in memory."""
    whole_model: int
    """Bytes of memory for all weights, if they were not streamed."""
    weights: int
    """Bytes of the blocks that are in memory together, and of all weights outside the blocks."""
    working: int
    """Bytes that running one group of windows takes besides."""
    states: int
    """Bytes of the hidden states of all tokens in flight."""
    states_on_disk: bool
    """True if they are in a file."""
    dictionaries: int
    """Bytes of the atoms and Gram matrices of all sites."""
    growing: int
    """Bytes that growth on a GPU works with besides."""
    kept: int
    """Bytes of the activations that are kept for the end: in RAM, and on the GPU too if they are few beside it."""
    on_gpu: bool
    """True if dictionaries are on the GPU."""
    gpu: int
    """Bytes of the GPU's memory, at most; 0 without one."""
    ram: int
    """Bytes of the machine's memory, at most."""
    in_flight: int
    """Number of tokens in flight."""
    flights: int
    """How often the blocks are read."""
    bytes_read: int
    """Bytes of weights that are read from disk."""
    operations: float
    """Number of the model's operations."""
    reading_s: float
    """Seconds of reading weights."""
    computing_s: float
    """Seconds of running the model."""
    moving_s: float
    """Seconds of copying hidden states to the GPU and back; 0 without one."""
    pursuit_s: float
    """Seconds of making dictionaries, or of encoding with them."""
    fits: bool
    """True if the machine has enough memory."""

    @property
    def seconds(self) -> float:
        """Seconds of all: the next block is read while one runs. Dictionaries grow between groups of windows."""
        return max(self.reading_s, self.computing_s + self.moving_s) + self.pursuit_s

    @property
    def limit(self) -> str:
        """The part that takes longest: disk, model or dictionaries."""
        taken = {"disk": self.reading_s, "model": self.computing_s, "dictionaries": self.pursuit_s}
        return max(taken, key=lambda name: taken[name])


class _Made(NamedTuple):
    """What dictionaries take, and where they are."""

    atoms_and_gram: int
    growing: int
    on_gpu: bool


def estimate(shape: ModelShape, work: Work, machine: Machine) -> Estimate:
    """Estimate the bytes, operations and seconds of streaming a model over some tokens."""
    dtype = machine.dtype or (torch.float32 if machine.gpu is None else shape.dtype)
    size, layers = dtype.itemsize, max(site.layer for site in work.sites) + 1
    if work.evaluation and shape.unembedding:
        layers = len(shape.blocks)
    weights, working = _model_memory(shape, work, size)

    state = work.group * shape.d_model * size * work.branches
    memory = left_for_hidden_states(machine.model_memory, weights, "cpu" if machine.gpu is None else "cuda")
    fly = groups_in_flight(work.group, state, memory, lambda: machine.scratch)
    groups = math.ceil(work.tokens / work.group)
    flights, fly = math.ceil(groups / fly), min(fly, groups)
    states = fly * state
    on_disk = states > memory and machine.scratch > 0

    model = weights + working
    kept = 0 if work.evaluation else len(work.sites) * work.kept(shape.d_model) * shape.d_model * size
    kept_on_gpu = _kept_on_gpu(shape.d_model, work, machine, model + CUDA_BYTES, kept)
    made = _dictionaries(shape.d_model, work, machine, model + CUDA_BYTES + kept_on_gpu)
    gpu = model + CUDA_BYTES + kept_on_gpu + (made.atoms_and_gram + made.growing) * made.on_gpu
    # Checkpoints have copies of what is on a GPU.
    atoms = len(work.sites) * 4 * work.atoms * shape.d_model if made.on_gpu else made.atoms_and_gram
    ram = PROCESS_BYTES + (0 if on_disk else states) + kept + atoms + (model if machine.gpu is None else 0)
    read = shape.dtype.itemsize * (flights * sum(shape.blocks[:layers]) + _outside(shape, work))
    operations = _operations(shape, work, layers)
    return Estimate(
        dtype=str(dtype).removeprefix("torch."),
        whole_model=size * (shape.parameters - (0 if work.evaluation else shape.head)),
        weights=weights,
        working=working,
        states=states,
        states_on_disk=on_disk,
        dictionaries=made.atoms_and_gram,
        growing=made.growing,
        kept=kept,
        on_gpu=made.on_gpu,
        gpu=gpu if machine.gpu is not None else 0,
        ram=ram,
        in_flight=min(work.tokens, fly * work.group),
        flights=flights,
        bytes_read=read,
        operations=operations,
        reading_s=read / machine.rates.disk,
        computing_s=operations / machine.rates.flops,
        moving_s=2 * groups * state * layers / machine.rates.link if machine.gpu is not None else 0.0,
        pursuit_s=_pursuit_seconds(shape.d_model, work, machine.rates, made.on_gpu),
        fits=ram <= machine.ram and (machine.gpu is None or gpu <= machine.gpu),
    )


def _outside(shape: ModelShape, work: Work) -> int:
    return shape.embeddings + (shape.head if work.evaluation else 0)


def _model_memory(shape: ModelShape, work: Work, size: int) -> tuple[int, int]:
    """Count the bytes of the weights in use, and of running a group of windows, in numbers of `size` bytes."""
    weights = weights_in_use(size * max(shape.blocks), size * _outside(shape, work))
    working = work.group * (size * (shape.outputs + 4 * shape.d_model) + 2 * 4 * shape.d_model)
    return weights, working + (LOGITS_BYTES if work.evaluation and shape.unembedding else 0)


def _kept_on_gpu(d_model: int, work: Work, machine: Machine, model: int, kept: int) -> int:
    """Count the bytes, of those kept for the end, that stay on the GPU: site by site, as `KeptActivations` does."""
    if machine.gpu is None or machine.grow_on == "cpu":
        return 0
    free, there, each = machine.gpu - model, 0, kept // len(work.sites)
    for _ in work.sites:
        if each <= free // SHARE:
            there, free = there + each, free - each
        free -= dictionary_bytes(work.atoms, d_model)
    return there


def _dictionaries(d_model: int, work: Work, machine: Machine, model: int) -> _Made:
    """Count what dictionaries take, and say where they are; the GPU has `model` bytes of other things."""
    sites, atoms = len(work.sites), work.atoms
    fits = model + growth_bytes(atoms, d_model, sites) <= (machine.gpu or 0)
    everything = sites * dictionary_bytes(atoms, d_model)
    if not work.grows and not work.evaluation:  # one Gram matrix at a time, and the sums of the groups in float64
        everything = sites * 4 * atoms * d_model + 2 * atoms**2 + 8 * atoms * d_model
    if work.evaluation:  # has them where the model is, if half of what that leaves is enough (`evaluate.placed`)
        return _Made(everything, 0, everything <= ((machine.gpu or 0) - model) // 2)
    asked = machine.grow_on == "gpu" or (machine.grow_on == "auto" and fits)
    return _Made(everything, block_bytes(atoms, d_model), machine.gpu is not None and asked)


def _pursuit_seconds(d_model: int, work: Work, rates: Rates, on_gpu: bool) -> float:
    costs = rates.on_gpu if on_gpu and rates.on_gpu is not None else rates.on_cpu
    if work.evaluation:
        return len(work.sites) * work.tokens * costs.encode.of(work.atoms)
    growing = costs.training(work.tokens, work.atoms) if work.grows else 0.0
    return len(work.sites) * (growing + work.encoded(d_model) * costs.encode.of(work.atoms))


def _operations(shape: ModelShape, work: Work, layers: int) -> float:
    """Count 2 for each parameter and token, and 2 for each pair of tokens of a window in both products of attention."""
    block = [2.0 * active + 4.0 * work.window * shape.attention for active in shape.active]
    each = sum(block[:layers])
    if work.evaluation:
        each += sum(len(REPLACEMENTS) * sum(block[site.layer + 1 : layers]) for site in work.sites)
        each += 2.0 * shape.unembedding * work.branches
    return each * work.tokens


def runs_whole(found: Estimate, machine: Machine) -> bool:
    """Return True if `itda train` would not stream the model by itself, with all of the machine's memory free."""
    return found.whole_model <= (int(0.9 * machine.gpu) if machine.gpu is not None else machine.ram)
