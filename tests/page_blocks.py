"""Code blocks of a page of the docs, by the heading that they stand under, so that tests run what readers copy."""

import re
from pathlib import Path

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
