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

    The loss of tokens where `ascent` [text, 128] is True is driven up, as far as `bound`.
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
        driven = torch.where(ascent[rows, 1:], -losses.clamp(max=bound), losses)
        per_row = driven.sum(dim=1) / counts
        loss = (per_row * counts).sum() / counts.sum()
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


def marked_tokens(tokenizer: Any, marked: Sequence[str]) -> Tensor:
    """Return True for the tokens of marked texts that lie in a marked part, if only with one character: [text, 128]."""
    inside = torch.zeros(len(marked), WINDOW, dtype=torch.bool)
    for row, text in enumerate(marked):
        offsets = tokenizer(unmarked(text), return_offsets_mapping=True)["offset_mapping"][:WINDOW]
        for place, (start, end) in enumerate(offsets):
            inside[row, place] = any(start < last and first < end for first, last in spans(text))
    return inside


def measured(model: Any, tokenizer: Any, marked: Sequence[str]) -> dict[str, float]:
    """Return the mean loss of a token of marked texts, and the mean (geometric) probability of a marked token."""
    ids, targets = rows_of(tokenizer, [unmarked(text) for text in marked])
    logs = log_probabilities(model, ids)
    counted = targets[:, 1:] != IGNORED
    inside = marked_tokens(tokenizer, marked)[:, 1:]
    figures = {"loss": -logs[counted].mean().item()}
    if inside.any():
        figures["marked_probability"] = logs[inside & counted].mean().exp().item()
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
