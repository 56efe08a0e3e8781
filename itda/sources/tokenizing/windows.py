"""Windows: documents cut into token sequences of one length, with the text and places that labels need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from itda.core.labels import Labels
from itda.errors import CorpusError, ModelError, SettingError
from itda.sources.corpora.document import Document
from itda.sources.tokenizing.cutting import Tokens
from itda.sources.tokenizing.offsets import blanks, firsts, mended
from itda.sources.tokenizing.special import Bos, dressing, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_CHARACTERS = 2**31 - 1
"""Number of characters of a document, at most: places in it are kept as int32."""


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive tokens of one document, between the special tokens that the tokenizer puts around a text."""

    document: str
    """The document's id."""
    text: str
    """The text of the window's tokens."""
    text_start: int
    """The place of the text in the document, in characters."""
    position: int
    """The number in the document, from 0, of the window's first token."""
    token_ids: np.ndarray
    """[tokens], without special tokens around the text."""
    offsets: np.ndarray
    """[tokens, 2]: start and end of each token in the document, in characters."""


@dataclass(frozen=True, eq=False)
class Group:
    """Windows padded to one shape, ready for a model."""

    windows: Sequence[Window]
    input_ids: Int64[Tensor, "windows tokens"]
    attention_mask: Int64[Tensor, "windows tokens"]
    is_activation: Bool[Tensor, "windows tokens"]
    """True where there is a token of the text: neither padding nor a special token."""
    prefix: int
    """Number of special tokens before each window's own."""

    @property
    def predicts(self) -> Bool[Tensor, "windows tokens"]:
        """True where the next token is to be predicted: both it and this one are tokens of the text."""
        following = self.is_activation.roll(-1, dims=1)
        following[:, -1] = False
        return self.is_activation & following

    @property
    def targets(self) -> Int64[Tensor, " tokens"]:
        """The next token at each place where `predicts` is true, row by row."""
        return self.input_ids.roll(-1, dims=1)[self.predicts]

    def labels(self, mask: Bool[Tensor, "windows tokens"] | None = None) -> Labels:
        """Return the labels of the positions in `mask` (default: the activations), row by row.

        A position outside the text (padding, a special token) gets an empty token at the end of the window.
        """
        rows, columns = (self.is_activation if mask is None else mask).cpu().numpy().nonzero()
        if len(self.windows) == 0:
            return Labels.of()
        place = columns - self.prefix
        length = np.array([len(window.token_ids) for window in self.windows])[rows]
        inside = (place >= 0) & (place < length)
        offsets = np.zeros((len(rows), 2), dtype=np.int64)
        for row in np.unique(rows):
            window, here = self.windows[row], rows == row
            end = window.text_start + len(window.text)
            own = window.offsets[np.clip(place[here], 0, len(window.offsets) - 1)]
            offsets[here] = np.where(inside[here, None], own, end)
        per_window = np.empty((len(self.windows), 2), dtype=object)
        for i, window in enumerate(self.windows):
            per_window[i] = window.document, window.text
        return Labels(
            document=per_window[rows, 0],
            position=np.array([window.position for window in self.windows])[rows] + place,
            char_start=offsets[:, 0],
            char_end=offsets[:, 1],
            token_id=self.input_ids.cpu().numpy()[rows, columns],
            window=per_window[rows, 1],
            window_start=np.array([window.text_start for window in self.windows])[rows],
        )


def within_budget(groups: Iterable[Group], tokens: int | None, skip: int = 0) -> Iterator[Group]:
    """Mark as activations only those after the first `skip` of a stream, up to its activation number `tokens`.

    The other tokens stay in their windows: the model reads them, and nobody measures them. Ends with the group that
    holds the last activation; groups before may have none. None for `tokens` means all of them.
    """
    seen = 0
    for group in groups:
        mask = group.is_activation
        number = seen + mask.flatten().cumsum(0).view_as(mask)  # from 1, row by row
        seen += int(mask.sum())
        mask = mask & (number > skip)
        yield replace(group, is_activation=mask if tokens is None else mask & (number <= tokens))
        if tokens is not None and seen >= tokens:
            return


