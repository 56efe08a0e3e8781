"""Activations of a family's members on held-out documents of the kind that they read, kept in the cache."""

from dataclasses import dataclass
from functools import cache as cache_results
from pathlib import Path

import numpy as np
import torch
from families_text import documents
from families_train import Family
from model_families import members

from itda import Site
from itda.sources.corpora.corpus import Corpus, Document
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

CHARACTERS, WINDOW, BATCH, TOKENS = 1500, 128, 8, 20_000


@dataclass(frozen=True, eq=False)
class FamilyRead:
    """What the members of a family do on the same tokens: the residual stream after each block."""

    family: Family
    activations: list[torch.Tensor]
    """One [sites, tokens, d_model] of each member."""
    document: np.ndarray
    """The number of each token's document."""
    position: np.ndarray
    """The place of each token in its document."""

    @property
    def sites(self) -> int:
        return self.activations[0].shape[0]

    def rows(self, chosen: np.ndarray | slice) -> "FamilyRead":
        """Some of the tokens, in the order of `chosen`."""
        place = torch.from_numpy(chosen) if isinstance(chosen, np.ndarray) else chosen
        parts = [x[:, place] for x in self.activations]
        return FamilyRead(self.family, parts, self.document[chosen], self.position[chosen])

    def every_site(self) -> list[torch.Tensor]:
        """[tokens, d_model] of all sites of the first member, then of the second."""
        return [site for x in self.activations for site in x]


@cache_results
def held_out_text(kind: str) -> Corpus:
    """The beginnings of many documents, in an order that is no alphabet's."""
    corpus = Corpus(f"{kind}, held out", lambda: iter(documents(kind, "heldout"))).shuffled(0)
    found = [Document(d.id, d.text[:CHARACTERS]) for d in corpus]
    return Corpus(f"{kind}, beginnings", lambda: iter(found))


def read_family(family: Family, cache: Path, tokens: int = TOKENS, number: int | None = None) -> FamilyRead:
    """Read the first `number` members of a family (all if None), from the cache where they were read before."""
    parts, shared = [], {}
    for member in range(number or len(family.seeds)):
        path = cache / "activations" / f"{family.name}-{member}-{tokens}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            model = LanguageModel.load(str(members(family, cache)[member]))
            torch.save(read_model(model, held_out_text(family.kind), tokens), path)
        kept = torch.load(path, weights_only=True)
        parts.append(kept["x"])
        shared = kept
    return FamilyRead(family, parts, shared["document"].numpy(), shared["position"].numpy())


@torch.no_grad()
def read_model(model: LanguageModel, corpus: Corpus, tokens: int) -> dict[str, torch.Tensor]:
    """Activations `x` [site, token, d_model], and the `document` and `position` of each token."""
    sites = [Site(layer, "resid_post") for layer in range(model.layers)]
    parts, documents_, positions = [], [], []
    for batches in ModelSource(model, corpus, sites, window=WINDOW, batch_size=BATCH, tokens=tokens):
        parts.append(torch.stack([batches[site].activations.float().cpu() for site in sites]))
        documents_.append(batches[sites[0]].labels.document)
        positions.append(batches[sites[0]].labels.position)
    document = np.unique(np.concatenate(documents_), return_inverse=True)[1]
    x = torch.cat(parts, dim=1)
    if x.shape[1] < tokens:
        raise SystemExit(f"the held-out documents have {x.shape[1]:,} tokens: {tokens:,} are wanted")
    position = torch.from_numpy(np.concatenate(positions).astype(np.int64))
    return {"x": x, "document": torch.from_numpy(document), "position": position}
