"""Estimates of what a streamed model reads, holds and computes, from its configuration alone: nothing is loaded.

The arithmetic is that of `StreamedModel`, by the same functions (`itda.sources.streamed.memory_use`). Bytes are
counted; seconds are bytes and operations, divided by the rates of the machine, which are assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from itda.core.batch import Site
from itda.sources.models.blocks import find_blocks
from itda.sources.models.limits import loader_of
from itda.sources.models.named import NamedModel
from itda.sources.models.splicing import REPLACEMENTS, branches
from itda.sources.models.streams import site_module
from itda.sources.streamed.memory_use import groups_in_flight, left_for_hidden_states, weights_in_use
from itda.sources.streamed.model import LOGITS

LOGITS_BYTES = 4 * 4 * LOGITS
"""Bytes of logits in evaluation, at most: clean and spliced ones in float32, and a masked copy of each."""

PROCESS_BYTES = 700 * 2**20
"""Bytes of memory of a Python process with all libraries."""

CUDA_BYTES = 2**30
"""Bytes of a GPU's memory that CUDA and its libraries take; an assumption."""


@dataclass(frozen=True)
class ModelShape:
    """How large a model is, in numbers, not bytes: its blocks, and what is outside them."""

    name: str
    blocks: tuple[int, ...]
    """Number of parameters of each block."""
    active: tuple[int, ...]
    """Number of each block's parameters that multiply each token: not all, where a block has experts."""
    embeddings: int
    """Number of parameters of the base model outside its blocks."""
    head: int
    """Number of parameters of the unembedding; 0 if it is the embedding, or there is none."""
    unembedding: int
    """Number of multiplications for the logits of one token; 0 for a model that does not predict the next token."""
    outputs: int
    """Numbers that a block computes for each token on its way, at most."""
    d_model: int
    attention: int
    """Width of all heads of a block together."""
    dtype: torch.dtype
    """The dtype of the weights in the model's files."""
    quantized: bool
    """True if the model's files have fewer bits than `dtype`, so that less is read than is estimated."""

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(self.blocks) + self.embeddings + self.head

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self.parameters * self.dtype.itemsize

    @staticmethod
    def of(
        name: str, *, sites: Sequence[Site] = (), revision: str | None = None, trust_remote_code: bool = False
    ) -> ModelShape:
        """Find the shape of a model by its Hub id, a folder that has a config.json, or such a file.

        Raises `ModelError` if it cannot be read, or the model lacks one of `sites`.
        """
        path = Path(name).expanduser()
        if path.is_file():
            named = NamedModel(name, str(path), "cpu", "auto", revision, trust_remote_code)
        else:
            named = NamedModel.named(name, revision=revision, device="cpu", trust_remote_code=trust_remote_code)
        with named.explained():
            config = named.config()
            model = _empty(config, trust_remote_code)
            blocks = find_blocks(model)
            for site in sites:
                site_module(blocks, site)
            return ModelShape.from_model(name, model)

    @staticmethod
    def from_model(name: str, model: PreTrainedModel) -> ModelShape:
        """Count the shape of a model, which need not have any weights. Raises `ModelError` if it has no blocks."""
        config = model.config.get_text_config()
        blocks = find_blocks(model)
        inside = [sum(value.numel() for value in block.parameters()) for block in blocks]
        all_of_base = sum(value.numel() for value in model.base_model.parameters())
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        heads = getattr(config, "num_attention_heads", 1)
        return ModelShape(
            name=name,
            blocks=tuple(inside),
            active=tuple(_active(block, config) for block in blocks),
            embeddings=all_of_base - sum(inside),
            head=sum(value.numel() for value in model.parameters()) - all_of_base,
            unembedding=sum(value.numel() for value in head.parameters()) if head is not None else 0,
            outputs=max(_outputs(block, config) for block in blocks),
            d_model=config.hidden_size,
            attention=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
            dtype=config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32,
            quantized=getattr(model.config, "quantization_config", None) is not None,
        )


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
    evaluation: bool = False
    """True to evaluate: dictionaries are spliced in and the predictions scored. False to make dictionaries."""

    @property
    def group(self) -> int:
        """Number of tokens that run together."""
        return self.window * self.batch_size

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
    flops: float
    """Operations per second where the model runs."""
    cpu_flops: float
    """Operations per second of the CPU, which makes dictionaries."""
    disk: float
    """Bytes per second that are read from disk."""


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
    pursuit_operations: float
    """Number of the CPU's operations for making dictionaries, at least."""
    reading_s: float
    """Seconds of reading weights."""
    computing_s: float
    """Seconds of running the model."""
    pursuit_s: float
    """Seconds of making dictionaries."""
    fits: bool
    """True if the machine has enough memory."""

    @property
    def seconds(self) -> float:
        """Seconds of all: the next block is read while one runs, and dictionaries grow between groups."""
        return max(self.reading_s, self.computing_s) + self.pursuit_s

    @property
    def limit(self) -> str:
        """The part that takes longest: disk, model or dictionaries."""
        taken = {"disk": self.reading_s, "model": self.computing_s, "dictionaries": self.pursuit_s}
        return max(taken, key=lambda name: taken[name])


