"""Conversations through a chat template, with the roles of their tokens; and what a direction promotes."""

import json

import numpy as np
import pytest
import torch
from changed_models import another_width, changed, of, saved
from sources.models.families import build, byte_tokenizer, shared

import itda
from itda import Site
from itda.core.labels import Labels
from itda.diffing import checks
from itda.diffing.batches import PairedBatch
from itda.diffing.promoted import promoted
from itda.errors import CorpusError, ModelError
from itda.sources.corpora.conversations import Conversations
from itda.sources.models.transformers import LanguageModel
from itda.sources.streamed.model import StreamedModel
from itda.sources.unembedding import direct_logits, unembeds

TEMPLATE = "{% for m in messages %}<turn>{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
TALKS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f" the cat sat {i} "},
        {"role": "assistant", "content": "the cat sat on the mat"},
        {"role": "user", "content": "the cat"},
    ]
    for i in range(9)
]


def chat_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_messages_are_found_in_the_text_of_their_template():
    made = Conversations.of("talk", TALKS, chat_tokenizer())
    document = next(iter(made.corpus))
    assert document.text.startswith("<turn>system: Be brief.\n<turn>user: the cat sat 0\n<turn>assistant: the cat")
    said = [(document.text[start:end], role) for start, end, role in made.spans[document.id]]
    assert said == [
        ("Be brief.", "prompt"),
        ("the cat sat 0", "prompt"),
        ("the cat sat on the mat", "reply"),
        ("the cat", "prompt"),
    ]


def test_every_token_of_a_conversation_has_a_role_its_special_ones_too():
    tokenizer = chat_tokenizer()
    module = build("llama")
    module.resize_token_embeddings(len(tokenizer))
    model = LanguageModel(module, tokenizer)
    made = Conversations.of("talk", TALKS[:2], tokenizer)
    given = {"sites": [Site(0)], "window": 64, "bos": "never", "special_tokens": True, "first_tokens": True}
    source = of(model, model, corpus=made.corpus, **given)
    batches = [each for each in source if isinstance(each, PairedBatch)]
    labels = Labels.concatenate([each.labels for each in batches])
    roles = made.roles(labels)
    text, first = next(iter(made.corpus)).text, labels.document == "talk:0"
    written = dict.fromkeys(("template", "prompt", "reply"), "")
    for start, end, role in zip(labels.char_start[first], labels.char_end[first], roles[first], strict=True):
        written[role] += text[start:end]
    assert written["reply"].strip() == "the cat sat on the mat"
    assert written["template"].count("<turn>") == 4
    assert "Be brief." in written["prompt"]


@pytest.fixture(scope="module")
def chat_models(tmp_path_factory):
    """A base without a template, and a chat model with one more token."""
    folder, tokenizer = tmp_path_factory.mktemp("chat"), chat_tokenizer()
    module = build("llama")
    module.resize_token_embeddings(len(tokenizer))
    base = LanguageModel(module, byte_tokenizer())
    other = changed(base)
    return saved(base, folder / "base"), saved(LanguageModel(other.model, tokenizer), folder / "chat")


def test_a_diff_of_a_chat_model_tells_the_roles_apart(chat_models, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "LEAST_TOKENS", 300)
    talks = tmp_path / "talks.jsonl"
    talks.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS))
    given = {"layers": 1, "tokens": 500, "window": 64, "noise": 0, "chat": True, "progress": False}
    found = itda.diff(*chat_models, talks, **given)
    roles = found.values["roles"]
    assert set(roles) == {"template", "prompt", "reply"} == set(found[1]["roles"])
    assert sum(each["tokens"] for each in roles.values()) == 500
    assert set(found.tokens["role"]) == set(roles)
    assert found[1]["difference"]["atoms"][0]["role"] in roles
    talks.write_text(json.dumps({"text": "no talk"}))
    with pytest.raises(CorpusError, match=r"talks.jsonl:0 has no 'messages'"):
        itda.diff(*chat_models, talks, **given)


def test_a_model_without_a_template_is_refused():
    with pytest.raises(ModelError, match="no model has a chat template"):
        Conversations.of("talk", TALKS, byte_tokenizer())
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system, please') }}"
    with pytest.raises(CorpusError, match=r"the chat template refuses talk:0 \(no system, please\)"):
        Conversations.of("talk", TALKS, tokenizer)


def test_a_streamed_model_unembeds_as_the_one_in_memory_to_the_bit(tmp_path):
    name = saved(another_width(), tmp_path)
    whole, streamed = LanguageModel.load(name), StreamedModel.load(name, head=True)
    directions = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(direct_logits(streamed, directions), direct_logits(whole, directions))
    assert promoted(streamed, directions) == promoted(whole, directions)
    assert unembeds(streamed)
    assert not unembeds(StreamedModel.load(name))
    assert not unembeds(shared("bert"))


def test_a_direction_promotes_what_its_opposite_suppresses():
    directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for one, other in zip(promoted(shared("gpt2"), directions), promoted(shared("gpt2"), -directions), strict=True):
        assert [token for token, _ in one["promoted"]] == [token for token, _ in other["suppressed"]]
        np.testing.assert_allclose(
            [value for _, value in one["promoted"]], [-value for _, value in other["suppressed"]], atol=1e-5
        )
