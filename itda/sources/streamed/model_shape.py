"""How large a model is, counted from its configuration alone: nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from itda.core.batch import Site
from itda.sources.models.blocks import find_blocks
from itda.sources.models.limits import loader_of
from itda.sources.models.named import NamedModel
from itda.sources.models.streams import site_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    products: tuple[tuple[int, int], ...]
    """Inputs and outputs of the matrix products of the block that has most parameters, each pair once."""
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
            products=_products(max(blocks, key=_parameters), config),
            outputs=max(_outputs(block, config) for block in blocks),
            d_model=config.hidden_size,
            attention=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
            dtype=config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32,
            quantized=getattr(model.config, "quantization_config", None) is not None,
        )


def _empty(config: Any, trust_remote_code: bool) -> PreTrainedModel:
    """Make a model without memory for its weights; with its head if it predicts the next token: `NamedModel.model`."""
    loader = loader_of(config)
    with torch.device("meta"):
        if issubclass(loader, transformers.PreTrainedModel):
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


def _parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _products(block: nn.Module, config: Any) -> tuple[tuple[int, int], ...]:
    """List the distinct pairs of inputs and outputs; of fused experts, whose sides are not named, as they are."""
    found = dict.fromkeys(_sides(module, value) for module, value, _ in _matrices(block, config))
    return tuple(found)


def _sides(module: nn.Module, value: torch.Tensor) -> tuple[int, int]:
    outputs, (rows, columns) = getattr(module, "out_features", None), value.shape[-2:]
    return (columns, rows) if outputs == rows else (rows, columns)


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
