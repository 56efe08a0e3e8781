"""A corpus that is the same on every machine and every Python."""

from pathlib import Path

WORDS = [
    "def",
    "return",
    "import",
    "class",
    "self",
    "name",
    "path",
    "open",
    "file",
    "line",
    "for",
    "in",
    "if",
    "else",
    "while",
    "try",
    "except",
    "raise",
    "value",
    "list",
    "text",
    "word",
    "index",
    "count",
    "total",
    "print",
    "read",
    "write",
    "close",
    "the",
    "of",
    "a",
    "to",
    "and",
    "is",
    "that",
    "it",
    "with",
    "as",
    "from",
    "by",
    "this",
    "which",
]


def write_corpus(folder: Path, documents: int = 20, words: int = 160) -> Path:
    """Documents of words in an order that a small generator decides."""
    folder.mkdir()
    state = 1
    for number in range(documents):
        text = []
        for _ in range(words):
            state = (state * 1103515245 + 12345) % 2**31
            text.append(WORDS[(state >> 16) % len(WORDS)])
        lines = [" ".join(text[at : at + 8]) for at in range(0, words, 8)]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
