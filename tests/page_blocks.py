"""Code blocks of a page of the docs, by the heading that they stand under, so that tests run what readers copy."""

import linecache
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
PARTS = re.compile(
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$|^#+ (?P<heading>[^\n]*)$", re.MULTILINE | re.DOTALL
)


def blocks(page: str, heading: str, language: str = "python") -> list[str]:
    """Return the blocks of one language under a heading, in order. Raises `ValueError` where there is none."""
    found, under = [], ""
    for part in PARTS.finditer((DOCS / page).read_text()):
        if part["heading"] is not None:
            under = part["heading"]
        elif (under, part["language"]) == (heading, language):
            found.append(part["code"])
    if not found:
        raise ValueError(f"{page} has no block of {language} under {heading!r}")
    return found


def run_blocks(page: str, heading: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the blocks of Python under a heading, one after the other, with some names; return all names after it."""
    for number, code in enumerate(blocks(page, heading)):
        file = f"<{page}, {heading}, block {number}>"
        # Where tracebacks, and nnsight, look for the lines of what has no file.
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        exec(compile(code, file, "exec"), names)
    return names


def form(shown: str) -> str:
    """Return what was shown with numbers, atoms and the spaces between columns left out; a line's own token stays.

    >>> form("« in»  72.8%  221 « in» +356\\n")
    '« in» #% # «» #\\n'
    """
    lines = [re.sub(r"(?<!^)«[^»]*»", "«»", line) for line in shown.splitlines(keepends=True)]
    return re.sub(r" +", " ", re.sub(r"[+-]?\d[\d.]*", "#", "".join(lines)))
