"""A document that is tokenized part by part has the tokens of the whole, for tokenizers of every kind."""

from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.models.families import byte_tokenizer, word_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from itda.errors import CorpusError
from itda.sources.corpora.corpus import Corpus
from itda.sources.corpora.document import Document, LongDocument
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing import cutting
from itda.sources.tokenizing.windows import Windower

WORDS = "the cat sat on the mat, and the dog ran; it's 12345 o'clock (naïve café) in 東京都に行く。 Привет! x = f(1)\n"
LIKE_GPT4 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained() -> str:
    from pydoc_data.topics import topics

    return WORDS * 20 + "".join(topics[name] for name in ("for", "strings", "typesseq"))


def byte_level(pattern: str | None = None, *, trim: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([trained()], trainer)
    return tokenizer


def like_llama_2() -> Tokenizer:
    """BPE over the whole text: blanks are letters of it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # to be trained on words
    own = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        [trained()], trainers.BpeTrainer(vocab_size=1100, special_tokens=own, show_progress=False)
    )
    tokenizer.pre_tokenizer = None  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own = ["[UNK]"]
    tokenizer.train_from_iterator(
        [trained()], trainers.WordPieceTrainer(vocab_size=700, special_tokens=own, show_progress=False)
    )
    return tokenizer


def unigram(*parts: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    own = ["<unk>"]
    tokenizer.train_from_iterator(
        [trained()], trainers.UnigramTrainer(vocab_size=500, special_tokens=own, unk_token="<unk>", show_progress=False)
    )
    return tokenizer


def letters() -> Tokenizer:
    """BPE without words at all, as tokenizers of DNA are."""
    tokenizer = Tokenizer(models.BPE())
    text = "ACGTTGCAACGGTATTGACC" * 50
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=40, show_progress=False))
    return tokenizer


KINDS = {
    "GPT-2": byte_level,
    "GPT-4": lambda: byte_level(LIKE_GPT4),
    "RoBERTa": lambda: byte_level(trim=True),
    "Llama 2": like_llama_2,
    "BERT": word_piece,
    "Unigram": unigram,
    "T5": lambda: unigram(pre_tokenizers.WhitespaceSplit()),
    "DNA": letters,
}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    if kind == "bytes":
        return byte_tokenizer()
    if kind == "words":
        return word_tokenizer()
    if kind == "tiny":
        return LanguageModel.load("tiny").tokenizer  # pyright: ignore[reportReturnType]
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]())


EVERY = [*KINDS, "bytes", "words", "tiny"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks so small that a text of a page has many."""
    for name, value in (("WHOLE", 500), ("CHUNK", 400), ("OVERLAP", 160), ("SAME", 5)):
        monkeypatch.setattr(cutting, name, value)


def both(kind, text, size=90):
    """The windows of a text at once, and part by part."""
    windower = Windower(tokenizer_of(kind), 12)
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    found = list(windower.cut(LongDocument("d", lambda: iter(parts))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "WHOLE", 10**9)
        return list(windower.cut(Document("d", text))), found


def same(kind, text, size=90):
    whole, parts = both(kind, text, size)
    assert len(parts) == len(whole)
    for mine, theirs in zip(parts, whole, strict=True):
        assert (mine.text_start, mine.position, mine.text) == (theirs.text_start, theirs.position, theirs.text)
        assert np.array_equal(mine.token_ids, theirs.token_ids)
        assert np.array_equal(mine.offsets, theirs.offsets)


@pytest.mark.parametrize("kind", EVERY)
def test_prose_code_and_other_scripts_have_the_tokens_of_the_whole(kind):
    from pydoc_data.topics import topics

    text = "".join(topics[name][:3000] + WORDS for name in ("assert", "class", "formatstrings", "numbers"))
    same(kind, "ACGTTGCA" * 300 + "GATTACA" * 200 if kind == "DNA" else text)


PIECES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            WORDS,
            "<bos>",
            "  \n\n",
            "\t",
            "🙂👩‍👩‍👧",
            "e\u0301",
            "don't",
            "1234567",
            "日本語の文。",
            "the",
            "\r\n",
            "ACGT",
        ]
    ),
    st.tuples(st.sampled_from(["a", " ", "\n", "=", "日", "7", "🙂", "the ", "\u0300", "."]), st.integers(1, 700)).map(
        lambda pair: pair[0] * pair[1]
    ),
)


@pytest.mark.parametrize("kind", EVERY)
@given(pieces=st.lists(PIECES, min_size=4, max_size=25), size=st.sampled_from([7, 90, 5000]))
@settings(max_examples=30, deadline=None)
def test_any_text_has_the_tokens_of_the_whole(kind, pieces, size):
    same(kind, " ".join(pieces) if len(pieces) % 2 else "".join(pieces), size)


@pytest.mark.parametrize("text", ["a" * 3000, " " * 3000, "12" * 1500, "日" * 2000, "\n" * 3000, "\x00" * 2000])
@pytest.mark.parametrize("kind", EVERY)
def test_texts_without_any_word_have_the_tokens_of_the_whole(kind, text):
    same(kind, text)


def test_no_more_is_read_than_the_windows_take():
    read = []

    def parts():
        for i in range(10_000):
            read.append(i)
            yield "the cat sat on the mat "

    windower, document = Windower(tokenizer_of("GPT-2"), 16), LongDocument("d", parts)
    (window,) = (next(iter(windower.cut(document))),)
    assert window.text.startswith("the cat sat on")
    assert len(read) < 100
    read.clear()
    assert len(next(iter(windower.groups([document], 4))).windows) == 4
    assert len(read) < 100


def test_the_text_that_has_been_read_is_let_go():
    tokens = cutting.Tokens(partial(Windower(tokenizer_of("GPT-2"), 16)._encoded, "d"), iter(["the cat sat "] * 5000))
    longest = 0
    for _, offsets in tokens:
        tokens.forget(int(offsets[-1, 1]))
        longest = max(longest, len(tokens._text))
    assert longest < 5 * cutting.CHUNK


def test_documents_of_ordinary_size_are_tokenized_at_once(monkeypatch):
    monkeypatch.undo()
    assert cutting.WHOLE >= 2**18
    called = []
    windower = Windower(tokenizer_of("GPT-2"), 16)
    encoded = windower._encoded
    monkeypatch.setattr(windower, "_encoded", lambda name, text: called.append(len(text)) or encoded(name, text))
    list(windower.cut(Document("d", WORDS * 100)))
    assert called == [len(WORDS) * 100]


def test_half_a_surrogate_pair_is_one_line_that_names_the_document():
    with pytest.raises(CorpusError, match=r"text:1 holds a broken character .half a surrogate pair.: mend it"):
        list(Windower(tokenizer_of("GPT-2"), 16).groups(Corpus.from_texts(["a", "b\ud800"]), 2))


def test_a_text_with_nuls_keeps_them():
    (window,) = Windower(tokenizer_of("GPT-2"), 64).windows(Document("d", "a\x00b"))
    assert window.text == "a\x00b"
    assert window.offsets.tolist() == [[0, 1], [1, 2], [2, 3]]
