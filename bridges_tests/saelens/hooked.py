"""HookedTransformers of models that TransformerLens does not know by name, with their weights as they are."""

import json
from pathlib import Path

import torch
from sources.models import families
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as loading
from transformers import AutoTokenizer, PreTrainedModel

FROM_NAMES = {"gemma": "google/gemma-2b", "gemma-2": "google/gemma-2-2b"}
"""Families whose settings TransformerLens has by the names of their models alone; sizes are then put in."""


def saved(model: PreTrainedModel, tokenizer, folder: Path) -> Path:
    """A model in a folder, as TransformerLens reads one."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    if settings["model_type"] == "gpt2":  # it asks for what transformers 5 does not write
        (folder / "config.json").write_text(json.dumps(settings | {"n_ctx": settings["n_positions"]}))
    return folder


def hooked(model: PreTrainedModel, folder: Path, family: str = "", kind: type = HookedTransformer) -> HookedTransformer:
    """The HookedTransformer of a model that is in memory and in a folder."""
    if family in FROM_NAMES:
        known = loading.get_pretrained_model_config(FROM_NAMES[family], device="cpu").to_dict()
        config = HookedTransformerConfig.from_dict(known | _sizes(model, known))
    else:
        config = loading.get_pretrained_model_config(str(folder), device="cpu")
    found = kind(config, tokenizer=AutoTokenizer.from_pretrained(folder), move_to_device=False)
    weights = loading.get_pretrained_state_dict(str(folder), config, model.to(torch.float32))
    off = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    found.load_and_process_state_dict(weights, **dict.fromkeys(off, False))
    return found.eval()


def _sizes(model: PreTrainedModel, known: dict) -> dict:
    config = model.config
    sizes = {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_head": config.head_dim,
        "d_mlp": config.intermediate_size,
        "d_vocab": config.vocab_size,
        "d_vocab_out": config.vocab_size,
        "n_ctx": families.CONTEXT,
        "rotary_dim": config.head_dim,
        "attn_types": None,
        "attn_scale": config.head_dim**0.5,
        "act_fn": "gelu_pytorch_tanh",  # TransformerLens 3.9 has the exact GELU for Gemma 1, unlike the model itself
    }
    if known.get("attn_types"):
        kinds = {"sliding_attention": "local", "full_attention": "global"}
        sizes["attn_types"] = [kinds[each] for each in config.layer_types]
        sizes |= {"window_size": config.sliding_window, "attn_scale": config.query_pre_attn_scalar**0.5}
    return sizes
