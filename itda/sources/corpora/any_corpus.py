"""A corpus from what people give in Python: a name, a path, or texts that are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itda.errors import CorpusError
from itda.sources.corpora.corpus import Corpus, open_corpus

AnyCorpus = str | Path | Sequence[str] | Corpus
"""`python-docs`, a file, a folder or a Hub data set; or texts; or a `Corpus`."""


def any_corpus(corpus: AnyCorpus) -> Corpus:
    """Open a corpus by its name, or make one of texts. Raises `CorpusError`.

    >>> len(list(any_corpus(["one text", "another"])))
    2
    """
    if isinstance(corpus, Corpus):
        return corpus
    if isinstance(corpus, str | Path):
        return open_corpus(str(corpus))
    texts = list(corpus)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise CorpusError("a corpus of no texts: give python-docs, a path, a Hub data set, or a list of strings")
    return Corpus.from_texts(texts)
