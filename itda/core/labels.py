"""Labels: which token of which document an activation was read at.

The identity of a label is (document, position, char_end). It does not depend on the model, so the labels of two
dictionaries can be compared. The other columns are what a person needs to read it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np
from torch import Tensor

from itda.core.display import markup
from itda.core.display.summaries import labels_html, labels_line
from itda.errors import SettingError

Key = tuple[str, int, int]

NO_TOKEN_ID = -1
"""The token id of a label that no tokenizer made."""


@dataclass(frozen=True)
class Label:
    """One label: `before + token + after` is the window of text that the model saw.

    >>> Label("essay", 1, 2, 5, 9, before="To", token=" be", after=" or").key
    ('essay', 1, 5)
    """

    document: str
    position: int
    """Number of the token in its document, from 0; special tokens that a tokenizer puts around a text do not count."""
    char_start: int
    char_end: int
    """Where the token starts and ends in the document, in characters."""
    token_id: int
    before: str
    token: str
    after: str

    @property
    def whole(self) -> bool:
        """True for a text of its own, as `Labels.of_texts` makes; False for a token of a longer text."""
        return self.document == self.token and not self.before and not self.after

    @property
    def key(self) -> Key:
        """Identity of the label: labels with equal keys are the same, whatever else they hold."""
        return self.document, self.position, self.char_end

    def __repr__(self) -> str:
        # A dataclass's own would have the whole window.
        if self.whole:
            return f"<Label {markup.one_line(self)}{f', copy {self.position}' if self.position else ''}>"
        document = markup.plain(markup.clip(self.document, 60))
        return f"<Label {document}, token {self.position}: {markup.one_line(self)}>"

    def _repr_html_(self) -> str:
        if self.whole:
            return f"<div>{markup.passage(self)}</div>"
        where = f"<bdi>{markup.escaped(markup.clip(self.document, 200))}</bdi>, token {self.position:,}"
        return f"<div><div>{where}</div>{markup.passage(self)}</div>"


@dataclass(frozen=True, eq=False)
class Labels:
    """Columns of labels, all of one shape; index them like an array.

    >>> labels = Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be"), Label("essay", 1, 2, 5, 9, "To", " be", ""))
    >>> labels[1].token, labels[[1, 0]].position.tolist()
    (' be', [1, 0])
    """

    document: np.ndarray
    position: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    token_id: np.ndarray
    window: np.ndarray
    """The text that the model saw: one string object shared by the rows of a window."""
    window_start: np.ndarray
    """Where the window's text starts in the document, in characters."""

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the columns of labels differ in shape: {shapes}; give one row per activation")

    @staticmethod
    def of(*labels: Label) -> "Labels":
        """Return `Labels` made of single labels, one row for each."""
        return Labels(
            document=strings([label.document for label in labels]),
            position=np.array([label.position for label in labels], dtype=np.int64),
            char_start=np.array([label.char_start for label in labels], dtype=np.int64),
            char_end=np.array([label.char_end for label in labels], dtype=np.int64),
            token_id=np.array([label.token_id for label in labels], dtype=np.int64),
            window=strings([label.before + label.token + label.after for label in labels]),
            window_start=np.array([label.char_start - len(label.before) for label in labels], dtype=np.int64),
        )

    @staticmethod
    def of_texts(texts: Iterable[str]) -> "Labels":
        """Labels for rows that each stand for a text of its own: a sentence, a word, the name of an item.

        A label's document is the text, so the labels of two dictionaries of the same texts can be compared, in whatever
        order the texts came. Equal texts stay distinct: the position counts the copies, 0 for the first, and character
        offsets go on from copy to copy, as if they stood in lines of one document. There are no token ids. Raises
        `SettingError` for values that are not strings, and for half a surrogate pair, which no file could hold.

        >>> labels = Labels.of_texts(["a red fox", "an owl", "an owl"])
        >>> labels
        <Labels of 3 texts: «a red fox», «an owl», «an owl»>
        >>> labels.keys()
        [('a red fox', 0, 9), ('an owl', 0, 6), ('an owl', 1, 13)]
        """
        if isinstance(texts, str):
            raise SettingError("labels are one string: give a list of strings, one per row")
        values = list(texts)
        copies: dict[str, int] = {}
        positions = np.zeros(len(values), dtype=np.int64)
        for row, text in enumerate(values):
            if not isinstance(text, str):
                raise SettingError(f"label {row} is a {type(text).__name__}: give strings, as [str(v) for v in labels]")
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise SettingError(
                    f"label {row} has a broken character (half a surrogate pair): give text that UTF-8 can hold"
                )
            positions[row] = copies[text] = copies.get(text, -1) + 1
        lengths = np.array([len(text) for text in values], dtype=np.int64)
        starts = positions * (lengths + 1)
        texts, ids = strings([str(text) for text in values]), np.full(len(values), NO_TOKEN_ID, dtype=np.int64)
        return Labels(texts, positions, starts, starts + lengths, ids, texts, starts)

    @staticmethod
    def of_rows(number: int) -> "Labels":
        """Labels for rows that have no text: "row 0", "row 1" and so on, as `of_texts` makes of these.

        >>> Labels.of_rows(2)
        <Labels of 2 texts: «row 0», «row 1»>
        """
        return Labels.of_texts(f"row {row}" for row in range(number))

    @staticmethod
    def concatenate(parts: Sequence["Labels"]) -> "Labels":
        """Join the rows of all parts, in order."""
        if not parts:
            return Labels.of()
        return Labels(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Labels)))

    def __len__(self) -> int:
        return len(self.document)

    def __iter__(self) -> Iterator[Label]:
        """Go through the labels, a `Label` each; where there is more than one axis, `Labels` of the others."""
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Label: ...

    @overload
    def __getitem__(self, index: "slice | list | np.ndarray | Tensor") -> "Labels": ...

    @overload
    def __getitem__(self, index: tuple[Any, ...]) -> "Label | Labels": ...

    def __getitem__(self, index: Any) -> "Label | Labels":
        """`Labels` of the shape that the index gives, as of an array; a `Label` where that is a single one.

        The index is an integer, a slice, a list, an array or tensor, such as a code's indices, or a tuple of some.
        """
        index = tuple(map(_index, index)) if isinstance(index, tuple) else _index(index)
        if not isinstance(self.document[index], np.ndarray):
            return self.at(index)
        return Labels(*(getattr(self, field.name)[index] for field in fields(self)))

    def at(self, place: Any) -> Label:
        """Return one label, at a row number, or at a tuple with a number for each axis."""
        start, end, window_start = int(self.char_start[place]), int(self.char_end[place]), int(self.window_start[place])
        window = str(self.window[place])
        return Label(
            document=str(self.document[place]),
            position=int(self.position[place]),
            char_start=start,
            char_end=end,
            token_id=int(self.token_id[place]),
            before=window[: start - window_start],
            token=window[start - window_start : end - window_start],
            after=window[end - window_start :],
        )

    @property
    def first(self) -> np.ndarray:
        """Mask of the tokens that are the first of the text that the model saw."""
        return self.char_start == self.window_start

    def __repr__(self) -> str:
        return labels_line(self)

    def _repr_html_(self) -> str:
        return labels_html(self)

    def keys(self) -> list[Key]:
        """Return the key of each label, row by row."""
        columns = (self.document.ravel().tolist(), self.position.ravel().tolist(), self.char_end.ravel().tolist())
        return list(zip(*columns, strict=True))


def jaccard(a: Labels, b: Labels) -> float:
    """Return |A and B| / |A or B| of the sets of labels (the paper's Eq. 8); 1 for two empty sets.

    >>> labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
    >>> round(jaccard(labels[:2], labels[1:]), 3)
    0.333
    """
    left, right = set(a.keys()), set(b.keys())
    return len(left & right) / len(left | right) if left or right else 1.0


def _index(index: Any) -> Any:
    """Return a part of an array index in the form that numpy takes; an empty list has no dtype, so it gets one."""
    if isinstance(index, Tensor):
        return index.cpu().numpy()
    if isinstance(index, list):
        array = np.asarray(index)
        return array if array.size else array.astype(np.int64)
    return index


def strings(values: list[str]) -> np.ndarray:
    """Return an array of Python strings, which may be of any length."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
