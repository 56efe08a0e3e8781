"""Atoms to steer by, proposed by a text: those whose directions its activations have most of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from itda.core.dictionary import ITDA
from itda.core.labels import Label
from itda.core.site import Site
from itda.errors import SettingError
from itda.sources.models.transformers import LanguageModel
from itda.steering.units import activations_of


@dataclass(frozen=True)
class Proposed:
    """An atom that a text's activations are like."""

    atom: int
    cosine: float
    """The mean of its cosines to the text's activations."""
    label: Label


def proposed_atoms(lm: LanguageModel, dictionary: ITDA, site: Site, text: str, top: int = 10) -> list[Proposed]:
    """Return the atoms with the largest mean cosine to the activations of a text, massive ones left out.

    Raises `SettingError` for a text without a token.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=3, k=2, atoms=8, progress=False)
    >>> len(proposed_atoms(lm, run["layer_3"], itda.Site(3), "import sys", top=3))
    3
    """
    about = dictionary.provenance
    if not text.strip():
        raise SettingError("there is no text to find atoms by: give one in quotes")
    total, tokens = torch.zeros(len(dictionary), dtype=torch.float64), 0
    for part in activations_of(lm, site, [text], about.get("window"), about.get("bos", "auto")):
        x = part.to(dictionary.atoms.device)
        x = x[~dictionary.is_massive(x)]
        total += dictionary.similarity(x).double().sum(dim=0).cpu()  # pyright: ignore[reportAttributeAccessIssue]
        tokens += len(x)
    if not tokens:
        raise SettingError("the text has only special or massive tokens: add some words")
    found = (total / tokens).topk(min(top, len(dictionary)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [Proposed(atom, cosine, dictionary.labels[atom]) for atom, cosine in pairs]
