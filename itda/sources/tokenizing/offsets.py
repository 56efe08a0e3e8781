"""Where tokens lie in a text, where tokenizers say it so that a person sees nothing, or the wrong thing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerBase

BLANK = "\u2581"
"""What stands for a blank in the tokens of SentencePiece's tokenizers, and for the one that they put before a text."""


def blanks(tokenizer: PreTrainedTokenizerBase) -> Int64[np.ndarray, " ids"]:
    """The ids of tokens that are blanks alone, as SentencePiece writes them."""
    found = [i for token, i in tokenizer.get_vocab().items() if token and not token.strip(BLANK)]
    return np.array(sorted(found), dtype=np.int64)


def firsts(tokenizer: PreTrainedTokenizerBase) -> Int64[np.ndarray, " ids"] | None:
    """The ids of tokens that begin a word, for a Unigram tokenizer; None for others, whose words do not matter here."""
    if not isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), Unigram):
        return None
    found = [i for token, i in tokenizer.get_vocab().items() if token.startswith(BLANK)]
    return np.array(sorted(found), dtype=np.int64)


def mended(
    text: str, ids: Int64[np.ndarray, " tokens"], offsets: Int64[np.ndarray, "tokens 2"], blanks: np.ndarray
) -> Int64[np.ndarray, "tokens 2"]:
    """The offsets of a text's tokens, of which two kinds are mended.

    A blank that a tokenizer put before a word, and kept as a token of its own, is said to be the word's first letter:
    it is nothing, before that. And a tokenizer that trims offsets (RoBERTa's) says of a token of blanks that it is
    nothing: it is the blanks since the token before.
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
