"""The tokens of a document, made from parts of it as they are read: the same as those of the whole document.

A document of up to `WHOLE` characters is tokenized at once. A longer one is tokenized in overlapping chunks. Near its
ends a chunk has other tokens than the document: a word may be cut there. In the overlap of two chunks both have the
document's tokens, but for those near the ends; so where several tokens in a row are the same in both, with the same
places, one chunk goes on from the other. What a tokenizer does at one place depends on little around it: words are
looked at one by one, and within a word BPE's tokens are right if each pair of neighbours is. Unigram's are not: of two
ways to cut a word that are as likely, its length may decide. There only the beginning of a word will do. Where two
chunks do not agree, as within a word longer than the overlap that is one unknown token, the first one is made longer,
up to the whole document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64

WHOLE = 2**18
"""Characters up to which a document is tokenized at once: about 0.05 GB and a quarter of a second."""
CHUNK = 2**16
"""Characters of a chunk."""
OVERLAP = 2**12
"""Characters that two chunks share, about."""
SAME = 16
"""Number of tokens on either side of a word's beginning that must agree; four times as many at other places."""
STARTS = 4
"""Number of places where the next chunk is tried to begin, before this one is made longer."""

Encode = Callable[[str], tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, "tokens 2"]]]
"""Returns the ids [tokens] and the offsets [tokens, 2] of the tokens of a text."""


class Tokens:
    """Yields the ids and the offsets in the document of its tokens, some at a time, in order.

    `parts` is the text. `text` gives it back, from where `forget` has not let it go. `firsts` are the ids of tokens
    that begin a word, where one chunk may go on from another only there.
    """

    def __init__(self, encode: Encode, parts: Iterator[str], firsts: np.ndarray | None = None) -> None:
        self._encode, self._parts, self.firsts = encode, parts, firsts
        self._text, self._start, self._ended = "", 0, False
        self._kept = 0
        """The place from which on chunks still need the text."""

    def __iter__(self) -> Iterator[tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, "tokens 2"]]]:
        if self._fill(WHOLE + 1) <= WHOLE:
            yield self._encode(self._text)
            return
        chunk, done = _Chunk.of(self, 0, CHUNK), 0
        while chunk.end < self._fill(chunk.end + 1):
            following, here, there = self._joined(chunk, done)
            if following is None:
                longer = _Chunk.of(self, chunk.begin, chunk.end + (chunk.end - chunk.begin))
                # Tokens that were yielded, far from the end, stay the same; if not, go on at the same place.
                if done and not np.array_equal(longer.rows[: done + 1], chunk.rows[: done + 1]):
                    done = int(np.searchsorted(longer.offsets[:, 0], chunk.offsets[done, 0]))
                chunk = longer
                continue
            yield chunk.ids[done:here], chunk.offsets[done:here]
            chunk, done = following, there
            self._kept = chunk.begin
        yield chunk.ids[done:], chunk.offsets[done:]

    def text(self, begin: int, end: int) -> str:
        """Return the document's characters from `begin` up to `end`."""
        self._fill(end)
        return self._text[begin - self._start : end - self._start]

    def forget(self, before: int) -> None:
        """Free the text before a place."""
        before = min(before, self._kept)
        # Not for a few characters, since the rest of the text is copied.
        if before - self._start > CHUNK:
            self._text, self._start = self._text[before - self._start :], before

    def _fill(self, end: int) -> int:
        """Read up to a place; return the place that was reached, at most `end`."""
        while not self._ended and self._start + len(self._text) < end:
            part = next(self._parts, None)
            self._ended = part is None
            self._text += part or ""
        return min(end, self._start + len(self._text))

    def _joined(self, chunk: _Chunk, done: int) -> tuple[_Chunk | None, int, int]:
        """Find the next chunk, and the number in both chunks of the token from which on it is used."""
        for begin in chunk.beginnings():
            following = _Chunk.of(self, begin, begin + CHUNK)
            if following.end > chunk.end and (place := chunk.meets(following, done)) is not None:
                return following, *place
        return None, 0, 0


class _Chunk:
    """A stretch of a document, tokenized by itself."""

    def __init__(self, begin: int, text: str, ids: np.ndarray, offsets: np.ndarray, firsts: np.ndarray | None) -> None:
        self._anywhere = firsts is None
        self.begin, self.end, self.ids, self.offsets = begin, begin + len(text), ids, offsets + begin
        self.rows = np.concatenate([ids[:, None], self.offsets], axis=1)
        self._before = before = np.concatenate([[begin], self.offsets[:-1, 1]])
        """The place in the document where the token before each token ends."""
        if firsts is not None:
            self._is_word = np.isin(ids, firsts)
            return
        points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        unique, places = np.unique(points, return_inverse=True)
        blank = np.append(np.array([chr(point).isspace() for point in unique], dtype=bool)[places], False)
        at = np.clip(before - begin, 1, len(text))
        self._is_word = blank[at] & ~blank[at - 1]
        """True for each token that begins a word: with a blank that follows something else."""

    @staticmethod
    def of(tokens: Tokens, begin: int, end: int) -> _Chunk:
        """Tokenize the characters from `begin` on, up to `end` or the end of the document."""
        text = tokens.text(begin, end)
        return _Chunk(begin, text, *tokens._encode(text), tokens.firsts)

    def beginnings(self) -> list[int]:
        """List places where the next chunk may begin: near the end, and between words if there are some."""
        near = np.flatnonzero((self._before > self.begin) & (self._before >= self.end - OVERLAP))
        if len(near) == 0:
            return []
        words = near[self._is_word[near]]
        chosen = words[: len(words) // 4 + 1] if len(words) else near[: len(near) // 4 + 1]
        return [int(place) for place in np.unique(self._before[chosen])[:STARTS]]

    def meets(self, other: _Chunk, done: int) -> tuple[int, int] | None:
        """Find a token from `done` on that the next chunk has too, with its neighbours; the nearest to the middle."""
        middle = (other.begin + self.end) // 2
        inside = np.flatnonzero((self._before > other.begin) & (self.offsets[:, 1] < self.end))
        inside = inside[inside >= done]
        elsewhere = inside if self._anywhere else inside[:0]
        for places, same in ((inside[self._is_word[inside]], SAME), (elsewhere, 4 * SAME)):
            nearest = places[np.argsort(np.abs(self._before[places] - middle), kind="stable")]
            for here in nearest[:64].tolist():
                first = int(np.searchsorted(other.offsets[:, 0], self.offsets[here, 0]))
                for there in range(first, min(first + 8, len(other.ids))):
                    if self._agrees(here, other, there, same):
                        return here, there
        return None

    def _agrees(self, here: int, other: _Chunk, there: int, same: int) -> bool:
        mine, theirs = (chunk.rows[max(0, at - same) : at + same] for chunk, at in ((self, here), (other, there)))
        return here >= same <= there and len(mine) == 2 * same and np.array_equal(mine, theirs)
