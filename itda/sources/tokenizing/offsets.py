"""Corrections of the places of tokens in a text, where a tokenizer's own would show a person a wrong stretch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64
from tokenizers.models import Unigram

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLANK = "\u2581"
"""The character for a blank in the tokens of SentencePiece's tokenizers, which put one before a text too."""


def blanks(tokenizer: PreTrainedTokenizerBase) -> Int64[np.ndarray, " ids"]:
    """Return the ids of the tokens that consist of `BLANK` alone."""
    found = [i for token, i in tokenizer.get_vocab().items() if token and not token.strip(BLANK)]
    return np.array(sorted(found), dtype=np.int64)


def firsts(tokenizer: PreTrainedTokenizerBase) -> Int64[np.ndarray, " ids"] | None:
    """Return the ids of tokens that begin a word, for a Unigram tokenizer; None for others, which do not need them."""
    if not isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), Unigram):
        return None
    found = [i for token, i in tokenizer.get_vocab().items() if token.startswith(BLANK)]
    return np.array(sorted(found), dtype=np.int64)


def mended(
    text: str, ids: Int64[np.ndarray, " tokens"], offsets: Int64[np.ndarray, "tokens 2"], blanks: np.ndarray
) -> Int64[np.ndarray, "tokens 2"]:
    """Correct the offsets of a text's tokens, in place, where the tokens are blanks; return them.

    A tokenizer may put a blank before a word and keep it as a token of its own, with the place of the word's first
    letter: it becomes an empty stretch before that. And a tokenizer that trims offsets (RoBERTa's) gives a token of
    blanks an empty stretch: it becomes the blanks since the token before.
    """
    for place in np.flatnonzero(np.isin(ids, blanks) & (offsets[:, 1] > offsets[:, 0])).tolist():
        begin, end = offsets[place].tolist()
        if not text[begin:end].strip(BLANK).isspace() and text[begin:end].strip(BLANK):
            offsets[place, 1] = begin
    for place in np.flatnonzero(offsets[:, 0] == offsets[:, 1]).tolist():
        before, end = int(offsets[place - 1, 1]) if place else 0, int(offsets[place, 1])
        if before < end and text[before:end].isspace():
            offsets[place, 0] = before
    return offsets
