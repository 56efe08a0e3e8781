"""Tokens that are not whole characters: byte-level and byte-fallback tokenizers, and those that have none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources.models.families import byte_tokenizer, shared, word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.partial_characters import byte_alphabet, partial_bytes


def fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Characters of a small alphabet, and a token for every byte, as Llama 2's."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "é"]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def spelled(tokenizer, text):
    pieces = partial_bytes(tokenizer)
    return [pieces.get(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def test_the_alphabet_is_that_of_byte_level_tokenizers():
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@given(st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()))
def test_bytes_of_a_byte_level_tokenizer_spell_the_text(text):
    tokenizer, alphabet = byte_tokenizer(bos=False), byte_alphabet()
    pieces = partial_bytes(tokenizer)
    ids = tokenizer(text)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    whole = [bytes(alphabet[c] for c in token) for token in tokens]
    assert b"".join(pieces.get(i, own) for i, own in zip(ids, whole, strict=True)) == text.encode()
    for i, own in zip(ids, whole, strict=True):
        assert (i in pieces) == _broken(own)


def _broken(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_tinys_emoji_is_four_tokens_of_one_byte_each():
    tokenizer = LanguageModel.load("tiny").tokenizer
    assert spelled(tokenizer, "🙂") == [bytes([byte]) for byte in "🙂".encode()]
    assert set(spelled(tokenizer, "import os")) == {None}


def test_byte_fallback():
    tokenizer = fallback_tokenizer()
    assert spelled(tokenizer, "aé") == [None, None]
    assert spelled(tokenizer, "日") == [b"\xe6", b"\x97", b"\xa5"]
    assert spelled(tokenizer, "c") == [None]  # <0x63> is a whole character
    assert len(partial_bytes(tokenizer)) == 128


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), ByT5Tokenizer()], ids=["words", "no tokenizer.json"])
def test_tokenizers_of_whole_characters_and_unknown_ones_have_none(tokenizer):
    assert partial_bytes(tokenizer) == {}


def test_special_tokens_are_not_read_as_bytes():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["ÃÃ"]})  # the byte C3, twice
    assert tokenizer.convert_tokens_to_ids("ÃÃ") not in partial_bytes(tokenizer)
    assert partial_bytes(shared("bert").tokenizer) == {}
