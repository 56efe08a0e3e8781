"""SmolLM2's activations of many short texts, fast: products in bfloat16, all else in float32.

The weights are 4-bit ones, so that bfloat16 holds them nearly as they are. The residual stream, the norms and the
attention stay in float32, and a text is read no further than its last site. `agreement` says what the products cost.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from meaning_text import LAYERS
from torch import Tensor, nn

from itda import Site
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.windows import Group

TOKENS_AT_ONCE = 4096


def load(model: str | Path, *, half: bool = True) -> LanguageModel:
    """Load a model in float32; with `half`, the products of its linear layers are in bfloat16."""
    loaded = LanguageModel.load(str(model), dtype="float32")
    if half:
        for module in loaded.model.modules():
            if isinstance(module, nn.Linear):
                halve(module)
    return loaded


def halve(linear: nn.Linear) -> None:
    """Let a layer that takes and gives float32 multiply in bfloat16."""
    linear.to(torch.bfloat16)
    linear.register_forward_pre_hook(lambda _, inputs: tuple(each.to(torch.bfloat16) for each in inputs))
    linear.register_forward_hook(lambda _, __, output: output.float())


def batched(lengths: Sequence[int], tokens: int = TOKENS_AT_ONCE) -> Iterator[list[int]]:
    """Rows in batches of about as many padded tokens, the short ones together; every row once."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) + 1) * lengths[row] > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def read(
    model: LanguageModel, texts: Sequence[Sequence[int]], layers: Sequence[int] = LAYERS
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Yield, for each text of token ids and in no order, its row and its activations [tokens, d_model] by layer."""
    sites = [Site(layer) for layer in layers]
    for rows in batched([len(text) for text in texts]):
        ids = torch.zeros(len(rows), max(len(texts[row]) for row in rows), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(texts[row])] = torch.tensor(texts[row])
            mask[place, : len(texts[row])] = 1
        found = model.activations(Group((), ids, mask, mask.bool(), 0), sites)
        for place, row in enumerate(rows):
            yield row, {site.layer: x[place, : len(texts[row])].float() for site, x in found.items()}


def last_tokens(model: LanguageModel, texts: Sequence[Sequence[int]]) -> dict[int, Tensor]:
    """The activations of the last token of each text, [texts, d_model] by layer."""
    rows: dict[int, dict[int, Tensor]] = {layer: {} for layer in LAYERS}
    for row, found in read(model, texts):
        for layer, x in found.items():
            rows[layer][row] = x[-1].clone()
    return {layer: torch.stack([found[row] for row in range(len(texts))]) for layer, found in rows.items()}


def agreement(one: Tensor, other: Tensor) -> float:
    """The root of the mean squared difference of two readings, as a share of their spread."""
    spread = (one - one.mean(dim=0)).square().sum()
    return ((one - other).square().sum() / spread).sqrt().item()
