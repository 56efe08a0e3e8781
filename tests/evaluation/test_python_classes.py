"""Classes of hand-made snippets, character by character, and of the standard library."""

import keyword
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from itda.errors import CorpusError
from itda.evaluation.python_classes import CLASSES, DEPTHS, SYNTAX, classes_of

SNIPPET = '''"""Top é docs."""
import os  # why

class A(B):
    """Doc."""

    x = 'naïve' + f"{os.sep!r:>{3}} t"

    @wraps(x)
    def f(self, a):
        # inside
        if a is None:
            return (1.5,
os)

    # of the class
    y = 0x1F
# after
z = match
'''


def token_classes(text: str, *tokens: str) -> list[set[str]]:
    """The classes of the first occurrences of tokens, which follow one another."""
    starts, at = [], 0
    for token in tokens:
        at = text.index(token, at)
        starts.append(at)
        at += len(token)
    ends = [start + len(token) for start, token in zip(starts, tokens, strict=True)]
    found = classes_of(text, np.array(starts), np.array(ends))
    assert found is not None
    assert tuple(found) == CLASSES
    return [{name for name, column in found.items() if column[i]} for i in range(len(tokens))]


def test_classes_of_a_snippet():
    expected = {
        "Top é": {"docstring", "indent_0"},
        "import": {"keyword", "indent_0"},
        " os": {"name", "indent_0"},
        "# why": {"comment", "indent_0"},
        "class": {"keyword", "indent_0"},
        "(B)": {"operator", "indent_0"},
        "Doc": {"docstring", "indent_1", "in_class"},
        "\n\n    ": {"indent_1", "in_class"},
        "x": {"name", "indent_1", "in_class"},
        " 'naïve'": {"string", "indent_1", "in_class"},
        "+": {"operator", "indent_1", "in_class"},
        'f"': {"string", "indent_1", "in_class"},
        "os.sep": {"string", "indent_1", "in_class"},
        '}} t"': {"string", "indent_1", "in_class"},
        "@": {"operator", "indent_1", "in_class"},
        "def": {"keyword", "indent_1", "in_class"},
        "self": {"name", "indent_1", "in_class"},
        "# inside": {"comment", "indent_2", "in_class", "in_function"},
        "if": {"keyword", "indent_2", "in_class", "in_function"},
        " None": {"keyword", "indent_2", "in_class", "in_function"},
        "            ": {"indent_3+", "in_class", "in_function"},
        "return": {"keyword", "indent_3+", "in_class", "in_function"},
        "1.5": {"number", "indent_3+", "in_class", "in_function"},
        "os": {"name", "indent_3+", "in_class", "in_function"},  # of the same statement, though not indented
        "# of": {"comment", "indent_1", "in_class"},
        "0x1F": {"number", "indent_1", "in_class"},
        "# after": {"comment", "indent_0"},
        "match": {"name", "indent_0"},
    }
    assert dict(zip(expected, token_classes(SNIPPET, *expected), strict=True)) == expected


def test_a_token_belongs_where_most_of_its_characters_that_are_not_blank_do():
    text = "value=f(' a')\n"
    assert token_classes(text, "e=f(")[0] == {"name", "indent_0"}  # two and two: the first of SYNTAX
    assert token_classes(text, "=f(")[0] == {"operator", "indent_0"}
    assert token_classes(text, "' a")[0] == {"string", "indent_0"}
    assert token_classes(text, " ")[0] == {"indent_0"}


def test_methods_of_local_classes_and_one_line_bodies():
    text = "def f():\n    class C:\n        def g(self): pass\n    return C\nasync def h(): await x\n"
    names = ["C", "g", "pass", "return", "await"]
    got = dict(zip(names, token_classes(text, *names), strict=True))
    assert {name for name in got if "in_function" in got[name]} == {"C", "g", "pass", "return", "await"}
    assert {name for name in got if "in_class" in got[name]} == {"g", "pass"}


def test_parts_of_characters_are_in_no_class():
    found = classes_of("x = 1\n", np.array([0, 2]), np.array([0, 2]))
    assert found is not None
    assert not any(column.any() for column in found.values())


@pytest.mark.parametrize("text", ["The `if` statement is used", "if x:\n", "x = '", "def f(:\n", "\x00", "  x\n y\n"])
def test_what_is_not_python_gives_none(text):
    assert classes_of(text, np.array([0]), np.array([1])) is None


def test_an_empty_file_and_no_tokens():
    none = np.array([], dtype=np.int64)
    found = classes_of("", none, none)
    assert found is not None
    assert all(column.shape == (0,) for column in found.values())


def test_odd_files_are_read_as_the_tokenizer_reads_them():
    # A form feed ends no line, escapes that are not valid are no warning here, and a last line may have no end.
    got = token_classes("x = '\\d'\n\x0c\ndef f():\n\treturn '\x0c'\n\x0cy = 2", "x", "'\\d'", "return", "y", "2")
    assert got[1] == {"string", "indent_0"}
    assert got[2] == {"keyword", "in_function", "indent_1"}
    assert got[3:] == [{"name", "indent_0"}, {"number", "indent_0"}]


@pytest.mark.parametrize(("start", "end"), [(0, 9), (-1, 1), (3, 2)])
def test_spans_that_are_not_of_the_text_are_an_error(start, end):
    with pytest.raises(CorpusError, match="give the text"):
        classes_of("x = 1\n", np.array([start]), np.array([end]))


@pytest.mark.parametrize("name", ["textwrap.py", "dataclasses.py", "heapq.py"])
def test_every_character_of_the_standard_library_has_one_class_and_one_depth(name):
    text = (Path(sysconfig.get_path("stdlib")) / name).read_text(encoding="utf-8")
    starts = np.arange(len(text))
    found = classes_of(text, starts, starts + 1)
    assert found is not None
    assert (sum(found[depth].astype(int) for depth in DEPTHS) == 1).all()  # pyright: ignore[reportAttributeAccessIssue]
    syntax = sum(found[kind].astype(int) for kind in SYNTAX)
    for i in np.flatnonzero(syntax != 1):
        assert syntax[i] == 0
        assert text[i].isspace() or text[i] == "\\", (i, text[i - 20 : i + 20])
    words = "".join(c if k else " " for c, k in zip(text, found["keyword"], strict=True)).split()
    assert words
    assert all(keyword.iskeyword(word) for word in words)
