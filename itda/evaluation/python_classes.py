"""Classes of the tokens of a Python source file, from Python's own tokenizer and parser: labels to probe for.

Every character has at most one syntax class, and is in or out of a class body and of a function body; a token belongs
where most of its characters do.
"""

import ast
import io
import keyword
import token
import tokenize
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from itda.errors import CorpusError

SYNTAX = ("comment", "docstring", "string", "keyword", "name", "number", "operator")
"""No character has two of these: a docstring is no `string`, and `match` and other soft keywords are names."""
BODIES = ("in_class", "in_function")
DEPTHS = ("indent_0", "indent_1", "indent_2", "indent_3+")
CLASSES = (*SYNTAX, *BODIES, *DEPTHS)

# An f-string is one string, whatever it holds: before Python 3.12 its parts were not tokens.
_OPENS = {getattr(token, name) for name in ("FSTRING_START", "TSTRING_START") if hasattr(token, name)}
_CLOSES = {getattr(token, name) for name in ("FSTRING_END", "TSTRING_END") if hasattr(token, name)}
_KINDS = {tokenize.COMMENT: "comment", tokenize.STRING: "string", tokenize.NUMBER: "number", tokenize.OP: "operator"}


def classes_of(
    text: str, char_start: Int[np.ndarray, " tokens"], char_end: Int[np.ndarray, " tokens"]
) -> dict[str, Bool[np.ndarray, " tokens"]] | None:
    """Return which tokens, spans of characters of `text`, are in each of `CLASSES`; None if `text` is not Python.

    Blank characters do not count, so " def" is a keyword. A token of blanks alone has no syntax class, but is in the
    bodies and at the depth of its characters; a token of no characters (part of a character) is in nothing. The depth
    is that of the statement, on all of its lines. Raises `CorpusError` if a span lies outside the text.

    >>> found = classes_of("def f(): 1  # x", np.array([0, 3, 10]), np.array([3, 5, 15]))
    >>> {name: column.tolist() for name, column in found.items() if name in ("keyword", "name", "comment")}
    {'comment': [False, False, True], 'keyword': [True, False, False], 'name': [False, True, False]}
    """
    if len(char_start) and not (
        char_start.min() >= 0 and (char_start <= char_end).all() and char_end.max() <= len(text)
    ):
        raise CorpusError("a token lies outside its document: give the text that the labels were read from")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the file are no concern of ours
        try:
            tree = ast.parse(text)
            found = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError):
            return None
    place = _Places(text)
    blank = np.array([character.isspace() for character in text], dtype=bool)
    kinds = _syntax(found, tree, place, len(text))
    kinds[blank] = 0
    counts = [_within(kinds == i, char_start, char_end) for i in range(len(SYNTAX) + 1)]
    counts[0] -= _within(blank, char_start, char_end)
    best = np.argmax(counts, axis=0)  # of equal counts the first: no class, then the order of SYNTAX
    columns = {name: best == i for i, name in enumerate(SYNTAX, 1)}

    # Where a token has characters that are not blank, they alone decide.
    weights = [~blank, blank]
    characters = [_within(weight, char_start, char_end) for weight in weights]

    def most(mask: Bool[np.ndarray, " chars"]) -> Bool[np.ndarray, " tokens"]:
        full, empty = (
            2 * _within(mask & weight, char_start, char_end) > count
            for weight, count in zip(weights, characters, strict=True)
        )
        return np.where(characters[0] > 0, full, empty)

    columns |= {name: most(mask) for name, mask in zip(BODIES, _bodies(tree, place, len(text)), strict=True)}
    depths = np.minimum(_depths(found, place, len(text)), len(DEPTHS) - 1)
    return columns | {name: most(depths == i) for i, name in enumerate(DEPTHS)}


