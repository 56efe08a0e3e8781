"""Documents are cut into windows that tile them, and every token knows where it lies in the text."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.models.families import byte_tokenizer, word_tokenizer

from itda.errors import SettingError
from itda.sources.corpora.corpus import Corpus, Document
from itda.sources.tokenizing.windows import Windower, within_budget

MIXED = "naïve café 🙂👩‍👩‍👧 日本語のテキスト and the cat"
TEXTS = ["the cat sat on the mat", MIXED, "a", "\n\n  \t", "e\u0301 \u202e \x00 end"]
BOS, PLAIN, WORD = byte_tokenizer(), byte_tokenizer(bos=False), word_tokenizer()


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", [BOS, PLAIN, WORD], ids=["bos", "plain", "words"])
@pytest.mark.parametrize("window", [4, 7, 64])
def test_windows_tile_the_tokens_of_a_document_exactly(tokenizer, text, window):
    windows = Windower(tokenizer, window).windows(Document("d", text))
    assert [token for each in windows for token in each.token_ids.tolist()] == ids_of(tokenizer, text)


@given(text=st.text(max_size=60), window=st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_any_text_is_tiled_by_full_windows_and_one_shorter(text, window):
    windower = Windower(BOS, window)
    windows = windower.windows(Document("d", text))
    assert [token for each in windows for token in each.token_ids.tolist()] == ids_of(BOS, text)
    assert all(len(each.token_ids) == windower.content for each in windows[:-1])
    assert [each.position for each in windows] == [i * windower.content for i in range(len(windows))]


@given(text=st.text(max_size=60), window=st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_any_windows_text_is_the_documents_text_from_its_start(text, window):
    for each in Windower(BOS, window).windows(Document("d", text)):
        assert text[each.text_start : each.text_start + len(each.text)] == each.text
        assert each.text_start == each.offsets[:, 0].min()
        assert each.text_start + len(each.text) == each.offsets[:, 1].max()


@pytest.mark.parametrize("text", TEXTS)
def test_labels_slice_the_documents_text_to_the_tokens_own(text):
    windower = Windower(BOS, 6)
    for group in windower.groups([Document("d", text)], 3):
        for label in group.labels():
            assert text[label.char_start : label.char_end] == label.token
            assert label.before + label.token + label.after in text
            assert text[label.char_start - len(label.before) : label.char_start] == label.before


def test_the_bytes_of_an_emoji_are_all_labelled_with_the_whole_emoji():
    labels = Windower(PLAIN, 16).group(Windower(PLAIN, 16).windows(Document("d", "a🙂b")), 1).labels()
    assert [label.token for label in labels] == ["a", "🙂", "🙂", "🙂", "🙂", "b"]
    assert labels.position.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_window_that_ends_within_an_emoji_holds_the_whole_emoji():
    windows = Windower(PLAIN, 3).windows(Document("d", "a🙂b"))
    assert [window.text for window in windows] == ["a🙂", "🙂b"]


def test_offsets_of_cjk_count_characters_and_not_bytes():
    labels = Windower(PLAIN, 16).group(Windower(PLAIN, 16).windows(Document("d", "日本x")), 1).labels()
    assert (labels[-1].token, labels[-1].char_start, labels[-1].char_end) == ("x", 2, 3)


def test_labels_of_windows_have_document_position_and_token_id():
    windower = Windower(WORD, 5)
    group = windower.group(
        [*windower.windows(Document("x", "the cat sat on")), *windower.windows(Document("y", "a"))], 4
    )
    labels = group.labels()
    assert labels.document.tolist() == ["x", "x", "x", "x", "y"]
    assert labels.position.tolist() == [0, 1, 2, 3, 0]
    assert labels.token_id.tolist() == ids_of(WORD, "the cat sat on a")
    assert [label.token for label in labels] == ["the", "cat", "sat", "on", "a"]
    assert [label.before for label in labels] == ["", "the ", "the cat ", "", ""]
    assert [label.after for label in labels] == [" cat sat", " sat", "", "", ""]


def test_the_windows_of_one_document_have_distinct_label_keys():
    windower = Windower(BOS, 4)
    (group,) = windower.groups([Document("d", MIXED)], 64)
    keys = group.labels().keys()
    assert len(set(keys)) == len(keys) == len(ids_of(BOS, MIXED))


def test_labels_of_every_position_have_empty_tokens_at_the_windows_end_outside_the_text():
    windower = Windower(WORD, 6)
    group = windower.group(windower.windows(Document("d", "the cat")), 1)
    labels = group.labels(torch.ones(1, 6, dtype=torch.bool))
    assert [label.token for label in labels] == ["", "the", "cat", "", "", ""]
    assert labels.char_start.tolist() == [7, 0, 4, 7, 7, 7]
    assert labels.position.tolist() == [-1, 0, 1, 2, 3, 4]


def test_a_group_without_windows_has_no_labels():
    assert len(Windower(WORD, 6).group([], 2).labels()) == 0


@pytest.mark.parametrize(
    ("tokenizer", "prefix", "suffix"),
    [(BOS, [0], []), (PLAIN, [], []), (WORD, [2], [3])],
    ids=["bos", "plain", "words"],
)
def test_prefix_and_suffix_are_the_special_tokens_that_the_tokenizer_adds(tokenizer, prefix, suffix):
    windower = Windower(tokenizer, 8)
    assert (windower.prefix, windower.suffix) == (prefix, suffix)
    assert windower.content == 8 - len(prefix) - len(suffix)


@pytest.mark.parametrize("tokenizer", [BOS, PLAIN, WORD], ids=["bos", "plain", "words"])
def test_every_window_of_a_group_is_dressed_as_the_tokenizer_dresses_a_text(tokenizer):
    windower = Windower(tokenizer, 8)
    text = "the cat"
    group = windower.group(windower.windows(Document("d", text)), 1)
    dressed = tokenizer(text)["input_ids"]
    assert group.input_ids[0, : len(dressed)].tolist() == dressed
    assert group.attention_mask[0].tolist() == [1] * len(dressed) + [0] * (8 - len(dressed))


def test_every_group_has_one_shape_and_the_last_is_padded_to_it():
    groups = list(Windower(WORD, 5).groups(Corpus.from_texts(["the cat sat on the mat"] * 3), 4))
    assert [len(group.windows) for group in groups] == [4, 2]
    assert [tuple(group.input_ids.shape) for group in groups] == [(4, 5), (4, 5)]
    assert [tuple(group.is_activation.shape) for group in groups] == [(4, 5), (4, 5)]
    assert groups[1].is_activation[2:].sum() == 0
    assert bool((groups[1].attention_mask[2:] == 1).all())


def test_a_group_spans_documents_in_corpus_order():
    (group,) = Windower(WORD, 5).groups(Corpus.from_texts(["the cat sat on", "a dog"]), 4)
    assert [(window.document, window.position) for window in group.windows] == [
        ("text:0", 0),
        ("text:0", 3),
        ("text:1", 0),
    ]


def test_first_only_takes_one_window_of_each_document():
    groups = Windower(WORD, 4).groups(Corpus.from_texts(["the cat sat on", "a dog ran"]), 8, first_only=True)
    assert [(window.document, window.position) for group in groups for window in group.windows] == [
        ("text:0", 0),
        ("text:1", 0),
    ]


def test_documents_without_tokens_make_no_window():
    assert list(Windower(WORD, 5).groups([Document("d", "  \n ")], 2)) == []


def test_is_activation_is_false_at_special_tokens_and_padding():
    windower = Windower(WORD, 6)
    group = windower.group(windower.windows(Document("d", "the cat")), 2)
    assert group.is_activation.tolist() == [[False, True, True, False, False, False], [False] * 6]


def test_special_tokens_written_in_a_text_are_no_activations():
    windower = Windower(BOS, 12)
    group = windower.group(windower.windows(Document("d", "a<bos>b<pad>c")), 1)
    assert [label.token for label in group.labels()] == ["a", "b", "c"]


def test_special_tokens_that_are_only_named_in_the_added_tokens_are_no_activations():
    from tokenizers import AddedToken

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    windower = Windower(tokenizer, 12)
    group = windower.group(windower.windows(Document("d", "a<|im_start|>b")), 1)
    assert [label.token for label in group.labels()] == ["a", "b"]


def test_predicts_where_this_token_and_the_next_are_tokens_of_the_text():
    windower = Windower(WORD, 6)
    group = windower.group(windower.windows(Document("d", "the cat sat")), 2)
    assert group.predicts.tolist() == [[False, True, True, False, False, False], [False] * 6]


def test_the_last_column_of_a_full_window_predicts_nothing():
    windower = Windower(PLAIN, 4)
    group = windower.group(windower.windows(Document("d", "xyzw")), 1)
    assert group.predicts.tolist() == [[True, True, True, False]]


def test_nothing_is_predicted_across_a_special_token_written_in_the_text():
    windower = Windower(BOS, 8)
    group = windower.group(windower.windows(Document("d", "xy<bos>zw")), 1)
    assert group.predicts.tolist() == [[False, True, False, False, True, False, False, False]]


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=4), window=st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_targets_are_the_ids_one_place_after_each_place_that_predicts(texts, window):
    for group in Windower(BOS, window).groups(Corpus.from_texts(texts), 3):
        rows, columns = group.predicts.numpy().nonzero()
        assert group.targets.tolist() == group.input_ids.numpy()[rows, columns + 1].tolist()
        assert bool(group.is_activation.numpy()[rows, columns + 1].all())


def test_targets_are_the_labels_that_follow_in_the_same_window():
    (group,) = Windower(WORD, 6).groups(Corpus.from_texts(["the cat sat on the mat", "a dog"]), 8)
    assert group.targets.tolist() == ids_of(WORD, "cat sat on") + ids_of(WORD, "mat") + ids_of(WORD, "dog")


def test_padding_without_a_padding_token_is_the_eos_or_zero_and_is_masked():
    windower = Windower(PLAIN, 6)
    group = windower.group(windower.windows(Document("d", "xy")), 1)
    assert group.input_ids[0, 2:].tolist() == [0] * 4
    assert group.attention_mask[0].tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("tokenizer", "window", "least"), [(WORD, 2, 3), (WORD, 1, 3), (BOS, 1, 2), (PLAIN, 0, 1)])
def test_a_window_without_room_raises_and_names_the_least_that_works(tokenizer, window, least):
    with pytest.raises(SettingError, match=f"use at least {least}$"):
        Windower(tokenizer, window)
    assert Windower(tokenizer, least).content == 1


def test_a_window_longer_than_the_context_raises_and_one_as_long_does_not():
    with pytest.raises(SettingError, match=r"^a window of 9 tokens, but the model reads at most 8: use --window"):
        Windower(BOS, 9, context=8)
    assert Windower(BOS, 8, context=8).content == 7


def test_windows_longer_than_the_tokenizers_own_limit_warn_of_nothing(caplog, recwarn):
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 8
    assert len(Windower(tokenizer, 6).windows(Document("d", "x" * 40))) == 8
    assert not caplog.records
    assert not list(recwarn)


def test_token_ids_and_offsets_of_a_window_have_one_row_per_token():
    for window in Windower(BOS, 5).windows(Document("d", MIXED)):
        assert window.offsets.shape == (len(window.token_ids), 2)
        assert window.token_ids.dtype == np.int64


@given(
    lengths=st.lists(st.integers(0, 9), max_size=6),
    tokens=st.none() | st.integers(0, 40),
    skip=st.integers(0, 40),
    size=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_budget_marks_the_activations_that_counting_one_by_one_would(lengths, tokens, skip, size):
    corpus = Corpus.from_texts(["a" * length for length in lengths])
    groups = list(Windower(BOS, 5).groups(corpus, size))
    seen, wanted = 0, []
    for place in torch.cat([group.is_activation.flatten() for group in groups] or [torch.zeros(0)]).tolist():
        seen += bool(place)
        wanted.append(bool(place) and seen > skip and (tokens is None or seen <= tokens))
    marked = list(within_budget(groups, tokens, skip))
    found = [flag for group in marked for flag in group.is_activation.flatten().tolist()]
    assert found == wanted[: len(found)]
    assert not any(wanted[len(found) :])
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(marked, groups, strict=False))
