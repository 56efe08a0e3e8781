"""Every causal family of transformers, made tiny from its configuration, whatever its settings are called."""

import dataclasses
import itertools
import re
from functools import cache
from typing import Any

import torch
import transformers
from sources.models.families import CONTEXT, STREAMS, VOCABULARY, WIDTH, byte_tokenizer, ragged_group, real
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from itda.core.batch import Site
from itda.errors import ModelError
from itda.sources.models.blocks import Place, find_blocks, tensor_of
from itda.sources.models.hooks import Hook, hooked
from itda.sources.models.replay import split
from itda.sources.models.transformers import LanguageModel
from itda.sources.models.trial import tried
from itda.sources.tokenizing.windows import Group

ADDED = STREAMS[1:]

HEADS, DEPTH, INNER, SMALL, FEW = 4, 2, 48, 8, 2
SIZES: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "sep_token_id": 0,
    "cls_token_id": 0,
    "decoder_start_token_id": 0,
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "embed_dim", "embedding_size", "hidden_dim"), WIDTH
    ),
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size"), WIDTH),
    **dict.fromkeys(("projection_dim", "out_hidden_size", "hidden_size_global"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "num_blocks"), DEPTH),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_layers_per_stack"), DEPTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "dim_ff", "dff", "d_inner"), INNER),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dense_intermediate_size", "intermediate_size_mlp"), INNER),
    **dict.fromkeys(("moe_intermediate_size", "shared_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("expert_ffn_hidden_size",), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k", "hc_mult", "altup_num_inputs"), FEW),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups", "first_k_dense_replace"), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"), 1),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "dim_head", "kv_channels", "swa_head_dim"), SMALL),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "mamba_head_dim"), SMALL),
    **dict.fromkeys(("mamba_d_state", "mamba_d_head", "mamba_n_heads", "mamba_num_heads", "ssm_state_size"), SMALL),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "state_size", "attention_chunk_size", "rel_extent"), SMALL),
    **dict.fromkeys(("sliding_window", "local_attention", "attention_window", "sliding_window_size"), SMALL),
    **dict.fromkeys(("image_size", "hidden_size_per_layer_input"), SMALL),
    **dict.fromkeys(("qk_rope_head_dim", "index_topk", "laurel_rank", "rotary_dim", "mamba_dt_rank", "patch_size"), 4),
    **dict.fromkeys(("time_step_rank", "d_rel"), 4),
    **dict.fromkeys(("index_n_heads", "linear_num_key_heads", "linear_num_value_heads", "type_vocab_size"), 2),
    **dict.fromkeys(("num_mtp_layers", "num_nextn_predict_layers"), 0),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("vocab_size_per_layer_input", "decoder_vocab_size"), VOCABULARY),
    "qk_head_dim": 12,
    "linear_head_dim": SMALL,
    "linear_num_heads": HEADS,
    "mamba_d_ssm": 2 * WIDTH,
    "num_channels": 3,
}
"""What a setting of this name becomes, in whatever configuration it is."""

KINDS = ("layer_types", "mlp_layer_types", "layers_block_type")
"""Settings that name the kind of each block: a tiny model has one block of each."""