def _within(mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return how many characters of each span are in the mask."""
    sums = np.concatenate([[0], np.cumsum(mask)])
    return sums[end] - sums[start]


class _Places:
    """Converts lines and columns to offsets in characters. Lines end at "\\n" only, as they do for the tokenizer."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.starts = np.concatenate([[0], np.cumsum([len(line) + 1 for line in self.lines])])
        self.length = len(text)

    def at(self, line: int, column: int) -> int:
        """Return the offset of a line, from 1, and a column in characters, as the tokenizer gives them."""
        return min(int(self.starts[min(line, len(self.starts)) - 1]) + column, self.length)

    def at_byte(self, line: int, column: int) -> int:
        """Return the offset of a line, from 1, and a column in bytes of UTF-8, as the parser gives them."""
        return self.at(line, len(self.lines[line - 1].encode()[:column].decode()))

    def span(self, node: ast.stmt) -> tuple[int, int]:
        """Return the start and end of a statement, with its decorators."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        start = self.at(first, 0) if decorators else self.at_byte(node.lineno, node.col_offset)
        return start, self.at_byte(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def body(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        """Return the start of a body: the end of the header's line, or the first statement if it is on that line."""
        start = self.span(node.body[0])[0]
        line = int(np.searchsorted(self.starts, start, side="right"))  # counted from 1, as the parser does
        if self.lines[line - 1][: start - self.at(line, 0)].strip():
            return start
        while not self.lines[line - 2].strip() or self.lines[line - 2].lstrip().startswith("#"):
            line -= 1
        return self.at(line, 0) - 1


def _syntax(found: list[tokenize.TokenInfo], tree: ast.Module, place: _Places, length: int) -> np.ndarray:
    """Return for each character 1 + the place in SYNTAX of its class, or 0 for none."""
    kinds = np.zeros(length, dtype=np.int8)
    nested, string_start = 0, 0
    for item in found:
        start, end = place.at(*item.start), place.at(*item.end)
        nested += (item.type in _OPENS) - (item.type in _CLOSES)
        if item.type in _OPENS and nested == 1:
            string_start = start
        kind = _KINDS.get(item.type)
        if item.type == tokenize.NAME:
            kind = "keyword" if keyword.iskeyword(item.string) else "name"
        if item.type in _CLOSES and nested == 0:
            start, kind = string_start, "string"
        if kind is not None and not nested:
            kinds[start:end] = SYNTAX.index(kind) + 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                inside = kinds[slice(*place.span(node.body[0]))]
                inside[inside == SYNTAX.index("string") + 1] = SYNTAX.index("docstring") + 1
    return kinds


def _bodies(tree: ast.Module, place: _Places, length: int) -> Iterator[np.ndarray]:
    """Yield which characters are in the body of a class, then of a function: from after the header to the last
    statement."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    for is_class in (True, False):
        mask = np.zeros(length, dtype=bool)
        for node in blocks:
            if isinstance(node, ast.ClassDef) == is_class:
                mask[place.body(node) : place.span(node)[1]] = True
        yield mask


def _depths(found: list[tokenize.TokenInfo], place: _Places, length: int) -> np.ndarray:
    """Return the indentation level of each character's line; a blank line has that of the line before it."""
    depths = np.zeros(length, dtype=np.int64)
    levels: list[int] = []  # the columns of the blocks that are open
    fresh = True  # no token yet of this logical line
    for item in found:
        if item.type == tokenize.INDENT:
            levels.append(len(item.string))
        elif item.type == tokenize.DEDENT:
            levels.pop()
        elif item.type == tokenize.COMMENT and fresh:
            # INDENT and DEDENT come only after a comment: its column says which blocks it is in.
            column = item.start[1]
            depth = sum(level <= column for level in levels) + (column > max(levels, default=0))
            depths[place.at(item.start[0], 0) :] = depth
        elif item.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
            if fresh:
                depths[place.at(item.start[0], 0) :] = len(levels)
            fresh = False
        elif item.type == tokenize.NEWLINE:
            fresh = True
    return depths