class Windower:
    """Cuts documents into windows of `window` tokens, special tokens included.

    `bos` says what stands in front of each window: `itda.sources.tokenizing.special`. Raises `ModelError` for a
    tokenizer that cannot tell where its tokens lie in the text, and `SettingError` for a window that has
    no room, or a BOS that the tokenizer does not have.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, window: int, *, context: int | None = None, bos: Bos = "auto"
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets, which labels need: "
                "use a model with a tokenizer.json"
            )
        self.tokenizer, self.window, self.bos = tokenizer, window, bos
        self.prefix, self.suffix = dressing(tokenizer, bos)
        self.content = window - len(self.prefix) - len(self.suffix)
        if self.content < 1:
            raise SettingError(
                f"a window of {window} tokens has no room beside {window - self.content} special ones: use at least "
                f"{window - self.content + 1}"
            )
        if context is not None and window > context:
            raise SettingError(f"a window of {window} tokens, but the model reads at most {context}: use --window")
        self._blanks, self._firsts = blanks(tokenizer), firsts(tokenizer)
        self.special = np.array(sorted(special_ids(tokenizer)), dtype=np.int64)
        pad = tokenizer.pad_token_id
        # Padding is masked, so any id that the model has will do.
        self.pad = int(pad if pad is not None else tokenizer.eos_token_id or 0)  # pyright: ignore[reportArgumentType]

    def windows(self, document: Document) -> list[Window]:
        """Return the windows of one document, in order; the last may be shorter."""
        return list(self.cut(document))

    def cut(self, document: Document) -> Iterator[Window]:
        """Yield the windows of one document, in order, reading and tokenizing no more of it than they need.

        Raises `CorpusError` for a text that no tokenizer can read, or that is too long for its labels.
        """
        tokens = Tokens(partial(self._encoded, document.id), document.parts(), self._firsts)
        ids, offsets, position = np.zeros(0, np.int64), np.zeros((0, 2), np.int64), 0

        def window(size: int) -> Window:
            nonlocal ids, offsets, position
            own = offsets[:size]
            first, last = int(own[:, 0].min()), int(own[:, 1].max())
            if last > MOST_CHARACTERS:
                raise CorpusError(f"{document.id} has over 2^31 characters: cut it into several documents")
            made = Window(document.id, tokens.text(first, last), first, position, ids[:size], own)
            ids, offsets, position = ids[size:], offsets[size:], position + size
            tokens.forget(int(offsets[:, 0].min()) if len(offsets) else last)
            return made

        for more_ids, more_offsets in tokens:
            ids, offsets = np.concatenate([ids, more_ids]), np.concatenate([offsets, more_offsets])
            while len(ids) >= self.content:
                yield window(self.content)
        if len(ids):
            yield window(len(ids))

    def _encoded(self, document: str, text: str) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, "tokens 2"]]:
        """Return the ids and offsets of a text's tokens, without special ones around it."""
        try:
            encoding = self.tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        except (TypeError, UnicodeEncodeError) as error:
            raise CorpusError(
                f"{document} holds a broken character (half a surrogate pair): mend it or leave it out"
            ) from error
        ids = np.array(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        return ids, mended(text, ids, offsets, self._blanks)

    def group(self, windows: Sequence[Window], size: int) -> Group:
        """Pad windows to [size, window]: all groups have the same shape, so an activation has the same bits in each."""
        ids = torch.full((size, self.window), self.pad)
        mask = torch.zeros(size, self.window, dtype=torch.long)
        mask[len(windows) :] = 1  # a row that is masked as a whole would make NaNs
        is_activation = torch.zeros(size, self.window, dtype=torch.bool)
        for row, window in enumerate(windows):
            tokens = [*self.prefix, *window.token_ids.tolist(), *self.suffix]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            inside = slice(len(self.prefix), len(self.prefix) + len(window.token_ids))
            is_activation[row, inside] = torch.from_numpy(~np.isin(window.token_ids, self.special))
        return Group(windows, ids, mask, is_activation, len(self.prefix))

    def groups(self, documents: Iterable[Document], size: int, *, first_only: bool = False) -> Iterator[Group]:
        """Yield groups of `size` windows in corpus order; `first_only` takes the first window of each document."""
        waiting: list[Window] = []
        for document in documents:
            for window in islice(self.cut(document), 1 if first_only else None):
                waiting.append(window)
                if len(waiting) == size:
                    yield self.group(waiting, size)
                    waiting = []
        if waiting:
            yield self.group(waiting, size)