SPECIAL: dict[str, dict[str, object]] = {
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": INNER},
    },
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": {"residual_multiplier": 0.22},
    "granite_swa": {"residual_multiplier": 0.22},
    "granitemoe": {"residual_multiplier": 0.22},
    "granitemoe_swa": {"residual_multiplier": 0.22},
    "granitemoehybrid": {"residual_multiplier": 0.22},
    "granitemoeshared": {"residual_multiplier": 0.22},
    "longcat_flash": {"head_dim": 4, "qk_nope_head_dim": 8, "qk_head_dim": 12},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 24],
        "attention_head_size": 8,
        "feed_forward_size": INNER,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
        "hash_seed": 0,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": VOCABULARY,
        "shape_embed_dim": 8,
        "shape_vocab_size": VOCABULARY,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a family wants."""

DECODERS = ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "git")
DECODERS += ("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta")
DECODERS += ("xlm-roberta-xl", "xmod")
"""Encoders that transformers can make causal, if they are told to be."""

NOT_TINY: dict[str, str] = {
    "gemma3n": "its vision tower wants the package timm",
    "gemma4_assistant": "it drafts for another model, whose states it reads",
    "gemma4_unified_assistant": "it drafts for another model, whose states it reads",
    "musicgen": "it reads codes of sounds",
    "musicgen_melody": "it reads codes of sounds",
}
"""Families that are not made here, and why."""


def _tiny(kind: type, **more: object) -> transformers.PreTrainedConfig:
    """A configuration of a class with small sizes in all its parts."""
    names = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    chosen = {name: size for name, size in SIZES.items() if name in names}
    for other, own in kind.attribute_map.items():
        if own in chosen:
            chosen.pop(other, None)
    if "kv_lora_rank" in names:
        chosen["num_key_value_heads"] = HEADS
    try:
        usual = kind()
    except Exception:  # some have no defaults that fit together
        usual = None
    for name in KINDS:
        kinds = list(dict.fromkeys(getattr(usual, name, None) or ()))
        if name in names and name not in kind.attribute_map and len(kinds) > 1:
            chosen[name] = kinds
    depth = max((len(chosen[name]) for name in KINDS if name in chosen), default=0)
    for name in (*KINDS, "num_hidden_layers", "num_layers", "n_layer", "n_layers"):
        if depth and name in chosen:
            chosen[name] = (chosen[name] * depth)[:depth] if name in KINDS else depth
    for name, part in kind.sub_configs.items():
        part = part if dataclasses.is_dataclass(part) else type(getattr(usual, name, None))
        if name in names and dataclasses.is_dataclass(part):
            chosen[name] = _tiny(part, **SPECIAL.get(part.model_type, {})).to_dict()  # pyright: ignore[reportAttributeAccessIssue]
    return kind(**chosen | more)


def tiny_config(family: str) -> transformers.PreTrainedConfig:
    """The configuration of a tiny model of a family, named as transformers names its type."""
    more = {"is_decoder": True} if family in DECODERS else {}
    return _tiny(CONFIG_MAPPING[family], **more, **SPECIAL.get(family, {}))


def tiny_model(family: str) -> PreTrainedModel:
    """A new model of a family. Every weight has noise, norms included, so that no two parts look alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


EVERY = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MADE = tuple(family for family in EVERY if family not in NOT_TINY)


@dataclasses.dataclass
class Outcome:
    """What came of reading a family."""

    layers: int = 0
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    """The message by site; by `model` if no block can be read."""
    norm_follows: bool = False
    scaled: bool = False
    wrong: list[str] = dataclasses.field(default_factory=list)
    """What was read, and is not what the model computes."""


@cache
def outcome(family: str) -> Outcome:
    """Read all sites of a tiny model, and compare them with what its own forward pass makes."""
    model = LanguageModel(tiny_model(family), byte_tokenizer(), family)
    found, group = Outcome(), ragged_group(model, window=12, size=3)
    try:
        found.layers = model.layers
        model.check([Site(layer) for layer in range(model.layers)])
    except ModelError as error:
        found.refused["model"] = str(error)
        return found
    sites = []
    for layer, stream in itertools.product(range(model.layers), STREAMS):
        try:
            model.check([Site(layer, stream)])
            sites.append(Site(layer, stream))
        except ModelError as error:
            found.refused[str(Site(layer, stream))] = str(error)
    known = tried(model.model).added
    found.norm_follows = any(each.norm_follows for each in known.values())
    found.scaled = any(place.scale != 1 for place in model.places(sites).values())
    mask = real(group)
    read = {site: x[mask] for site, x in model.activations(group, sites).items()}
    if not found.norm_follows:
        for layer in range(model.layers):
            found.wrong += _not_added(model, group, layer, read)
    found.wrong += _not_hidden(model, group, read)
    if model.is_causal and _sees_what_follows(model, group):
        found.wrong.append("predictions")
    return found


def _sees_what_follows(model: LanguageModel, group: Group) -> bool:
    """Whether predictions depend on a later token."""
    place = int(group.attention_mask[0].sum()) - 1
    ids = group.input_ids.clone()
    ids[0, place] += 1
    before, after = model.logits(group), model.logits(dataclasses.replace(group, input_ids=ids))
    return not close(after[0, :place], before[0, :place])


