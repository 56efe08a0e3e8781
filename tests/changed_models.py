"""Pairs of tiny models: one of a family, and the same with noise on its weights; and what a source yields of them."""

import copy

import numpy as np
import torch
from sources.models.families import FAMILIES, TOKENIZERS, build, shared

from itda.core.batch import Site
from itda.diffing.batches import PairedBatch, PairedPredictions
from itda.diffing.pairs import PairedSource
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel

CORPUS = Corpus.from_texts(["the cat sat on the mat " * 3, "to be or not to be that is", "a dog"] * 4)
SITES = [Site(2), Site(0, "mlp_out"), Site(0)]


def changed(model: LanguageModel, size: float = 0.02, name: str = "changed") -> LanguageModel:
    """A copy of a model with noise on all weights."""
    module = copy.deepcopy(model.model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return LanguageModel(module, model.tokenizer, name)


def pair(family: str = "llama") -> tuple[LanguageModel, LanguageModel]:
    """A model, and one that was changed."""
    base = shared(family)
    return base, changed(base)


def saved(model: LanguageModel, folder) -> str:
    """Write a model with its tokenizer."""
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


def of(base, other, corpus=CORPUS, sites=SITES, **options) -> PairedSource:
    return PairedSource(base, other, corpus, sites, **{"window": 12, "batch_size": 4, **options})


class Found:
    """All that a source yielded, in its order."""

    def __init__(self, source: PairedSource):
        self.each = list(source)

    def at(self, site: Site) -> list[PairedBatch]:
        return [each for each in self.each if isinstance(each, PairedBatch) and each.site == site]

    def rows(self, site: Site, model: int = 1) -> torch.Tensor:
        """The activations of a model at a site: the base is 0, the changed model 1."""
        return torch.cat([batch.models[model] for batch in self.at(site)])

    def difference(self, site: Site) -> torch.Tensor:
        return self.rows(site, 1) - self.rows(site, 0)

    def tokens(self, site: Site) -> list[int]:
        return [int(token) for batch in self.at(site) for token in batch.tokens]

    def keys(self, site: Site) -> list:
        return [key for batch in self.at(site) for key in batch.labels.keys()]  # noqa: SIM118

    @property
    def predictions(self) -> list[PairedPredictions]:
        return [each for each in self.each if isinstance(each, PairedPredictions)]

    @property
    def kl(self) -> np.ndarray:
        return np.concatenate([each.kl for each in self.predictions])


def another_width(family: str = "llama", width: int = 48, layers: int = 3) -> LanguageModel:
    """A model of a family of another width and depth, with the same tokenizer."""
    config = copy.deepcopy(build(family).config)
    config.update({"hidden_size": width, "num_hidden_layers": layers, "layer_types": None, "head_dim": width // 4})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = type(build(family))(config).eval()
    return LanguageModel(model, TOKENIZERS[FAMILIES[family].tokenizer](), "wide")
