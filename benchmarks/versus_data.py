"""Activations to compare methods on: of a model on a corpus, for training and held out, kept in files."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import itda
from itda.sources.corpora.corpus import Corpus, open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.tokenizing.windows import Group

WINDOW = 128
GROUP = 8
"""Windows per forward pass."""
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Data:
    """Which activations: a model's on the first tokens of a corpus whose documents are in some order."""

    model: str
    corpus: str
    source: str  # the corpus' file, folder, Hub id or python-docs
    cache: str
    tokens: int
    heldout: int

    @property
    def stem(self) -> str:
        identity = hashlib.sha256(f"{self.source}".encode()).hexdigest()[:8]
        return f"{self.model.replace('/', '--')}_{self.corpus}_{identity}"

    def train_file(self, order: int, layer: int) -> Path:
        return Path(self.cache) / f"{self.stem}_train{order}_{self.tokens}_{layer}.pt"

    def heldout_file(self, layer: int) -> Path:
        return Path(self.cache) / f"{self.stem}_heldout_{self.heldout}_{layer}.pt"


def corpus_of(data: Data) -> Corpus:
    """The corpus; a text file with headings ` = Title = ` (WikiText's) is cut into its articles."""
    path = Path(data.source).expanduser()
    if path.suffix != ".txt":
        return open_corpus(data.source)
    text = path.read_text(encoding="utf-8")
    articles = [part for part in re.split(r"^(?= = [^=\n].* = *$)", text, flags=re.MULTILINE) if part.strip()]
    lines = Path(data.cache) / f"{data.corpus}_{hashlib.sha256(text.encode()).hexdigest()[:8]}" / f"{data.corpus}.jsonl"
    if not lines.exists():
        lines.parent.mkdir(parents=True, exist_ok=True)
        lines.write_text("".join(json.dumps({"text": part}) + "\n" for part in articles), encoding="utf-8")
    return open_corpus(str(lines))


@cache
def language_model(name: str) -> LanguageModel:
    return LanguageModel.load(name)


def heldout_groups(data: Data) -> Iterator[Group]:
    """Groups of windows of the held-out documents, in one order for all cells, until there are enough tokens."""
    corpus, left = corpus_of(data).split("heldout").shuffled(0), data.heldout
    for group in language_model(data.model).windower(WINDOW).groups(corpus, GROUP):
        yield group
        left -= int(group.is_activation.sum())
        if left <= 0:
            return


def _save(what: Any, path: Path) -> None:
    torch.save(what, partial := path.with_suffix(".part"))
    partial.rename(path)


def extract(data: Data, orders: list[int], layers: list[int]) -> None:
    """Put the activations of all layers in files, where they are not there yet."""
    Path(data.cache).mkdir(parents=True, exist_ok=True)
    for order in orders:
        missing = [layer for layer in layers if not data.train_file(order, layer).exists()]
        if not missing:
            continue
        print(f"activations: {data.corpus}, order {order}, layers {missing}", flush=True)
        model, sites = language_model(data.model), [itda.Site(layer) for layer in missing]
        found, filled = {site: torch.empty(data.tokens, model.d_model) for site in sites}, 0
        corpus = corpus_of(data).split("train").shuffled(order)
        for batch in ModelSource(model, corpus, sites, window=WINDOW, batch_size=GROUP, tokens=data.tokens):
            size = len(batch[sites[0]])
            for site in sites:
                found[site][filled : filled + size] = batch[site].activations.float().cpu()
            filled += size
        if filled < data.tokens:
            raise SystemExit(f"{data.corpus} has only {filled:,} tokens to train on: lower --tokens")
        for site in sites:
            _save(found[site], data.train_file(order, site.layer))
    missing = [layer for layer in layers if not data.heldout_file(layer).exists()]
    if missing:
        _extract_heldout(data, missing)


def _extract_heldout(data: Data, layers: list[int]) -> None:
    print(f"held out: {data.corpus}, layers {layers}", flush=True)
    model, sites = language_model(data.model), [itda.Site(layer) for layer in layers]
    parts: dict[itda.Site, list[Tensor]] = {site: [] for site in sites}
    documents, predicted = [], []
    clean: list[Tensor] = []
    zero: dict[itda.Site, list[Tensor]] = {site: [] for site in sites}
    for group in heldout_groups(data):
        documents.append(group.labels().document)
        predicted.append(group.labels(group.predicts).document)
        clean.append(cross_entropy(model, group))
        for site, x in model.activations(group, sites).items():
            x = x[group.is_activation.to(x.device)].float().cpu()
            parts[site].append(x)
            zero[site].append(cross_entropy(model, group, site, torch.zeros_like(x)))
    names, ids = np.unique(np.concatenate(documents), return_inverse=True)
    predicted_ids = np.searchsorted(names, np.concatenate(predicted))
    for site in sites:
        made = {"x": torch.cat(parts[site]), "documents": torch.from_numpy(ids)}
        made |= {"predicted": torch.from_numpy(predicted_ids), "clean": torch.cat(clean), "zero": torch.cat(zero[site])}
        _save(made, data.heldout_file(site.layer))


def cross_entropy(
    model: LanguageModel, group: Group, site: itda.Site | None = None, values: Tensor | None = None
) -> Tensor:
    """Of each predicted token, with `values` in place of the activations."""
    logits = model.logits(group, site, None if values is None else lambda x: values.to(x.device))
    logits = logits[group.predicts.to(logits.device)]
    size, targets = max(1, LOGITS_AT_ONCE // logits.shape[1]), group.targets.to(logits.device)
    parts = [
        torch.nn.functional.cross_entropy(part.double(), target, reduction="none").cpu()
        for part, target in zip(logits.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(parts)
