"""All members of a family as one model: GPT-2, Llama and NeoX with a first axis over members and a second over blocks.

A parameter has the name it has in transformers, with {} for the number of the block: [member, ...] outside of blocks,
[member, block, ...] inside. So one product does the work of five models, which keeps a GPU busy, and a member is had by
taking a row. Tested equal to transformers' own models in tests/test_tiny_families.py.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from families_text import CONTEXT, VOCABULARY
from torch import Tensor
from torch.nn import functional

ROTARY_BASE, NEOX_ROTARY = 10_000.0, 0.25


@dataclass(frozen=True)
class Shape:
    """What the models of a family have in common."""

    architecture: str
    """gpt2, llama or neox."""
    width: int
    blocks: int
    heads: int
    inner: int
    """Width inside of the MLP."""

    @cached_property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one model's parameters, by name; {} stands for the number of the block."""
        return {"gpt2": _gpt2, "llama": _llama, "neox": _neox}[self.architecture](self)

    def config(self) -> Any:
        """The configuration for transformers."""
        from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

        ids: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        if self.architecture == "gpt2":
            sizes = {"n_embd": self.width, "n_layer": self.blocks, "n_head": self.heads, "n_inner": self.inner}
            return GPT2Config(n_positions=CONTEXT, architectures=["GPT2LMHeadModel"], **sizes, **ids)
        sizes = {"hidden_size": self.width, "num_hidden_layers": self.blocks, "num_attention_heads": self.heads}
        ids |= {"intermediate_size": self.inner, "max_position_embeddings": CONTEXT, "tie_word_embeddings": True}
        if self.architecture == "llama":
            return LlamaConfig(architectures=["LlamaForCausalLM"], rms_norm_eps=1e-6, **sizes, **ids)
        rotary = {"rope_type": "default", "rope_theta": ROTARY_BASE, "partial_rotary_factor": NEOX_ROTARY}
        return GPTNeoXConfig(architectures=["GPTNeoXForCausalLM"], rope_parameters=rotary, **sizes, **ids)


def _gpt2(s: Shape) -> dict[str, tuple[int, ...]]:
    d, block = s.width, "transformer.h.{}."
    found = {"transformer.wte.weight": (VOCABULARY, d), "transformer.wpe.weight": (CONTEXT, d)}
    for name in (block + "ln_1", block + "ln_2", "transformer.ln_f"):
        found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    for name, inner, outer in (
        ("attn.c_attn", d, 3 * d),
        ("attn.c_proj", d, d),
        ("mlp.c_fc", d, s.inner),
        ("mlp.c_proj", s.inner, d),
    ):
        found |= {f"{block}{name}.weight": (inner, outer), f"{block}{name}.bias": (outer,)}
    return found


def _llama(s: Shape) -> dict[str, tuple[int, ...]]:
    d, block = s.width, "model.layers.{}."
    found = {"model.embed_tokens.weight": (VOCABULARY, d), "model.norm.weight": (d,)}
    found |= {f"{block}{name}.weight": (d,) for name in ("input_layernorm", "post_attention_layernorm")}
    found |= {f"{block}self_attn.{name}_proj.weight": (d, d) for name in "qkvo"}
    found |= {f"{block}mlp.{name}_proj.weight": (s.inner, d) for name in ("gate", "up")}
    return found | {f"{block}mlp.down_proj.weight": (d, s.inner)}


def _neox(s: Shape) -> dict[str, tuple[int, ...]]:
    d, block = s.width, "gpt_neox.layers.{}."
    found = {"gpt_neox.embed_in.weight": (VOCABULARY, d)}
    for name in (block + "input_layernorm", block + "post_attention_layernorm", "gpt_neox.final_layer_norm"):
        found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    for name, inner, outer in (
        ("attention.query_key_value", d, 3 * d),
        ("attention.dense", d, d),
        ("mlp.dense_h_to_4h", d, s.inner),
        ("mlp.dense_4h_to_h", s.inner, d),
    ):
        found |= {f"{block}{name}.weight": (outer, inner), f"{block}{name}.bias": (outer,)}
    return found


def new_parameters(shape: Shape, seeds: list[int]) -> dict[str, Tensor]:
    """Untrained parameters of the members, each from its seed alone, as transformers and GPT-2 begin."""
    members = []
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        one = {}
        for name, sizes in shape.parameters.items():
            sizes = (shape.blocks, *sizes) if "{}" in name else sizes
            writes = name.endswith(
                ("c_proj.weight", "o_proj.weight", "down_proj.weight", "dense.weight", "to_h.weight")
            )
            spread = 0.02 / (2 * shape.blocks) ** 0.5 if writes else 0.02
            if len(shape.parameters[name]) == 2:
                one[name] = torch.randn(sizes, generator=random) * spread
            else:
                one[name] = torch.full(sizes, float(name.endswith("weight")))
        members.append(one)
    return {name: torch.stack([one[name] for one in members]) for name in shape.parameters}


def member_state(parameters: dict[str, Tensor], member: int) -> dict[str, Tensor]:
    """The state dict of one member, as transformers names it."""
    found = {}
    for name, values in parameters.items():
        if "{}" in name:
            found |= {name.format(block): row for block, row in enumerate(values[member])}
        else:
            found[name] = values[member]
    return found


