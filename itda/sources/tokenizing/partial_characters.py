"""The bytes of tokens that are not whole characters."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def partial_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Return the bytes of each token of the vocabulary that is no valid UTF-8 by itself, by token id.

    Byte-level tokenizers (GPT-2's, Llama 3's) cut a rare character into several tokens, and byte-fallback ones
    (Llama 2's, Gemma's) have a token for each byte: the text of such a token is the whole character, which it shares
    with its neighbours. Other tokenizers have no such tokens; for those without a tokenizer.json, the
    result is empty.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> tokenizer = LanguageModel.load("tiny").tokenizer
    >>> found = partial_bytes(tokenizer)
    >>> [found[token].hex(" ") for token in tokenizer("🙂", add_special_tokens=False)["input_ids"]]
    ['f0', '9f', '99', '82']
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {}
    parts = json.loads(backend.to_str())
    kinds = _kinds([parts.get(name) for name in ("pre_tokenizer", "decoder")])
    fallback = "ByteFallback" in kinds or bool(parts["model"].get("byte_fallback"))
    alphabet = byte_alphabet() if "ByteLevel" in kinds else {}
    found: dict[int, bytes] = {}
    for token, i in tokenizer.get_vocab().items():
        if i in tokenizer.added_tokens_decoder:  # literal text, whatever its characters
            continue
        if alphabet and all(character in alphabet for character in token):
            piece = bytes(alphabet[character] for character in token)
        elif fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            piece = bytes.fromhex(byte[1])
        else:
            continue
        try:
            piece.decode()
        except UnicodeDecodeError:
            found[i] = piece
    return dict(sorted(found.items()))


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for (Radford et al. 2019, GPT-2).

    Bytes that print stand for themselves, the others for the characters from U+0100 on, in order.

    >>> byte_alphabet()["Ġ"], byte_alphabet()["a"]
    (32, 97)
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _kinds(parts: Any) -> set[str]:
    """Return the types that are named anywhere within a part of a tokenizer.json."""
    if isinstance(parts, list):
        return set().union(*(_kinds(part) for part in parts))
    if not isinstance(parts, dict):
        return set()
    own = {parts["type"]} if isinstance(parts.get("type"), str) else set()
    return own.union(*(_kinds(part) for part in parts.values()))