def estimate(shape: ModelShape, work: Work, machine: Machine) -> Estimate:
    """Estimate the bytes, operations and seconds of streaming a model over some tokens."""
    dtype = machine.dtype or (torch.float32 if machine.gpu is None else shape.dtype)
    size, layers = dtype.itemsize, max(site.layer for site in work.sites) + 1
    if work.evaluation and shape.unembedding:
        layers = len(shape.blocks)
    outside = shape.embeddings + (shape.head if work.evaluation else 0)
    weights = weights_in_use(size * max(shape.blocks), size * outside)
    working = work.group * (size * (shape.outputs + 4 * shape.d_model) + 2 * 4 * shape.d_model)
    working += LOGITS_BYTES if work.evaluation and shape.unembedding else 0

    state = work.group * shape.d_model * size * work.branches
    memory = left_for_hidden_states(machine.model_memory, weights, "cpu" if machine.gpu is None else "cuda")
    fly = groups_in_flight(work.group, state, memory, lambda: machine.scratch)
    groups = math.ceil(work.tokens / work.group)
    flights, fly = math.ceil(groups / fly), min(fly, groups)
    states = fly * state
    on_disk = states > memory and machine.scratch > 0

    dictionaries = len(work.sites) * (4 * work.atoms * shape.d_model + 2 * work.atoms**2)
    ram = PROCESS_BYTES + (0 if on_disk else states) + dictionaries
    gpu = 0
    if machine.gpu is None:
        ram += weights + working
    else:
        gpu = weights + working + CUDA_BYTES
    read = flights * shape.dtype.itemsize * sum(shape.blocks[:layers]) + shape.dtype.itemsize * outside
    operations = _operations(shape, work, layers)
    pursuit = 2.0 * work.tokens * len(work.sites) * work.atoms * (shape.d_model + work.k)
    return Estimate(
        dtype=str(dtype).removeprefix("torch."),
        whole_model=size * (shape.parameters - (0 if work.evaluation else shape.head)),
        weights=weights,
        working=working,
        states=states,
        states_on_disk=on_disk,
        dictionaries=dictionaries,
        gpu=gpu,
        ram=ram,
        in_flight=min(work.tokens, fly * work.group),
        flights=flights,
        bytes_read=read,
        operations=operations,
        pursuit_operations=pursuit,
        reading_s=read / machine.disk,
        computing_s=operations / machine.flops,
        pursuit_s=pursuit / machine.cpu_flops,
        fits=ram <= machine.ram and (machine.gpu is None or gpu <= machine.gpu),
    )


def _operations(shape: ModelShape, work: Work, layers: int) -> float:
    """Count 2 for each parameter and token, and 2 for each pair of tokens of a window in both products of attention."""
    block = [2.0 * active + 4.0 * work.window * shape.attention for active in shape.active]
    each = sum(block[:layers])
    if work.evaluation:
        each += sum(len(REPLACEMENTS) * sum(block[site.layer + 1 : layers]) for site in work.sites)
        each += 2.0 * shape.unembedding * work.branches
    return each * work.tokens


def _empty(config: Any, trust_remote_code: bool) -> PreTrainedModel:
    """Make a model without memory for its weights; with its head if it predicts the next token: `NamedModel.model`."""
    loader = loader_of(config)
    with torch.device("meta"):
        if issubclass(loader, PreTrainedModel):
            return loader._from_config(config)
        return loader.from_config(config, trust_remote_code=trust_remote_code)


def _experts(config: Any) -> tuple[int, int]:
    """Return how many experts a block has, and how many of them see a token; 0 and 1 without any."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    number = next((value for name in names if (value := getattr(config, name, None))), 0)
    return number, getattr(config, "num_experts_per_tok", None) or 1


def _matrices(block: nn.Module, config: Any) -> Iterator[tuple[nn.Module, torch.Tensor, float]]:
    """Yield the modules of the parameters that multiply, these, and the share of them that multiplies a token."""
    number, chosen = _experts(config)
    for name, module in block.named_modules():
        for value in module._parameters.values():
            if value is None or value.ndim < 2:
                continue
            fused = number > 1 and value.ndim == 3 and value.shape[0] == number
            listed = number > 1 and any(part.isdecimal() for part in name.split("."))
            yield module, value, chosen / number if fused or listed else 1.0


def _active(block: nn.Module, config: Any) -> int:
    return round(sum(share * value.numel() for _, value, share in _matrices(block, config)))


def _outputs(block: nn.Module, config: Any) -> int:
    """Count the numbers that a block's products make for one token; the widest twice, for the activation function.

    They are not all in memory at the same time, so this is more than is needed.
    """
    widths = []
    for module, value, share in _matrices(block, config):
        width = getattr(module, "out_features", None) or getattr(module, "nf", None)
        if width is None:  # fused experts: the shape does not say which side is the output
            width = max(value.shape[1:])
        widths.append(width * (_experts(config)[1] if share < 1 and value.ndim == 3 else share))
    return math.ceil(sum(widths) + max(widths, default=0))


def runs_whole(found: Estimate, machine: Machine) -> bool:
    """Return True if `itda train` would not stream the model by itself, with all of the machine's memory free."""
    return found.whole_model <= (int(0.9 * machine.gpu) if machine.gpu is not None else machine.ram)
