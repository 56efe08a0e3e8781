"""Where a transformers model keeps its blocks, and which module hands what to the residual stream."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from itda.core.batch import Site
from itda.errors import ModelError

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
MLP_NAMES = ("mlp", "feed_forward", "ffn")


def find_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of the model's blocks. Raises `ModelError` if there is none, or an encoder and a decoder.

    It is the outermost list that is as long as the configuration says the model is deep.
    """
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} has an encoder and a decoder: use a decoder-only or an encoder-only model")
    depth = model.config.get_text_config().num_hidden_layers
    lists = [
        (path.count("."), path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and "vision" not in path
    ]
    if not lists:
        raise ModelError(f"{name} has no list of {depth} blocks: use a transformer of the usual form")
    return min(lists, key=lambda entry: entry[:2])[2]


def site_module(blocks: nn.ModuleList, site: Site) -> nn.Module:
    """The module whose output is the site's activation. Raises `ModelError`.

    `attn_out` and `mlp_out` are what is added to the residual stream, so where a norm stands between the two
    (Gemma 2 and 3, OLMo 2) they are read after it; in BERT, whose norms come after the sum, before the sum.
    """
    if not 0 <= site.layer < len(blocks):
        raise ModelError(f"no layer {site.layer}: the model has layers 0 to {len(blocks) - 1}")
    block = blocks[site.layer]
    if site.stream == "resid_post":
        return block
    children = dict(block.named_children())
    found = None
    if "post_feedforward_layernorm" in children:  # Llama's post_attention_layernorm is the norm *before* its MLP
        found = children["post_attention_layernorm" if site.stream == "attn_out" else "post_feedforward_layernorm"]
    elif {"attention", "intermediate", "output"} <= children.keys():
        parent = children["attention"].get_submodule("output") if site.stream == "attn_out" else children["output"]
        found = parent.get_submodule("dense")
    elif site.stream == "attn_out":
        found = next((children[name] for name in ATTENTION_NAMES if name in children), None)
    else:
        found = next((children[name] for name in (*MLP_NAMES, "fc2") if name in children), None)
    if found is None:
        raise ModelError(f"no {site.stream} in {type(block).__name__} (it has {', '.join(children)}): use resid_post")
    return found


def tensor_of(output: Tensor | tuple) -> Tensor:
    """The activations in what a module returns: a tensor, or a tuple that starts with one."""
    return output[0] if isinstance(output, tuple) else output


def with_tensor(output: Tensor | tuple, activations: Tensor) -> Tensor | tuple:
    """The same output with other activations."""
    return (activations, *output[1:]) if isinstance(output, tuple) else activations
