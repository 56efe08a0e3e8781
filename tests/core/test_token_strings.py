"""Activations of prompts, as hooks, TransformerLens and nnsight give them, labelled in one call."""

from pathlib import Path

import numpy as np
import pytest
import torch
from core.helpers import normal
from hypothesis import given
from hypothesis import strategies as st

import itda
from itda import ActivationBatch, Label
from itda.errors import ActivationError, SettingError

TOKENS = [["<bos>", "To", " be", " or"], ["<bos>", "No", "<pad>", "<pad>"]]
MASK = [[0, 1, 1, 1], [0, 1, 0, 0]]
X = normal(8, 5).reshape(2, 4, 5)
KEPT = torch.tensor(MASK, dtype=torch.bool)


@pytest.mark.parametrize("mask", [MASK, torch.tensor(MASK), KEPT, KEPT.numpy(), torch.tensor(MASK, dtype=torch.uint8)])
def test_padding_and_special_tokens_are_left_out_and_the_others_labelled_in_order(mask):
    batch = ActivationBatch.of(X, tokens=TOKENS, mask=mask, documents=["hamlet", "other"])
    assert torch.equal(batch.activations, X[KEPT])
    assert list(batch.labels) == [
        Label("hamlet", 0, 0, 2, -1, "", "To", " be or"),
        Label("hamlet", 1, 2, 5, -1, "To", " be", " or"),
        Label("hamlet", 2, 5, 8, -1, "To be", " or", ""),
        Label("other", 0, 0, 2, -1, "", "No", ""),
    ]


def test_strings_of_the_kept_tokens_alone_will_do_and_padding_may_be_left():
    short = [strings[1 : 1 + sum(mask)] for strings, mask in zip(TOKENS, MASK, strict=True)]
    long = ActivationBatch.of(X, tokens=TOKENS, mask=MASK)
    assert list(ActivationBatch.of(X, tokens=short, mask=MASK).labels) == list(long.labels)
    left = ActivationBatch.of(X.flip(1), tokens=[each[::-1] for each in TOKENS[1:]] * 2, mask=[MASK[1][::-1]] * 2)
    assert left.labels.keys() == [("No", 0, 2)] * 2


def test_without_names_a_prompt_is_called_by_its_text_and_ids_are_kept():
    ids = torch.arange(8).reshape(2, 4)
    batch = ActivationBatch.of(X.numpy(), tokens=TOKENS, mask=MASK, token_ids=ids)
    assert set(batch.labels.document) == {"To be or", "No"}
    assert batch.labels.token_id.tolist() == [1, 2, 3, 5]


def test_one_prompt_may_come_without_its_first_axis():
    one = ActivationBatch.of(X[0], tokens=TOKENS[0], mask=MASK[0], token_ids=[7, 8, 9, 10], documents=["hamlet"])
    assert list(one.labels)[1] == Label("hamlet", 1, 2, 5, 9, "To", " be", " or")
    assert torch.equal(one.activations, X[0, 1:])


def test_what_is_masked_need_not_be_finite_and_the_rest_must_be():
    spoilt = X.clone()
    spoilt[1, 3] = float("nan")
    assert len(ActivationBatch.of(spoilt, tokens=TOKENS, mask=MASK)) == 4
    spoilt[0, 2, 1] = float("inf")
    with pytest.raises(ActivationError, match="token 2 of prompt 0, ' be', is not finite: mask it out"):
        ActivationBatch.of(spoilt, tokens=TOKENS, mask=MASK)


@given(
    st.lists(st.lists(st.text(max_size=4), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 2**20 - 1)
)
def test_labels_are_those_of_the_joined_text(tokens, bits):
    mask = np.array([bits >> i & 1 for i in range(5 * len(tokens))], dtype=bool).reshape(-1, 5)
    batch = ActivationBatch.of(torch.ones(len(tokens), 5, 2), tokens=tokens, mask=mask)
    assert len(batch) == mask.sum()
    rows = iter(batch.labels)
    for strings, kept in zip(tokens, mask, strict=True):
        text = "".join(string for string, keep in zip(strings, kept, strict=True) if keep)
        for position, string in enumerate(string for string, keep in zip(strings, kept, strict=True) if keep):
            label = next(rows)
            assert (label.document, label.position, label.token) == (text, position, string)
            assert label.before + label.token + label.after == text
            assert text[label.char_start : label.char_end] == string


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"activations are of shape \[2, 4, 5\]: give the token strings too, as tokens="),
        ({"mask": MASK}, "mask, documents and token_ids go with tokens"),
        ({"tokens": TOKENS, "labels": ["a"] * 4}, "both labels and tokens are given"),
        ({"tokens": TOKENS[:1]}, "tokens are no lists of strings for 2 prompts: give one list per prompt"),
        ({"tokens": ["a", "b"]}, "tokens are no lists of strings for 2 prompts"),
        (
            {"tokens": [TOKENS[0], ["a"]], "mask": MASK[:1] * 2},
            "prompt 1 has 1 token strings: give 4, one",
        ),
        ({"tokens": [TOKENS[0], [1, 2, 3, 4]]}, r"no strings: give \[tokenizer\.decode\(\[i\]\) for i in ids\]"),
        ({"tokens": TOKENS, "mask": MASK[:1]}, r"the mask has shape \[1, 4\]: give \[2, 4\]"),
        ({"tokens": TOKENS, "mask": torch.full((2, 4), 2)}, "the mask has values besides 0 and 1"),
        ({"tokens": TOKENS, "mask": torch.rand(2, 4)}, "the mask has values besides 0 and 1"),
        ({"tokens": TOKENS, "documents": ["one"]}, "documents are not 2 names: give one string per prompt"),
        ({"tokens": TOKENS, "documents": "ab"}, "documents are not 2 names"),
        ({"tokens": TOKENS, "token_ids": [[1, 2]]}, r"token_ids are of shape \[1, 2\], int64: give integers \[2, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings, message):
    with pytest.raises((SettingError, ActivationError), match=message) as error:
        ActivationBatch.of(X, **settings)
    assert "\n" not in str(error.value)


def test_activations_of_too_many_axes_are_refused():
    with pytest.raises(ActivationError, match=r"of shape \[1, 2, 4, 5\]: give \[batch, positions, d_model\]"):
        ActivationBatch.of(X[None], tokens=TOKENS)


def test_activations_of_a_hook_and_of_nnsight_are_taken_as_they_come():
    nnsight = pytest.importorskip("nnsight")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(itda.__file__).parent / "assets" / "tiny"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["for line in open(path):", "import os"], return_tensors="pt", padding=True)
    settings = {
        "tokens": [[tokenizer.decode([token]) for token in ids] for ids in inputs.input_ids],
        "mask": inputs.attention_mask * (inputs.input_ids != tokenizer.bos_token_id),
    }
    seen = []
    handle = model.model.layers[3].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(**inputs)
    handle.remove()
    hooked = ActivationBatch.of(seen[0], **settings)
    traced = nnsight.NNsight(model)
    with traced.trace(**inputs):
        saved = traced.model.layers[3].output.save()
    assert saved.requires_grad
    assert torch.equal(ActivationBatch.of(saved, **settings).activations, hooked.activations)
    assert hooked.labels[1].token == " line"
    assert len(hooked) == 9
    dictionary = itda.fit(hooked.activations, threshold=0.3, k=2, labels=hooked.labels)
    assert set(dictionary.labels.document) <= {"for line in open(path):", "import os"}
