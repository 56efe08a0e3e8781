"""Special tokens around a text: those that a tokenizer puts there, and those that each window begins with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from itda.errors import ModelError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Bos = Literal["auto", "always", "never"]
"""The special tokens in front of each window.

auto: those that the tokenizer puts there. always: these, and if none of them marks the beginning, one that does: the
tokenizer's BOS, or its usual stand-in (`beginning`). never: none.
"""

TEXTS = ("a", "A", "1", ".", "the", "\u4e00")
"""Texts to try a tokenizer on: most make tokens of the first; for the others, the vocabulary is tried next."""

END_OF_TEXT = "<|endoftext|>"
"""The token that GPT-2, Pythia, Qwen and others saw between documents, whatever they call their BOS and EOS."""


def dressing(tokenizer: PreTrainedTokenizerBase, bos: Bos = "auto") -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens before and after each window.

    Raises `SettingError` where `bos` wants a token that the tokenizer does not have, `ModelError` for a tokenizer that
    makes no token of any text.
    """
    prefix, suffix = _places(tokenizer)
    if bos == "never":
        return [], suffix
    if bos == "always":
        start = beginning(tokenizer)
        if start is None and not prefix:
            raise SettingError("the tokenizer has no BOS token and none that stands for one: leave out --bos always")
        if start is not None and start not in prefix:
            prefix = [start, *prefix]
    return prefix, suffix


def beginning(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that marks the beginning of a text: BOS, or else `<|endoftext|>`, CLS or EOS; None without any."""
    known = special_ids(tokenizer)
    end_of_text = tokenizer.get_vocab().get(END_OF_TEXT)  # `convert_tokens_to_ids` has UNK's id for others
    for found in (
        tokenizer.bos_token_id,
        end_of_text if end_of_text in known else None,
        tokenizer.cls_token_id,
        tokenizer.eos_token_id,
    ):
        if isinstance(found, int):
            return found
    return None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of special tokens: those with a role, and added tokens that are marked as special."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return set(tokenizer.all_special_ids) | added


def _places(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer itself puts before and after a text, by its mask of special tokens."""
    for text in itertools.chain(TEXTS, _spelled(tokenizer)):
        if not tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]:
            continue
        dressed = tokenizer(text, return_attention_mask=False, return_special_tokens_mask=True)
        ids, added = dressed["input_ids"], dressed["special_tokens_mask"]
        if all(added):
            continue
        first, end = added.index(0), len(added) - added[::-1].index(0)
        return list(ids[:first]), list(ids[end:])
    raise ModelError(
        f"the tokenizer {type(tokenizer).__name__} makes no token of any text: use a model with another one"
    )


def _spelled(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield the text of each token of the vocabulary that is not special."""
    special = special_ids(tokenizer)
    for i in sorted(tokenizer.get_vocab().values()):
        if i not in special and (text := str(tokenizer.decode([i]))):
            yield text
