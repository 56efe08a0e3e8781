"""Conversations: rows of messages, written out by a chat model's template, with the role of each stretch of text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itda.core.labels import Labels
from itda.errors import CorpusError, ModelError
from itda.sources.corpora.corpus import Corpus
from itda.sources.corpora.document import Document
from itda.sources.corpora.text_files import NEWEST, find

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MESSAGES = "messages"
"""The key of a conversation's messages: each has a role and content."""
TEMPLATE, PROMPT, REPLY = "template", "prompt", "reply"
"""The roles of tokens: what the template puts around messages; what others say; what the model says."""

Span = tuple[int, int, str]
"""First and last character of a message in the text of its conversation, and its role."""


@dataclass(frozen=True, eq=False)
class Conversations:
    """A corpus of conversations, each a document, and where its messages are.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> tokenizer = LanguageModel.load("tiny").tokenizer
    >>> tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\\n{% endfor %}"
    >>> rows = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]]
    >>> made = Conversations.of("talk", rows, tokenizer)
    >>> next(iter(made.corpus)).text
    '<user>Hi\\n<assistant>Hello!\\n'
    """

    corpus: Corpus
    spans: dict[str, list[Span]] = field(default_factory=dict)
    """The messages of each document."""

    @staticmethod
    def of(name: str, rows: Sequence[Sequence[dict[str, Any]]], tokenizer: PreTrainedTokenizerBase) -> Conversations:
        """Write out conversations by the tokenizer's chat template. Raises `ModelError` if it has none."""
        return _written(name, [(f"{name}:{number}", row) for number, row in enumerate(rows)], tokenizer)

    @staticmethod
    def read(path: Path, tokenizer: PreTrainedTokenizerBase) -> Conversations:
        """Read the conversations of a table of rows with `messages`. Raises `CorpusError`, `ModelError`."""
        return _written(str(path), list(_rows(path)), tokenizer)

    def roles(self, labels: Labels) -> np.ndarray:
        """Return the role of each token: template, prompt or reply."""
        found = np.empty(len(labels), dtype=object)
        columns = (labels.document.tolist(), labels.char_start.tolist(), labels.char_end.tolist())
        for row, (document, start, end) in enumerate(zip(*columns, strict=True)):
            found[row] = _role(self.spans[document], start, end)
        return found


def _role(spans: Sequence[Span], start: int, end: int) -> str:
    """Return the role of a token by its middle: it may begin with the space before a message."""
    middle = (start + max(start, end - 1)) / 2
    place = bisect_right(spans, middle, key=lambda span: span[0]) - 1
    return spans[place][2] if place >= 0 and middle < spans[place][1] else TEMPLATE


def _rows(path: Path) -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
    if not path.exists():
        raise CorpusError(f"no file {str(path)!r} of conversations: name a .jsonl whose rows have {MESSAGES!r}")
    for name, row in find(path, MESSAGES, NEWEST).rows():
        messages = row.get(MESSAGES) if isinstance(row, dict) else None
        whole = isinstance(messages, list) and all(
            isinstance(each, dict) and isinstance(each.get("content"), str) and isinstance(each.get("role"), str)
            for each in messages
        )
        if not whole or not messages:
            raise CorpusError(
                f"{name} has no {MESSAGES!r}, a list of {{'role': ..., 'content': text}}: leave out --chat for what is "
                "no conversation"
            )
        yield name, messages


def _written(
    name: str, rows: Sequence[tuple[str, Sequence[dict[str, Any]]]], tokenizer: PreTrainedTokenizerBase
) -> Conversations:
    if not tokenizer.chat_template:
        raise ModelError("no model has a chat template: leave out --chat, or name a chat model")
    documents, spans = [], {}
    for number, messages in rows:
        try:
            text = str(tokenizer.apply_chat_template(list(messages), tokenize=False))
        except Exception as error:  # a template raises what its author chose to
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorpusError(f"the chat template refuses {number} ({reason}): mend it or leave it out") from error
        documents.append(Document(number, text))
        spans[number] = _spans(text, messages)
    corpus = Corpus(name, lambda: iter(documents), holds_out=len(documents) >= 10)
    return Conversations(corpus, spans)


def _spans(text: str, messages: Sequence[dict[str, Any]]) -> list[Span]:
    """Return where each message is in the text; templates may leave out white space at its ends."""
    found, place = [], 0
    for message in messages:
        content = message["content"]
        if content not in text[place:]:
            content = content.strip()
        start = text.find(content, place)
        if start < 0 or not content:
            continue  # the template leaves it out, or writes it otherwise
        place = start + len(content)
        found.append((start, place, REPLY if message["role"] == "assistant" else PROMPT))
    return found
