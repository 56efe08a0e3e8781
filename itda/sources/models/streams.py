"""The table of the streams that lie inside a block: how each one is found.

`resid_post` is what a block returns. The others are what a module inside it returns, or a multiple of that. A trial
says which module, from what went through the block once (`itda.sources.models.trial`); where a model has no weights
here to try, its name does. A new stream is a name in `itda.core.site` and a row of `IN_BLOCK`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from itda.core.site import Site, Stream
from itda.errors import ModelError
from itda.sources.models.added import Added, Found, Passed

Children = Mapping[str, nn.Module]
"""The modules directly inside a block, by name."""

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "fc2")


@dataclass(frozen=True)
class InBlock:
    """How a stream inside a block is found."""

    part: str
    """The part of a block that has it, for messages."""
    by_trial: Callable[[Passed, Added], Found | None]
    """Finds the module, and the multiple of what it returns, from what went through the block and what it adds."""
    by_name: Callable[[Children], nn.Module | None]
    """Finds the module by the names that most families use."""


def attention_by_name(children: Children) -> nn.Module | None:
    """Return the module whose output is added to the stream as attention's."""
    if "post_feedforward_layernorm" in children:  # Llama's post_attention_layernorm is the norm *before* its MLP
        return children["post_attention_layernorm"]
    if _like_bert(children):
        return children["attention"].get_submodule("output").get_submodule("dense")
    return _first(children, ATTENTION_NAMES)


def mlp_by_name(children: Children) -> nn.Module | None:
    """Return the module whose output is added to the stream as the MLP's."""
    if "post_feedforward_layernorm" in children:
        return children["post_feedforward_layernorm"]
    if _like_bert(children):
        return children["output"].get_submodule("dense")
    return _first(children, MLP_NAMES)


IN_BLOCK: Mapping[Stream, InBlock] = {
    "attn_out": InBlock("attention", lambda _passed, added: added.attn_out, attention_by_name),
    "mlp_out": InBlock("MLP", lambda _passed, added: added.mlp_out, mlp_by_name),
}
"""The streams in the order in which a block computes them; `resid_post`, which it returns, comes after them."""


def in_order(sites: Iterable[Site]) -> list[Site]:
    """Sort sites by when a model computes them.

    >>> [site.short for site in in_order([Site(1), Site(0), Site(0, "mlp_out")])]
    ['0.mlp_out', '0', '1']
    """
    streams = [*IN_BLOCK, "resid_post"]
    return sorted(sites, key=lambda site: (site.layer, streams.index(site.stream)))


def site_module(blocks: nn.ModuleList, site: Site) -> nn.Module:
    """Return the module whose output is the site's activation in most families, by its name. Raises `ModelError`.

    Only a trial, which needs weights, can show that this output is added to the residual stream.
    """
    if not 0 <= site.layer < len(blocks):
        raise ModelError(f"no layer {site.layer}: the model has layers 0 to {len(blocks) - 1}")
    block = blocks[site.layer]
    if site.stream == "resid_post":
        return block
    children = dict(block.named_children())
    found = IN_BLOCK[site.stream].by_name(children)
    if found is None:
        raise ModelError(f"no {site.stream} in {type(block).__name__} (it has {', '.join(children)}): use resid_post")
    return found


def _like_bert(children: Children) -> bool:
    return {"attention", "intermediate", "output"} <= children.keys()


def _first(children: Children, names: Iterable[str]) -> nn.Module | None:
    return next((children[name] for name in names if name in children), None)
