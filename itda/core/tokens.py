"""The tokens that a run read. Each could have become an atom, so the overlap of labels is judged against them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Int64

from itda.core.labels import Labels
from itda.core.training.state import TrainingState


@dataclass(frozen=True, eq=False)
class Tokens:
    """Columns of the tokens of a stream, in its order, one row per activation.

    >>> from itda.core.labels import Label, Labels
    >>> seen = TokenLog()
    >>> seen.add(Labels.of(Label("a", 0, 0, 2, 7, "", "To", ""), Label("b", 0, 0, 1, 9, "", "x", "")))
    >>> tokens = seen.table()
    >>> len(tokens), tokens.documents, tokens.document.tolist()
    (2, ['a', 'b'], [0, 1])
    """

    documents: list[str]
    """Document ids, in the order in which they were read."""
    document: Int32[np.ndarray, " tokens"]
    """Index into `documents` for each token."""
    position: Int32[np.ndarray, " tokens"]
    char_end: Int32[np.ndarray, " tokens"]

    def __len__(self) -> int:
        return len(self.document)

    def first(self, number: int) -> Tokens:
        """Return the first tokens alone."""
        some = slice(number)
        documents = self.documents[: int(self.document[some].max(initial=-1)) + 1]
        return Tokens(documents, self.document[some], self.position[some], self.char_end[some])

    def followed_by(self, more: Tokens) -> Tokens:
        """Return these tokens and then those of the rest of the stream."""
        number = {name: i for i, name in enumerate(self.documents)}
        places = np.array([number.setdefault(name, len(number)) for name in more.documents], dtype=np.int32)
        return Tokens(
            list(number),
            np.concatenate([self.document, places[more.document]]),
            np.concatenate([self.position, more.position]),
            np.concatenate([self.char_end, more.char_end]),
        )

    @property
    def per_document(self) -> Int64[np.ndarray, " documents"]:
        """Number of tokens read of each document."""
        return np.bincount(self.document, minlength=len(self.documents))


class TokenLog:
    """Gathers `Tokens` from the labels of batches, without their text."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._parts: list[np.ndarray] = []

    def add(self, labels: Labels) -> None:
        """Note the tokens of a batch."""
        if len(labels) == 0:
            return
        # The tokens of a document follow each other: one look-up for each run of them.
        starts = np.flatnonzero(np.concatenate([[True], labels.document[1:] != labels.document[:-1]]))
        lengths = np.diff(np.append(starts, len(labels)))
        numbers = [self._number.setdefault(str(labels.document[i]), len(self._number)) for i in starts]
        columns = np.repeat(numbers, lengths), labels.position, labels.char_end
        self._parts.append(np.stack(columns).astype(np.int32))

    def table(self) -> Tokens:
        """Return all tokens noted so far."""
        return Tokens(list(self._number), *self._columns())

    def state(self) -> TrainingState:
        """Return a snapshot, from which `restore` goes on."""
        values = {"of": "TokenLog", "settings": {}, "documents": list(self._number)}
        return TrainingState(values, {"columns": torch.from_numpy(self._columns())}, {})

    def restore(self, state: TrainingState) -> None:
        """Go on from a snapshot. Raises `SettingError` if this log is not new."""
        state.check("TokenLog", {}, sum(part.shape[1] for part in self._parts))
        self._number = {document: i for i, document in enumerate(state.values["documents"])}
        self._parts = [state.tensors["columns"].clone().numpy()]

    def _columns(self) -> Int32[np.ndarray, "3 tokens"]:
        """Return a copy of three rows: documents, positions, char_ends."""
        return np.concatenate([np.empty((3, 0), np.int32), *self._parts], axis=1)
