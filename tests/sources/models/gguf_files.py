"""Tiny Llamas written as GGUF files, and the same ones in memory with weights as the file has them."""

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize
from sources.models.families import MERGES, byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

HEADS = 4
OF_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama(seed: int = 0) -> LlamaForCausalLM:
    """Two blocks, 32 wide, of a vocabulary of bytes, with an unembedding of its own."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.add_(0.1 * torch.randn_like(value))
    return model


def write(path: Path, kind: str = "F32", *, seed: int = 0) -> LlamaForCausalLM:
    """Write a file whose matrices have the type `kind`, and return the model with the weights that it then has."""
    model, tokenizer, quantized = llama(seed), byte_tokenizer(), GGMLQuantizationType[kind]
    config, writer = model.config, GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(LlamaFileType.ALL_F32 if kind == "F32" else LlamaFileType[f"MOSTLY_{kind}"])
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    merges = [" ".join(pair) for pair in MERGES]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if place < 2 else 1 for _, place in vocabulary])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_add_bos_token(True)
    for name, value in model.named_parameters():
        array = value.detach().numpy()
        stored = array
        if array.ndim == 2 and kind != "F32":
            value.data = torch.from_numpy(dequantize(quantize(array, quantized), quantized).copy())
        if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the two halves of a rotation beside each other
            stored = array.reshape(HEADS, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if array.ndim == 2 and kind != "F32":
            writer.add_tensor(_name(name), quantize(np.ascontiguousarray(stored), quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(_name(name), np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _name(parameter: str) -> str:
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    path = parameter.removesuffix(".weight")
    if path in outside:
        return f"{outside[path]}.weight"
    _, _, block, rest = path.split(".", 3)
    return f"blk.{block}.{OF_BLOCK[rest]}.weight"
