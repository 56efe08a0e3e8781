"""Activations of several models on the same text, kept in a cache, for layer_matching.py and convergence.py."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from itda import ActivationBatch, Labels, Site
from itda.core.tokens import TokenLog, Tokens
from itda.sources.corpora.corpus import Corpus, Document, open_corpus, python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

WINDOW, BATCH = 128, 8


@dataclass(frozen=True, eq=False)
class Read:
    """A model's activations [sites, tokens, d_model] with labels."""

    sites: list[str]
    activations: torch.Tensor
    labels: Labels

    @property
    def tokens(self) -> Tokens:
        log = TokenLog()
        log.add(self.labels)
        return log.table()

    @property
    def documents(self) -> np.ndarray:
        """The number of each token's document."""
        return self.tokens.document.astype(np.int64)

    def first(self, tokens: int) -> "Read":
        return Read(self.sites, self.activations[:, :tokens], self.labels[:tokens])

    def batches(self, site: int, size: int = 4096) -> list[ActivationBatch]:
        x = self.activations[site]
        return [
            ActivationBatch(x[start : start + size], self.labels[start : start + size])
            for start in range(0, len(x), size)
        ]


def beginnings(spec: str, characters: int) -> Corpus:
    """The first characters of many held-out documents: a few long files must not be all there is."""
    corpus = (python_docs(tests=True) if spec == "python-docs" else open_corpus(spec)).split("heldout").shuffled(0)
    documents = [Document(document.id, document.text[:characters]) for document in corpus]
    return Corpus(f"{spec}, beginnings", lambda: iter(documents))


def read(
    name: str,
    corpus: Corpus,
    tokens: int,
    middle: bool,
    cache: Path,
    model: LanguageModel | None = None,
    batch: int = BATCH,
) -> Read:
    """The residual stream after each block, and with `middle` between attention and MLP too (serial blocks alone have
    that: it is what comes out of the block less what its MLP adds)."""
    text = hashlib.sha256(json.dumps([(d.id, d.text) for d in corpus]).encode()).hexdigest()[:12]
    known = hashlib.sha256(f"{Path(name).resolve() if Path(name).exists() else name}".encode()).hexdigest()[:8]
    path = (
        cache / "activations" / f"{Path(name).name}-{known}-{text}-{tokens}-{'both' if middle else 'post'}-{batch}.pt"
    )
    if not path.exists():
        model = model or LanguageModel.load(name)
        blocks = range(model.layers)
        sites = [Site(i, s) for i in blocks for s in (("mlp_out", "resid_post") if middle else ("resid_post",))]
        source = ModelSource(model, corpus, sites, window=WINDOW, batch_size=batch, tokens=tokens)
        parts, labels = [], []
        for batches in source:
            parts.append(torch.stack([batches[site].activations.float().cpu() for site in sites]))
            labels.append(batches[sites[0]].labels)
        x = torch.cat(parts, dim=1)
        if middle:
            x[0::2] = x[1::2] - x[0::2]
        names = [f"{site.layer}{'' if site.stream == 'resid_post' else ' mid'}" for site in sites]
        every = Labels.concatenate(labels)
        columns = {name: getattr(every, name) for name in ("position", "char_start", "char_end", "token_id")}
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"x": x, "sites": names, "document": every.document.tolist()}
        kept |= {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
        torch.save(kept, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    kept = torch.load(path, weights_only=True)
    document = np.array(kept["document"], dtype=object)
    nothing = np.full(len(document), "", dtype=object)
    numbers = {name: kept[name].numpy() for name in ("position", "char_start", "char_end", "token_id")}
    labels = Labels(document=document, window=nothing, window_start=numbers["char_start"], **numbers)
    if kept["x"].shape[1] < tokens:
        raise SystemExit(f"the corpus has {kept['x'].shape[1]:,} tokens for {name}: use --tokens {kept['x'].shape[1]}")
    return Read(kept["sites"], kept["x"], labels)
