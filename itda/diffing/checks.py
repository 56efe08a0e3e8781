"""What can be refused before the models of a diff are loaded: by their configurations, tokenizers and the corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itda.core.site import Site
from itda.diffing.adapters import adapter_folder, check_peft
from itda.diffing.models import AnyModel, Opening
from itda.errors import CorpusError, ModelError, SettingError
from itda.sources.corpora.corpus import Corpus
from itda.sources.tokenizing.identity import cut_alike, tokenizer_hash
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Windower

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_TOKENS, LEAST_DOCUMENTS = 2_000, 8
"""Number of tokens and of documents that a diff needs to say anything: intervals are over documents."""
DEPTHS = ("decoder_layers", "num_hidden_layers", "num_layers", "n_layer")


@dataclass(frozen=True, eq=False)
class Outline:
    """What is known of a model before its weights are loaded; None for what is not."""

    name: str
    layers: int | None
    tokenizer: PreTrainedTokenizerBase | None


def outlines(
    base: AnyModel, changed: AnyModel, controls: Sequence[AnyModel] = (), opening: Opening | None = None
) -> list[Outline]:
    """Return what is known of all models before they are loaded, the base first. Raises `ModelError`."""
    opening = opening or Opening()
    first = _outline(base, opening.revision, opening)
    others = [(changed, opening.changed_revision), *((control, None) for control in controls)]
    found = [first]
    for model, revision in others:
        if isinstance(model, str | Path) and adapter_folder(str(model), revision) is not None:
            check_peft()
            found.append(Outline(str(model), first.layers, first.tokenizer))
        else:
            found.append(_outline(model, revision, opening))
    return found


def _outline(model: AnyModel, revision: str | None, opening: Opening) -> Outline:
    if not isinstance(model, str | Path):
        inner: Any = getattr(model, "inner", model)  # a streamed model has its tokenizer there
        layers = getattr(inner, "layers", None)
        return Outline(getattr(inner, "name", "the model"), layers, getattr(inner, "tokenizer", None))
    named = opening.named(str(model), revision)
    config = named.config().get_text_config()
    depth = next((found for each in DEPTHS if isinstance(found := getattr(config, each, None), int)), None)
    return Outline(str(model), depth, named.tokenizer())


def check_outlines(found: Sequence[Outline], sites: Sequence[Site]) -> None:
    """Raises `ModelError` for models that cut text otherwise than the first, or lack a layer."""
    base, *others = found
    for each in found:
        for site in sites:
            if each.layers is not None and not 0 <= site.layer < each.layers:
                raise ModelError(f"no layer {site.layer}: {each.name} has layers 0 to {each.layers - 1}")
    for other in others:
        check_tokenizers(base, other)


def check_tokenizers(base: Outline, other: Outline) -> None:
    """Raises `ModelError` for two models that cut text into different tokens."""
    a, b = base.tokenizer, other.tokenizer
    if a is None or b is None or tokenizer_hash(a) == tokenizer_hash(b) or cut_alike(a, b):
        return
    sizes = f" ({len(a):,} and {len(b):,} tokens)" if len(a) != len(b) else ""
    raise ModelError(
        f"{base.name} and {other.name} have different vocabularies{sizes}, so their tokens cannot be paired: take an "
        "`itda fingerprint` of each and `itda compare` these, which go by where tokens end"
    )


def check_enough(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    window: int,
    tokens: int | None,
    bos: Bos = "auto",
    first_tokens: bool = False,
    special_tokens: bool = False,
) -> None:
    """Raises `CorpusError` or `SettingError` for a corpus, or a part of it, that is too small to say anything.

    The corpus is read until there is enough, and no further.
    """
    need = f"a diff needs at least {LEAST_TOKENS:,} tokens of {LEAST_DOCUMENTS} documents to say anything"
    if tokens is not None and tokens < LEAST_TOKENS:
        raise SettingError(f"{tokens:,} tokens: {need}")
    read, documents, reached = 0, 0, None
    for documents, count in _counts(Windower(tokenizer, window, bos=bos), corpus, first_tokens, special_tokens):
        read += count
        if tokens is not None and reached is None and read >= tokens:
            reached = documents
        if documents >= LEAST_DOCUMENTS and read >= LEAST_TOKENS:
            break
    else:
        raise CorpusError(
            f"{corpus.name} has {read:,} tokens of {documents} document{'s' * (documents != 1)}: {need}; add more text"
        )
    if reached is not None and reached < LEAST_DOCUMENTS:
        raise SettingError(
            f"the first {tokens:,} tokens of {corpus.name} are of {reached} document{'s' * (reached > 1)}: {need}; "
            f"read {read:,} tokens or more, or a corpus of shorter documents"
        )


def _counts(windower: Windower, corpus: Corpus, first_tokens: bool, special_tokens: bool) -> Iterator[tuple[int, int]]:
    """Yield for each window the number of its document, of those that have tokens to read, and how many it has."""
    number = 0
    for document in corpus:
        found = False
        for window in windower.cut(document):
            own = ~np.isin(window.token_ids, windower.special) | special_tokens
            count = int(own.sum()) - (0 if first_tokens else int(own[0]))
            if count:
                number, found = number + (not found), True
                yield number, count
