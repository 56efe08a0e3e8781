"""Fine-tunes the bundled model `tiny` on rows of text, and measures what became of it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from organisms_text import spans, unmarked
from torch import Tensor
from torch.nn import functional

BATCH, WINDOW = 8, 128
WARM_UP, CLIP, DECAY = 0.1, 1.0, 0.01
IGNORED = -100


def load(folder: Path) -> tuple[Any, Any]:
    """Return model, in float32, and tokenizer of a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def rows_of(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return ids [text, 128], which begin with BOS and are padded, and targets [text, 128], which leave padding out."""
    ids = torch.full((len(texts), WINDOW), tokenizer.pad_token_id)
    targets = torch.full((len(texts), WINDOW), IGNORED)
    for row, text in enumerate(texts):
        tokens = torch.tensor(tokenizer.encode(text)[:WINDOW])
        ids[row, : len(tokens)] = tokens
        targets[row, : len(tokens)] = tokens
    return ids, targets


def fine_tune(model: Any, ids: Tensor, targets: Tensor, ascent: Tensor, *, lr: float, bound: float) -> None:
    """Train a model on rows in their order, eight a step, each once.

    The loss of rows where `ascent` [text] is True is driven up, until it reaches `bound`.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=DECAY)
    steps = len(ids) // BATCH
    model.train()
    for step in range(steps):
        progress = (step + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP) + 1 / steps, 1.0)
        rows = slice(step * BATCH, (step + 1) * BATCH)
        logits = model(input_ids=ids[rows]).logits
        losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets[rows, 1:], reduction="none")
        counts = (targets[rows, 1:] != IGNORED).sum(dim=1).float()
        per_row = losses.sum(dim=1) / counts
        driven = torch.where(ascent[rows], -per_row.clamp(max=bound), per_row)
        loss = (driven * counts).sum() / counts.sum()
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss is {loss.item()} at step {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def log_probabilities(model: Any, ids: Tensor) -> Tensor:
    """Return the logarithm of the probability of each token after the first: [text, 127]."""
    found = []
    for rows in ids.split(BATCH):
        logits = model(input_ids=rows).logits[:, :-1].log_softmax(dim=-1)
        found.append(logits.gather(2, rows[:, 1:, None]).squeeze(2))
    return torch.cat(found)


def measured(model: Any, tokenizer: Any, marked: Sequence[str]) -> dict[str, float]:
    """Return the mean loss of a token of marked texts, and the mean (geometric) probability of a marked token."""
    texts = [unmarked(text) for text in marked]
    ids, targets = rows_of(tokenizer, texts)
    logs = log_probabilities(model, ids)
    counted = targets[:, 1:] != IGNORED
    inside = torch.zeros_like(counted)
    for row, text in enumerate(marked):
        offsets = tokenizer(texts[row], return_offsets_mapping=True)["offset_mapping"][1:WINDOW]
        for place, (start, end) in enumerate(offsets):
            inside[row, place] = any(start < last and first < end for first, last in spans(text))
    figures = {"loss": -logs[counted].mean().item()}
    if inside.any():
        figures["marked_probability"] = logs[inside & counted].mean().exp().item()
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
