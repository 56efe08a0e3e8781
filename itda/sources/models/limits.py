"""Limits of a transformers model: how many tokens it reads and knows, and whether it predicts the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers
from torch import Tensor, nn

from itda.sources.models.blocks import text_config, text_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""The names that configurations use for the most tokens that a model reads."""
CAUSAL = ("CausalLM", "LMHead")
GENERATES = "ForConditionalGeneration"
"""Parts of the names of classes with a head that predicts the next token."""


def context_of(model: PreTrainedModel) -> int | None:
    """Return the most tokens that a model reads; None if its configuration does not say.

    RoBERTa and its like number positions from after the padding token's, so they read fewer tokens than they have
    position embeddings.
    """
    config = text_config(model)
    found = next((length for name in LENGTHS if (length := getattr(config, name, None))), None)
    if not isinstance(found, int) or found < 1:  # XLNet says -1 for as many as there are
        return None
    for name, module in text_model(model).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            if module.padding_idx is not None and module.num_embeddings == found:
                return found - module.padding_idx - 1
    return found


def rows_of(model: PreTrainedModel) -> int:
    """Return how many tokens a model has embeddings for, by the matrix itself or else by the configuration."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.ndim == 2 else text_config(model).vocab_size


def predicts_next(model: PreTrainedModel) -> bool:
    """Return True if a model has a head that predicts the next token from those before it alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    name, config = type(model).__name__, text_config(model)
    if getattr(model.config, "is_encoder_decoder", False):
        return False
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", True):
        return False  # like BERT, which reads the following tokens too unless it is told not to
    return any(part in name for part in (*CAUSAL, GENERATES))


def loader_of(config: PreTrainedConfig) -> Any:
    """Return the class that loads the model of a configuration, with its head if that predicts the next token."""
    names = config.architectures or []
    if any(part in name for name in names for part in CAUSAL):
        return transformers.AutoModelForCausalLM
    if not getattr(config, "is_encoder_decoder", False):
        # Models that read pictures or sounds too, and encoders of models that have a decoder as well.
        for name in names:
            if name.endswith((GENERATES, "EncoderModel")) and hasattr(transformers, name):
                return getattr(transformers, name)
    return transformers.AutoModel
