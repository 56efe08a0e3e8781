"""Diffs from Python: what a changed model has that its base has not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itda import config as settings
from itda.api.settings import layers_of, made, path_of, streams_of
from itda.progress import bars, remarks
from itda.recipes.diff import GivenModels
from itda.recipes.diff import diff as find
from itda.sources.corpora.any_corpus import AnyCorpus, any_corpus
from itda.store.diffs import Diff

if TYPE_CHECKING:
    from itda.diffing.models import AnyModel


def diff(
    base: AnyModel,
    changed: AnyModel,
    corpus: AnyCorpus,
    *,
    layers: int | Sequence[int],
    controls: Sequence[AnyModel] = (),
    tokens: int = 20_000,
    streams: str | Sequence[str] = "resid_post",
    out: str | Path | None = None,
    progress: bool = True,
    **given: Any,
) -> Diff:
    """Find out what a changed model has that its base has not, in one pass of both over a corpus: `itda diff`.

    `base` is what `load_model` returns, or a name that it takes. `changed` and each of `controls` may also be a PEFT
    adapter on the base, by its folder or Hub id, or a transformers or PEFT model in memory. `corpus` is `python-docs`,
    a path, a Hub data set, a list of texts, or a `Corpus`. With `out`, what was found is written to that folder. The
    other settings of `itda diff` are taken under their own names: `window`, `first_tokens`, `chat`, ... Raises an
    `ItdaError`.

    >>> import itda
    >>> texts = [f"import os; x = {i}; print(os.path.join('a', str(x)))" * 20 for i in range(16)]
    >>> found = itda.diff("tiny", "tiny", texts, layers=[2], tokens=3000, window=64, noise=0, progress=False)
    >>> found["layer_2"]["unchanged"], found.values["kl"]["mean"]
    (True, 0.0)
    """
    by_name = isinstance(corpus, str | Path)
    options = made(
        settings.Diff,
        base=_name_of(base),
        changed=_name_of(changed),
        control=tuple(_name_of(each) for each in controls),
        corpus=str(corpus) if by_name else any_corpus(corpus).name,
        layers=layers_of(layers),
        streams=streams_of(streams),
        tokens=tokens,
        out=path_of(out) if out is not None else None,
        **given,
    )
    models = GivenModels(base, changed, controls)
    documents = None if by_name else any_corpus(corpus)
    return find(options, bars(not progress), remarks(not progress), given=models, corpus=documents)


def _name_of(model: AnyModel) -> str:
    """Return the name of a model that is named; "" for one in memory."""
    return str(model) if isinstance(model, str | Path) else ""
