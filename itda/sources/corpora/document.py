"""Documents: texts with ids that are the same on any machine, in memory or read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text with an id that is stable across machines."""

    id: str
    text: str

    def parts(self) -> Iterator[str]:
        """Yield the text, from its beginning, in parts that each fit in memory."""
        yield self.text

    def beginning(self, characters: int) -> str:
        """Return the first characters of the text, without reading more of it than they need."""
        found = ""
        for part in self.parts():
            found += part[: characters - len(found)]
            if len(found) == characters:
                break
        return found

    @property
    def is_empty(self) -> bool:
        """True if there is no text."""
        return not any(self.parts())


class LongDocument(Document):
    """A document that is read each time that it is needed, part by part: it may be larger than memory.

    >>> document = LongDocument("a", lambda: iter(["to be", " or not"]))
    >>> document.beginning(4), document.text
    ('to b', 'to be or not')
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - as the field is called
        read: Callable[[], Iterator[str]],
    ) -> None:
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "_read", read)

    def parts(self) -> Iterator[str]:
        """Yield the text, from its beginning, in parts that each fit in memory."""
        read: Callable[[], Iterator[str]] = object.__getattribute__(self, "_read")
        return read()

    @property
    def text(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - read when it is asked for
        """The whole text, which may not fit in memory."""
        return "".join(self.parts())
