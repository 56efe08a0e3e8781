"""The blocks of a transformers model, and the activations in the output of a module."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOWERS = re.compile(r"vision|visual|image|audio|speech|video", re.IGNORECASE)
"""Matches the names of modules that read something else than text."""


def text_model(model: PreTrainedModel) -> nn.Module:
    """Return the part of a model that reads text: all of it, or the part that an audio or vision tower feeds."""
    try:
        found = model.get_decoder()
    except (AttributeError, NotImplementedError):
        return model
    return found if isinstance(found, nn.Module) else model


def text_config(model: PreTrainedModel) -> Any:
    """Return the configuration of the part of a model that reads text."""
    return getattr(text_model(model), "config", model.config).get_text_config()


def find_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the blocks that text goes through.

    It is the outermost list in the part that reads text which is as long as the configuration says the model is deep.
    Raises `ModelError` if there is none, if attention and MLPs have lists of their own, and for a model that has an
    encoder and a decoder.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} has an encoder and a decoder: use a decoder-only or an encoder-only model")
    config = text_config(model)
    depths = [getattr(config, each, None) for each in ("decoder_layers", "num_hidden_layers", "num_layers")]
    lists = [
        (depths.index(len(module)), path.count("."), path, module)
        for part in (text_model(model), model)
        for path, module in part.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in depths and not TOWERS.search(path)
    ]
    if not lists:
        deep = next((f" {depth}" for depth in depths if depth is not None), "")
        raise ModelError(f"{name} has no list of{deep} blocks: use a transformer of the usual form")
    found = min(lists, key=lambda entry: entry[:3])[3]
    kind = type(found[0]).__name__
    if isinstance(found[0], nn.ModuleList) or kind.endswith("Attention"):
        raise ModelError(f"{name} has a list of {kind} where others have blocks: use a transformer of the usual form")
    return found


@dataclass(frozen=True, eq=False)
class Place:
    """The place of a site's activation: a module, and the multiple of its output."""

    module: nn.Module
    scale: float = 1.0

    def read(self, output: Any, shape: Sequence[int], d_model: int) -> Float[Tensor, "windows tokens d_model"]:
        """Return the activations in the module's output, as a copy. Raises `ModelError` for another shape."""
        # A copy, since the model may write to it later (as ModernBERT's residual sum does).
        return self.scaled(activations_in(output, shape, d_model).clone())

    def scaled(self, found: Tensor) -> Tensor:
        """Return the multiple of the module's output that is the activation, in whatever shape it is given."""
        return found if self.scale == 1 else found * self.scale

    def write(self, output: Any, activations: Float[Tensor, "n d_model"], mask: Bool[Tensor, "windows tokens"]) -> Any:
        """Return the module's output with other activations where `mask` is true."""
        given = tensor_of(output)
        found = activations_in(output, mask.shape, activations.shape[-1]).clone()
        if self.scale != 1:
            # An activation that stays the same keeps its bits: a product and a quotient would change them.
            same = activations == found[mask] * self.scale
            activations = torch.where(same, found[mask], activations / self.scale)
        found[mask] = activations.to(found)
        return with_tensor(output, found.view(given.shape))


def activations_in(output: Any, shape: Sequence[int], d_model: int) -> Float[Tensor, "windows tokens d_model"]:
    """Return the activations in a module's output for windows of shape [windows, tokens].

    Windows and tokens may share one axis (as in OPT's MLP). Raises `ModelError` for another shape.
    """
    found, shape = tensor_of(output), tuple(shape)
    if not isinstance(found, Tensor):
        raise ModelError(f"a block returns a {type(found).__name__} and no activations: use another model")
    if found.shape == (*shape, d_model):
        return found
    if found.shape == (math.prod(shape), d_model):
        return found.view(*shape, d_model)
    raise ModelError(
        f"a block returns {list(found.shape)} where windows, tokens and d_model are {[*shape, d_model]}: "
        "use a model with one residual stream"
    )


def tensor_of(output: Any) -> Any:
    """Return the tensor in a module's output: the output itself, or the first item of a tuple or list."""
    return output[0] if isinstance(output, tuple | list) and output else output


def with_tensor(output: Any, activations: Tensor) -> Any:
    """Return a module's output with another tensor in it."""
    if isinstance(output, tuple | list):
        return type(output)([activations, *output[1:]])
    return activations