def losses(shape: Shape, parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Mean next-token loss [member] of windows [member, window, token]."""
    outside = {name: p for name, p in parameters.items() if "{}" not in name}
    # Unbound once: taking a row of each parameter would make a gradient of full size for every block.
    rows = {name.partition("{}.")[2]: p.unbind(1) for name, p in parameters.items() if "{}" in name}
    blocks = [{name: several[i] for name, several in rows.items()} for i in range(shape.blocks)]
    forward = {"gpt2": _gpt2_hidden, "llama": _llama_hidden, "neox": _neox_hidden}[shape.architecture]
    hidden, embedding = forward(shape, outside, blocks, tokens)
    members, windows, length = tokens.shape
    hidden = hidden.unflatten(1, (windows, length))[:, :, :-1].flatten(1, 2)
    logits = torch.bmm(hidden, embedding.transpose(1, 2)).float()
    each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, :, 1:].flatten(), reduction="none")
    return each.view(members, -1).mean(1)


def _embedded(table: Tensor, tokens: Tensor) -> Tensor:
    """[member, window * token, width]: each member looks up in its own table."""
    members, size = table.shape[0], table.shape[1]
    shift = torch.arange(members, device=tokens.device).view(-1, 1, 1) * size
    return functional.embedding(tokens + shift, table.flatten(0, 1)).flatten(1, 2)


def _linear(x: Tensor, block: dict[str, Tensor], name: str, *, turned: bool = True) -> Tensor:
    """x W^T + b; `turned` False for GPT-2, which keeps W turned."""
    weight = block[f"{name}.weight"]
    weight = weight.transpose(1, 2) if turned else weight
    bias = block.get(f"{name}.bias")
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)


def _layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    weight, bias = (weights[f"{name}.{part}"].unsqueeze(1) for part in ("weight", "bias"))
    return torch.addcmul(bias, functional.layer_norm(x, x.shape[-1:], eps=1e-5), weight)


def _rms_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6) * weights[f"{name}.weight"].unsqueeze(1)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of [member * window, head, token, size]: [member * window, token, width]."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def _rotations(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    frequencies = ROTARY_BASE ** (-torch.arange(0, size, 2, device=device) / size)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    size = cos.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    half = torch.cat([-turning[..., size // 2 :], turning[..., : size // 2]], dim=-1)
    return torch.cat([turning * cos + half * sin, rest], dim=-1).to(x.dtype)


def _gpt2_hidden(s: Shape, outside: dict, blocks: list[dict], tokens: Tensor) -> tuple[Tensor, Tensor]:
    members, windows, length = tokens.shape
    table = outside["transformer.wte.weight"]
    x = _embedded(table, tokens) + outside["transformer.wpe.weight"][:, :length].repeat(1, windows, 1)
    for block in blocks:
        mixed = _linear(_layer_norm(x, block, "ln_1"), block, "attn.c_attn", turned=False)
        q, k, v = mixed.view(members * windows, length, 3, s.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + _linear(_attention(q, k, v).view(x.shape), block, "attn.c_proj", turned=False)
        inner = functional.gelu(
            _linear(_layer_norm(x, block, "ln_2"), block, "mlp.c_fc", turned=False), approximate="tanh"
        )
        x = x + _linear(inner, block, "mlp.c_proj", turned=False)
    return _layer_norm(x, outside, "transformer.ln_f"), table


def _llama_hidden(s: Shape, outside: dict, blocks: list[dict], tokens: Tensor) -> tuple[Tensor, Tensor]:
    members, windows, length = tokens.shape
    table = outside["model.embed_tokens.weight"]
    x = _embedded(table, tokens)
    cos, sin = _rotations(length, s.width // s.heads, tokens.device)
    for block in blocks:
        y = _rms_norm(x, block, "input_layernorm")
        q, k, v = (
            _linear(y, block, f"self_attn.{name}_proj").view(members * windows, length, s.heads, -1).transpose(1, 2)
            for name in "qkv"
        )
        mixed = _attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v)
        x = x + _linear(mixed.view(x.shape), block, "self_attn.o_proj")
        y = _rms_norm(x, block, "post_attention_layernorm")
        inner = functional.silu(_linear(y, block, "mlp.gate_proj")) * _linear(y, block, "mlp.up_proj")
        x = x + _linear(inner, block, "mlp.down_proj")
    return _rms_norm(x, outside, "model.norm"), table


def _neox_hidden(s: Shape, outside: dict, blocks: list[dict], tokens: Tensor) -> tuple[Tensor, Tensor]:
    members, windows, length = tokens.shape
    table = outside["gpt_neox.embed_in.weight"]
    x = _embedded(table, tokens)
    size = s.width // s.heads
    cos, sin = _rotations(length, int(size * NEOX_ROTARY), tokens.device)
    for block in blocks:
        mixed = _linear(_layer_norm(x, block, "input_layernorm"), block, "attention.query_key_value")
        q, k, v = mixed.view(members * windows, length, s.heads, 3, size).permute(3, 0, 2, 1, 4)
        mixed = _attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v)
        inner = functional.gelu(_linear(_layer_norm(x, block, "post_attention_layernorm"), block, "mlp.dense_h_to_4h"))
        x = x + _linear(mixed.view(x.shape), block, "attention.dense") + _linear(inner, block, "mlp.dense_4h_to_h")
    return _layer_norm(x, outside, "gpt_neox.final_layer_norm"), table
