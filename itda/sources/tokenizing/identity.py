"""The identity of a tokenizer: which tokenizers are one and the same, and which cut text into the same tokens."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


CUTTING = ("model", "normalizer", "pre_tokenizer")
"""The parts of a tokenizer's definition that decide how text is cut; the others put special tokens around it."""


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of a tokenizer's definition; None for one that has none to be read."""
    parts = definition(tokenizer)
    if parts is None:
        return None
    # The last call may have left its own padding and truncation there.
    shown = {name: value for name, value in parts.items() if name not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def definition(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return the values of a tokenizer.json; None for a tokenizer that is not made of one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str()) if backend is not None else None


def cut_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Return True if both cut ordinary text into the same token ids.

    They may put other special tokens around it, and one may have added tokens that the other lacks, as a chat model's
    has: no id means two tokens.
    """
    a, b = definition(one), definition(other)
    if a is None or b is None or any(a[part] != b[part] for part in CUTTING):
        return False
    mine, theirs = ({each["content"]: each["id"] for each in parts["added_tokens"]} for parts in (a, b))
    same_ids = all(theirs[token] == mine[token] for token in mine.keys() & theirs.keys())
    clash = {mine[token] for token in mine.keys() - theirs.keys()} & {
        theirs[token] for token in theirs.keys() - mine.keys()
    }
    return same_ids and not clash