def _not_added(model: LanguageModel, group: Group, layer: int, read: dict[Site, Tensor]) -> list[str]:
    """What was read of a block that is not what it adds to its input."""
    end, parts = read[Site(layer)], {s.stream: x for s, x in read.items() if s.layer == layer and s.stream in ADDED}
    start, same = _without(model, group, layer, ())
    wrong = [] if torch.equal(same, end) else ["the block's output"]
    if "mlp_out" in parts and not close(_without(model, group, layer, ("mlp_out",))[1], end - parts["mlp_out"]):
        wrong.append("mlp_out, taken out")
    if set(parts) == set(ADDED) or set(parts) == {"attn_out"}:
        if not close(start + sum(parts.values()), end):
            wrong.append("the sum")
        if not close(_without(model, group, layer, tuple(parts))[1], start):
            wrong.append("the sum, taken out")
    return [f"block {layer}: {each}" for each in wrong]


def _without(model: LanguageModel, group: Group, layer: int, streams: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """What goes into and out of a block whose attention or MLP gives zeros, where there are tokens."""
    block, mask, seen = find_blocks(model.model)[layer], real(group), {}

    def zeros(place: Place) -> Hook:
        return lambda output: place.write(output, torch.zeros(int(mask.sum()), model.d_model), mask)

    def before(args: tuple, kwargs: dict[str, Any]) -> None:
        seen["before"] = split(args, kwargs)[0].clone()

    places = [model.places([Site(layer, stream)])[Site(layer, stream)] for stream in streams]
    hooks: list[tuple[Any, Hook]] = [(place.module, zeros(place)) for place in places]
    hooks.append((block, lambda output: seen.update(after=tensor_of(output).clone())))
    with torch.inference_mode(), hooked(hooks, [(block, before)]):
        model.forward(model.model.base_model, group)
    return seen["before"][mask], seen["after"][mask]


def _not_hidden(model: LanguageModel, group: Group, read: dict[Site, Tensor]) -> list[str]:
    """The layers whose resid_post is not the model's own hidden state; the last one's is that before a norm."""
    mask = real(group)
    with torch.inference_mode():
        output = model.forward(model.model.base_model, group, output_hidden_states=True)
        states = [state[mask] for state in output.hidden_states]
        if not torch.equal(states[0], _without(model, group, 0, ())[0]):
            states.insert(0, states[0])  # Mamba's list begins after the first block
        wrong = [layer for layer in range(model.layers - 1) if not torch.equal(read[Site(layer)], states[layer + 1])]
        last = read[Site(model.layers - 1)]
        norms = [module for name, module in model.model.named_modules() if re.search("norm|ln", name, re.IGNORECASE)]
        if not torch.equal(last, states[-1]) and not any(_norms(norm, last, states[-1]) for norm in norms):
            wrong.append(model.layers - 1)
    return [f"resid_post of block {layer}" for layer in wrong]


def _norms(norm: torch.nn.Module, last: Tensor, state: Tensor) -> bool:
    try:
        return close(norm(last), state)
    except Exception:  # a module of another kind
        return False


def close(one: Tensor, two: Tensor) -> bool:
    """Equal but for rounding."""
    return one.shape == two.shape and torch.allclose(one, two, rtol=1e-4, atol=1e-4 * float(two.abs().max()))


def lists() -> str:
    """What came of all families, as docs/models.md has it."""
    whole, norms, some, alone, none = [], [], [], [], []
    for family in MADE:
        found = outcome(family)
        if "model" in found.refused:
            none.append(f"- {family}: {found.refused['model']}")
        elif not found.refused:
            (norms if found.norm_follows else whole).append(family + " \\*" * found.scaled)
        elif len(found.refused) == found.layers * len(ADDED):
            alone.append(family)
        else:
            some.append(family)
    unmade = [f"- {family}: {reason}" for family, reason in NOT_TINY.items()]
    parts = {
        "All streams": whole,
        "All streams; a norm follows each sum": norms,
        "resid_post, and the others in some blocks": some,
        "resid_post alone": alone,
    }
    text = [f"**{title}** ({len(families)}): {', '.join(families)}." for title, families in parts.items()]
    text.append("\n".join([f"**Refused** ({len(none)}):", "", *none]))
    text.append("\n".join([f"**Not tried** ({len(unmade)}):", "", *unmade]))
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    print(lists(), end="")
