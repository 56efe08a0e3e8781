"""Tokens lie where a person would look for them, also for tokenizers that say otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from itda.sources.corpora.corpus import Document
from itda.sources.tokenizing.windows import Windower


def sentence_piece(*parts, prepend: bool = True) -> PreTrainedTokenizerFast:
    """Unigram as T5 has it: a blank is put before the text, and is a token of its own before some words."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("cat", -1.0), ("▁the", -1.0), ("日", -3.0), ("本", -3.0), ("s", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    scheme = "always" if prepend else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def trimming(add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """As RoBERTa's: byte-level, offsets without blanks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "Ġc", "Ġca", "Ġcat"])}
    merges = [("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=add_prefix_space, trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def places(tokenizer, text):
    windower = Windower(tokenizer, 64)
    labels = windower.group(windower.windows(Document("d", text)), 1).labels()
    found = [(label.char_start, label.char_end, label.token) for label in labels]
    assert all(text[start:end] == token for start, end, token in found)
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cat", [(0, 0, ""), (0, 3, "cat")]),
        ("日本", [(0, 0, ""), (0, 1, "日"), (1, 2, "本")]),
        ("the cats", [(0, 3, "the"), (3, 4, " "), (4, 7, "cat"), (7, 8, "s")]),
        (" cat", [(0, 1, " "), (1, 4, "cat")]),
        ("▁cat", [(0, 1, "▁"), (1, 4, "cat")]),
    ],
)
def test_a_blank_that_was_put_before_a_word_is_not_its_first_letter(text, wanted):
    assert places(sentence_piece(), text) == wanted


def test_where_blanks_are_dropped_one_put_before_a_word_is_the_blank_that_was_there():
    found = places(sentence_piece(pre_tokenizers.WhitespaceSplit()), "the cat 日")
    assert found == [(0, 3, "the"), (3, 4, " "), (4, 7, "cat"), (7, 8, " "), (8, 9, "日")]


def test_the_same_of_a_normalizer_that_prepends():
    tokenizer = Tokenizer(models.BPE(vocab={"▁": 0, "日": 1, "a": 2, "▁a": 3}, merges=[("▁", "a")]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert places(found, "日 a") == [(0, 0, ""), (0, 1, "日"), (1, 3, " a")]


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_blanks_are_seen_where_offsets_are_trimmed(add_prefix_space):
    found = places(trimming(add_prefix_space), "a   cat \nb ")
    first = [(0, 0, "")] if add_prefix_space else []
    blanks = [(1, 2, " "), (2, 3, " "), (4, 7, "cat"), (7, 8, " "), (8, 9, "\n"), (9, 10, "b"), (10, 11, " ")]
    assert found == [*first, (0, 1, "a"), *blanks]


@given(text=st.text(st.sampled_from("ab \n日🙂▁\u00a0"), min_size=1, max_size=30))
@pytest.mark.parametrize("tokenizer", [trimming(), sentence_piece()], ids=["RoBERTa", "Unigram"])
def test_mended_offsets_stay_in_order_and_within_the_text(tokenizer, text):
    found = places(tokenizer, text)
    ends = [end for _, end, _ in found]
    assert ends == sorted(ends)
    assert all(0 <= start <= end <= len(text) for start, end, _ in found)
