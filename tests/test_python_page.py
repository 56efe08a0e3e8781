"""The examples of the README and of pages for Python run in order, one namespace a page, and give what a page shows.

A block of ```python is run as a cell of a notebook: its last expression is shown after what it prints. A block of
```text right after it must be what was shown, where `...` stands for anything. A block of ```python skip is not run.
The README shows numbers and atoms of one version of Python's documentation: there only the form of a line is compared.
"""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
from fill_notebook import run_cell
from page_blocks import form

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": 1, "docs/own_activations.md": 4, "docs/python.md": 6}
"""The pages, and how many blocks of Python each has at least."""
BLOCK = re.compile(r"^```python[ ]*(?P<skip>skip)?\n(?P<code>.*?)^```\n(?:```text\n(?P<shown>.*?)^```\n)?", re.M | re.S)


def shown_by(code: str, names: dict[str, Any]) -> str:
    """Run code in a namespace; what it prints, and its last expression."""
    printed, value = run_cell(code, names)
    return printed if value is None else f"{printed}{value!r}\n"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_gives_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    text = (ROOT / page).read_text()
    for block in BLOCK.finditer(text):
        if block["skip"]:
            continue
        where = f"{page}, line {text[: block.start()].count(chr(10)) + 1}"
        try:
            shown = shown_by(block["code"], names)
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        if block["shown"] is not None:
            kept = form if page == "README.md" else str
            same = doctest.OutputChecker().check_output(kept(block["shown"]), kept(shown), doctest.ELLIPSIS)
            assert same, f"{where} shows\n{block['shown']}and gives\n{shown}"


def test_a_cell_shows_what_a_notebook_would():
    names: dict[str, Any] = {}
    assert shown_by("a = 1", names) == ""
    assert shown_by("print(a)\na + 1", names) == "1\n2\n"
    assert shown_by("None", names) == ""


def test_the_form_of_a_line_has_its_token_and_no_numbers():
    assert form("« in»  72.8%  221 « in» +356\n") == "« in» #% # «» #\n"
    assert form("7 tokens at layer_4\n") != form("7 tokens of layer_4\n")


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_every_block_of_python_is_found(page, least):
    text = (ROOT / page).read_text()
    assert len(BLOCK.findall(text)) == len(re.findall(r"^```python", text, re.M)) >= least
