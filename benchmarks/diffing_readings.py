"""What the models of an organism make of its documents: activations, KL and unembeddings, read once and kept.

Each document is one window of at most 128 tokens that begins with BOS. BOS itself and padding are left out.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from organisms import TINY
from organisms_train import load, rows_of
from torch import Tensor

from itda.sources.models.hooks import hooked

LAYERS = (1, 3, 5)
AT_ONCE = 16
"""Documents that are read together."""


@dataclass(frozen=True, eq=False)
class Readings:
    """The tokens of an organism's documents, in order, and what three models make of them."""

    token: Tensor
    """Id of each token [n]."""
    document: Tensor
    """Number of its document [n]."""
    position: Tensor
    """Its place in the window [n]; BOS, which is left out, has 0."""
    planted: Tensor
    """True for planted documents [documents]."""
    base: dict[int, Tensor]
    """Activations after a block [n, d], by layer."""
    changed: dict[int, Tensor]
    control: dict[int, Tensor]
    kl: Tensor
    """KL(changed || base) in nats of what comes after each token [n]."""
    control_kl: Tensor
    """KL(control || base) [n]."""
    norm: tuple[Tensor, Tensor]
    """Weights of the last norm [d], of the base and the changed model."""
    unembedding: tuple[Tensor, Tensor]
    """Unembeddings [vocabulary, d], of the base and the changed model."""
    vocabulary: list[str]
    """Text of each token id."""

    def fewer(self, planted: int) -> "Readings":
        """Return the readings of all neutral documents and the first so many planted ones.

        Documents keep their order; their numbers are new.
        """
        kept = ~self.planted | (self.planted.cumsum(0) <= planted)
        rows = kept[self.document]
        number = kept.cumsum(0) - 1
        values: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("token", "position", "kl", "control_kl")}
        for name in ("base", "changed", "control"):
            values[name] = {layer: x[rows] for layer, x in getattr(self, name).items()}
        return replace(self, document=number[self.document[rows]], planted=self.planted[kept], **values)

    def difference(self, layer: int) -> Tensor:
        """Return changed less base [n, d]."""
        return self.changed[layer] - self.base[layer]

    def context(self, row: int, before: int = 40, after: int = 20) -> tuple[list[str], str, list[str]]:
        """Return the texts of the tokens before a token, its own, and of those after it, of its document alone."""
        rows = torch.arange(max(0, row - before), min(len(self.token), row + after + 1))
        rows = rows[self.document[rows] == self.document[row]]
        texts = [self.vocabulary[i] for i in self.token[rows].tolist()]
        place = row - int(rows[0])
        return texts[:place], texts[place], texts[place + 1 :]

    def promoted(self, direction: Tensor, most: int = 10) -> tuple[list[str], list[str]]:
        """Return the tokens that a direction [d] promotes and suppresses most, by the changed model's unembedding."""
        logits = self.unembedding[1] @ (self.norm[1] * direction)
        first, last = ((sign * logits).topk(most).indices.tolist() for sign in (1, -1))
        return [self.vocabulary[i] for i in first], [self.vocabulary[i] for i in last]


def readings(cache: Path, name: str) -> Readings:
    """Return the readings of an organism, from its folder if they are kept there."""
    kept = cache / name / "readings.pt"
    if not kept.exists():
        made = _read(cache, name)
        torch.save({field.name: getattr(made, field.name) for field in fields(made)}, _new(kept))
        _new(kept).replace(kept)
    return Readings(**torch.load(kept, weights_only=True))


def _new(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _read(cache: Path, name: str) -> Readings:
    about = json.loads((cache / name / "organism.json").read_text())
    lines = [json.loads(line) for line in (cache / name / "documents.jsonl").read_text().splitlines()]
    base, tokenizer = load(cache / about["base"] if about["base"] else TINY)
    changed, control = load(cache / name)[0], load(cache / about["control"])[0]
    ids, targets = rows_of(tokenizer, [line["text"] for line in lines])
    there = targets >= 0
    there[:, 0] = False  # BOS
    layers, (kl, control_kl) = passed(base, [changed, control], ids, there)
    document, position = there.nonzero().T
    return Readings(
        token=ids[there],
        document=document,
        position=position,
        planted=torch.tensor([line["planted"] for line in lines]),
        base=layers[0],
        changed=layers[1],
        control=layers[2],
        kl=kl,
        control_kl=control_kl,
        norm=(base.model.norm.weight.detach(), changed.model.norm.weight.detach()),
        unembedding=(base.lm_head.weight.detach(), changed.lm_head.weight.detach()),
        vocabulary=[tokenizer.decode([i]) for i in range(len(tokenizer))],
    )


def _keep(held: list[Tensor], mask: Tensor, output: Tensor) -> None:
    held.append(output[mask])


@torch.no_grad()
def passed(
    base: Any, others: Sequence[Any], ids: Tensor, there: Tensor
) -> tuple[list[dict[int, Tensor]], list[Tensor]]:
    """Return the activations of all models by layer, and KL(other || base) of each other, where `there` is True."""
    models = [base, *others]
    held: list[dict[int, list[Tensor]]] = [{layer: [] for layer in LAYERS} for _ in models]
    divergences: list[list[Tensor]] = [[] for _ in others]
    for rows, mask in zip(ids.split(AT_ONCE), there.split(AT_ONCE), strict=True):
        logits = []
        for model, mine in zip(models, held, strict=True):
            hooks = [(model.model.layers[layer], partial(_keep, mine[layer], mask)) for layer in LAYERS]
            with hooked(hooks):
                output = model(input_ids=rows)
            logits.append(output.logits[mask].log_softmax(dim=-1))
        for found, log in zip(divergences, logits[1:], strict=True):
            found.append((log.exp() * (log - logits[0])).sum(dim=-1).clamp(min=0))
    joined = [{layer: torch.cat(parts) for layer, parts in mine.items()} for mine in held]
    return joined, [torch.cat(parts) for parts in divergences]
