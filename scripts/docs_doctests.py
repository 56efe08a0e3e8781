"""Show the examples in docstrings as code on the site's page of the API. mkdocstrings reads it: mkdocs.yml."""

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Put the examples of a docstring into fences."""
    return EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0]}\n```", text)


class Doctests(griffe.Extension):
    """Fence the examples of each docstring."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change one object's docstring, once all is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
