"""Activations and dictionaries to measure on: random, of the bundled model, and made up with structure."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from itda import Site

TINY_SITE = Site(4)
TINY_WIDTH = 192


def random_unit(number: int, d_model: int, seed: int) -> Tensor:
    """Gaussian atoms of unit norm."""
    atoms = torch.randn(number, d_model, generator=torch.Generator().manual_seed(seed))
    for part in atoms.split(4096):  # in place: a second copy would count as somebody's peak of memory
        part /= part.norm(dim=1, keepdim=True)
    return atoms


def random_rows(number: int, d_model: int, seed: int) -> Tensor:
    """Gaussian activations."""
    return torch.randn(number, d_model, generator=torch.Generator().manual_seed(seed))


def tiny_problem(atoms: int, rows: int) -> tuple[Tensor, Tensor]:
    """A dictionary of activations of `tiny`, no two alike, and as activations to encode others that are no atoms."""
    found = _tiny_distinct(atoms + rows)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    x, dictionary = found[order[:rows]], found[order[rows : rows + atoms]]
    return (dictionary / dictionary.norm(dim=1, keepdim=True)).contiguous(), x.contiguous()


@cache
def _tiny_distinct(least: int) -> Tensor:
    tokens = least + least // 4
    while True:
        x = torch.cat(list(_tiny_stream(tokens)))
        distinct = x.unique(dim=0)
        if len(distinct) >= least:
            return distinct
        if len(x) < tokens:
            raise SystemExit(f"python-docs has only {len(distinct)} distinct activations: ask for fewer atoms")
        tokens *= 2


def _tiny_stream(tokens: int) -> Iterator[Tensor]:
    # Here, since transformers takes long to load and would count in the memory of those who need no model.
    from itda.sources.corpora.corpus import python_docs
    from itda.sources.models.transformers import LanguageModel
    from itda.sources.source import ModelSource

    corpus = python_docs().split("train")
    source = ModelSource(LanguageModel.load("tiny"), corpus, [TINY_SITE], window=128, tokens=tokens)
    for batch in source:
        yield batch[TINY_SITE].activations.clone()


DIRECTIONS = 2**15
VOCABULARY = 2**13
DOCUMENT = 256
"""Tokens per document."""
TOPICS = 24
"""Directions that a document keeps coming back to."""
ACTIVE = 24
"""The most directions that are active at a token, besides its own."""


def structured(tokens: int, d_model: int, seed: int = 0) -> Tensor:
    """Activations that are to a dictionary roughly what a language model's are.

    x = a common mean + a vector of the token + a few directions, some of them topics of the document, + noise.
    Tokens and directions follow Zipf's law; how many directions are active, and how strongly, differs from token to
    token; the noise has a falling spectrum. About a third of the energy is the mean's.
    """
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(DIRECTIONS, d_model, generator=draw) / d_model**0.5
    words = torch.randn(VOCABULARY, d_model, generator=draw) / d_model**0.5
    mean = torch.randn(d_model, generator=draw) * (14 / d_model) ** 0.5
    spectrum = torch.arange(1, d_model + 1) ** -0.5
    spectrum *= (1.2 / spectrum.square().sum()) ** 0.5
    x = torch.empty(tokens, d_model)
    for start in range(0, tokens, 32 * DOCUMENT):
        part = x[start : start + 32 * DOCUMENT]
        part.normal_(generator=draw).mul_(spectrum).add_(mean)
        part += 2 * words[_zipf(len(part), VOCABULARY, draw)]
        part += _features(len(part), directions, draw)
    return x


def _features(tokens: int, directions: Tensor, draw: torch.Generator) -> Tensor:
    documents = -(-tokens // DOCUMENT)
    topics = _zipf(documents * TOPICS, DIRECTIONS, draw).view(documents, TOPICS)
    of_document = torch.arange(tokens) // DOCUMENT
    chosen = torch.randint(TOPICS, (tokens, ACTIVE), generator=draw)
    topical = torch.rand(tokens, ACTIVE, generator=draw) < 0.6
    anywhere = _zipf(tokens * ACTIVE, DIRECTIONS, draw).view(tokens, ACTIVE)
    index = torch.where(topical, topics[of_document].gather(1, chosen), anywhere)
    number = (ACTIVE * torch.rand(tokens, 1, generator=draw) ** 1.5).ceil()
    strength = torch.empty(tokens, ACTIVE).exponential_(generator=draw) * (torch.arange(ACTIVE) < number)
    return torch.nn.functional.embedding_bag(index, directions, mode="sum", per_sample_weights=strength)


def _zipf(number: int, kinds: int, draw: torch.Generator) -> Tensor:
    """Draws from p(i) in proportion to 1 / (i + 3), by inverting the integral of it."""
    u = torch.rand(number, generator=draw, dtype=torch.float64)
    return ((3 * ((kinds + 3) / 3) ** u) - 3).long().clamp_(0, kinds - 1)
