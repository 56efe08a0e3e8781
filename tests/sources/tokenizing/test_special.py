"""Special tokens stand where the tokenizer puts them, and in front of each window what `bos` says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sources.models.families import byte_tokenizer, end_of_text, language_model, shared, word_tokenizer
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from itda.core.batch import Site
from itda.errors import ModelError, SettingError
from itda.sources.corpora.corpus import Corpus, Document
from itda.sources.models.ndif import RemoteModel
from itda.sources.prompt import read_prompt
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel
from itda.sources.tokenizing.special import beginning, dressing
from itda.sources.tokenizing.windows import Windower


def letters(alphabet, *, before=("<cls>",), after=("<eos>",), **names) -> PreTrainedTokenizerFast:
    """One token a letter, and none for any other; special tokens before and after a text."""
    special = ["<pad>", "<cls>", "<eos>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *alphabet])}, merges=[]))
    if before or after:
        single = " ".join([*before, "$A", *after])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(token, special.index(token)) for token in {*before, *after}]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **names)


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (letters("ACGT"), "ACGT"),
        (letters("東京都"), "京都"),
        (letters("xyz", before=("<cls>", "<mask>"), after=()), "zyx"),
        (letters("xyz", before=(), after=("<eos>",)), "xyx"),
        (letters("Q", before=("<eos>",), after=("<eos>",)), "QQ"),
        (word_tokenizer(), "the cat"),
        (byte_tokenizer(), "the cat"),
    ],
    ids=["DNA", "kanji", "two before", "only after", "the same around", "words", "bytes"],
)
def test_a_window_is_dressed_as_the_tokenizer_dresses_a_text_whether_or_not_it_has_an_a(tokenizer, text):
    windower = Windower(tokenizer, 16)
    group = windower.group(windower.windows(Document("d", text)), 1)
    dressed = tokenizer(text)["input_ids"]
    assert group.input_ids[0, : len(dressed)].tolist() == dressed
    assert "".join(label.token for label in group.labels()).replace(" ", "") == text.replace(" ", "")


def test_a_tokenizer_that_makes_no_token_of_any_text_is_refused():
    with pytest.raises(ModelError, match="makes no token of any text"):
        Windower(letters(""), 16)


@pytest.mark.parametrize(
    ("tokenizer", "auto", "always", "never"),
    [
        (byte_tokenizer(), ["<bos>"], ["<bos>"], []),
        (word_tokenizer(), ["[CLS]"], ["[CLS]"], []),
        (end_of_text(eos_token="<|endoftext|>"), [], ["<|endoftext|>"], []),
        (end_of_text(eos_token="<|im_end|>"), [], ["<|endoftext|>"], []),
        (end_of_text(bos_token="<|im_end|>", eos_token="<|endoftext|>"), [], ["<|im_end|>"], []),
        (letters("ab", before=("<mask>",), bos_token="<cls>"), ["<mask>"], ["<cls>", "<mask>"], []),
        (letters("ab", before=("<mask>",)), ["<mask>"], ["<mask>"], []),
        (letters("ab", before=(), after=(), eos_token="<eos>"), [], ["<eos>"], []),
    ],
    ids=["has", "CLS", "EOS", "end of text", "BOS", "not among", "no BOS", "any EOS"],
)
def test_what_is_in_front_of_a_window(tokenizer, auto, always, never):
    for bos, tokens in (("auto", auto), ("always", always), ("never", never)):
        windower = Windower(tokenizer, 8, bos=bos)
        assert tokenizer.convert_ids_to_tokens(windower.prefix) == tokens
        assert windower.suffix == Windower(tokenizer, 8).suffix
        assert windower.content == 8 - len(tokens) - len(windower.suffix)


def test_always_without_any_token_for_it_is_refused_with_the_remedy():
    with pytest.raises(SettingError, match=r"no BOS token and none that stands for one: leave out --bos always$"):
        dressing(byte_tokenizer(bos=False), "always")
    assert beginning(byte_tokenizer(bos=False)) is None


@given(text=st.text(max_size=40), bos=st.sampled_from(["auto", "always", "never"]), window=st.integers(3, 9))
def test_labels_are_those_of_the_text_whatever_is_in_front(text, bos, window):
    usual, tokenizer = Windower(byte_tokenizer(), 64), byte_tokenizer()
    windower = Windower(tokenizer, window, bos=bos)
    (wanted,) = [*usual.groups([Document("d", text)], 64)] or [usual.group([], 1)]
    (found,) = [*windower.groups([Document("d", text)], 64)] or [windower.group([], 1)]
    assert found.labels().keys() == wanted.labels().keys()
    assert not found.is_activation[:, : found.prefix].any()


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_activations_are_those_of_the_model_with_and_without_a_bos(bos):
    model = language_model("gpt2")
    model.tokenizer = end_of_text(eos_token="<|endoftext|>")
    front = [0] if bos == "always" else []
    labels, found = read_prompt(model, "a cat", [Site(1)], 12, bos=bos)
    ids = torch.tensor([front + model.tokenizer("a cat")["input_ids"]])
    hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, len(front) :]
    torch.testing.assert_close(found[Site(1)], hidden, atol=1e-5, rtol=1e-4)
    assert [label.token for label in labels] == list("a cat")
    source = ModelSource(model, Corpus.from_texts(["a cat"]), [Site(1)], window=12, batch_size=1, bos=bos)
    (batch,) = list(source)
    assert torch.equal(batch[Site(1)].activations, found[Site(1)])
    assert batch[Site(1)].labels.keys() == [("text:0", i, i + 1) for i in range(5)]


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_streamed_and_remote_models_have_it_too(bos, tmp_path):
    model = language_model("gpt2")
    model.tokenizer = end_of_text(eos_token="<|endoftext|>")
    for each in (model.model, model.tokenizer):
        each.save_pretrained(tmp_path)

    def read(made):
        corpus = Corpus.from_texts(["a cat", "the dog ran on"])
        source = ModelSource(made, corpus, [Site(1)], window=8, batch_size=2, bos=bos)
        return torch.cat([batch[Site(1)].activations for batch in source])

    wanted = read(model)
    assert torch.equal(read(StreamedModel.load(str(tmp_path))), wanted)
    assert torch.equal(read(RemoteModel.over(model)), wanted)


def test_a_prompt_longer_than_the_window_has_its_bos_too():
    model = shared("llama")
    text = "the cat sat on a dog"
    long, short = (read_prompt(model, text, [Site(1)], window, bos="never")[1][Site(1)] for window in (40, 8))
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("text", ["<bos>", "<bos><pad><bos>"])
def test_a_text_of_special_tokens_alone_is_refused_in_one_line(text):
    with pytest.raises(SettingError, match=r"only special tokens, which have no activations here: add some"):
        read_prompt(shared("llama"), text, [Site(1)], 12)
