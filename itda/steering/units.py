"""The unit of strength: typical coefficients, measured where nobody hands them over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.intake import Activations, tensor_of
from itda.core.labels import Labels
from itda.core.site import Site
from itda.core.typical import Typical
from itda.errors import SettingError
from itda.sources.corpora.corpus import Document
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import Bos

SAMPLE_WINDOWS = 16
"""Windows of the dictionary's labels that are read for a sample; a window has 128 tokens as a rule."""
WINDOW, BATCH = 128, 8
"""Tokens of a window, for a dictionary that does not say how many it was made with; windows that run together."""

_measured: WeakKeyDictionary[ITDA, WeakKeyDictionary[LanguageModel, Typical]] = WeakKeyDictionary()
"""What was measured on the windows of labels, by dictionary and model."""


def typical_of_activations(dictionary: ITDA, activations: Activations, source: str = "a sample") -> Typical:
    """Return typical coefficients in activations [..., d_model], massive ones left out.

    >>> import torch, itda
    >>> labels = itda.Labels.of_rows(2)
    >>> typical_of_activations(itda.ITDA(torch.eye(2), labels, k=1), torch.tensor([[3.0, 0.0]] * 9)).of(0)
    3.0
    """
    x = tensor_of(activations)
    x = x.reshape(-1, x.shape[-1]) if x.ndim else x
    return Typical.of_code(dictionary.encode(x[~dictionary.is_massive(x)]), len(dictionary), source)


def typical_of_texts(model: LanguageModel, dictionary: ITDA, site: Site, texts: Iterable[str]) -> Typical:
    """Return typical coefficients in the activations of some texts. Raises `SettingError` if there is none."""
    about = dictionary.provenance
    parts = list(activations_of(model, site, texts, about.get("window"), about.get("bos", "auto")))
    if not sum(map(len, parts)):
        raise SettingError("the sample has no token, so strength has no unit: give some texts")
    codes = []
    for x in parts:
        x = x.to(dictionary.atoms.device)
        codes.append(dictionary.encode(x[~dictionary.is_massive(x)]))
    code = SparseCode(
        *(torch.cat([getattr(each, name) for each in codes]) for name in ("indices", "coefficients", "count"))
    )
    return Typical.of_code(code, len(dictionary), f"{len(code.count):,} tokens of a sample")


def typical_of_labels(model: LanguageModel, dictionary: ITDA, site: Site) -> Typical:
    """Return typical coefficients in the windows of text that the dictionary's own labels are from; they are kept.

    Raises `SettingError` for labels without texts, such as the numbers of an SAE's latents.
    """
    known = _measured.setdefault(dictionary, WeakKeyDictionary())
    if model not in known:
        texts = label_windows(dictionary.labels)
        if not texts:
            raise SettingError(
                "the dictionary's labels have no texts in which to measure how large coefficients are: give "
                "sample=[texts], or its activations"
            )
        found = typical_of_texts(model, dictionary, site, texts)
        known[model] = Typical(
            found.uses, found.coefficients, f"{found.source.split(' of ')[0]} of its labels' windows"
        )
    return known[model]


def label_windows(labels: Labels, most: int = SAMPLE_WINDOWS) -> list[str]:
    """Return up to `most` different windows of text of labels, evenly spaced; none for labels that are no tokens."""
    if len(labels) == 0 or labels[0].whole:
        return []
    windows = list(dict.fromkeys(text for text in labels.window.tolist() if text.strip()))
    places = torch.linspace(0, len(windows) - 1, min(most, len(windows))).long().tolist()
    return [windows[place] for place in places]


def activations_of(
    model: LanguageModel, site: Site, texts: Iterable[str], window: int | None = None, bos: Bos = "auto"
) -> Iterable[Tensor]:
    """Yield the activations of texts at a site, [activations, d_model] for some windows at a time."""
    if isinstance(texts, str):
        raise SettingError("the texts are one string: give a list of strings")
    given: Sequence[str] = list(texts)
    for text in given:
        if not isinstance(text, str):
            raise SettingError(f"a text is a {type(text).__name__}: give strings")
    windower = model.windower(min(window or WINDOW, model.context or WINDOW), bos)
    documents = (Document(f"text {number}", text) for number, text in enumerate(given))
    for group in windower.groups(documents, min(BATCH, max(1, len(given)))):
        for _, found in model.harvest([group], [site]):
            yield found[site]
