"""What `itda --help` prints: the commands in groups, and examples."""

from __future__ import annotations

import textwrap

from itda.commands.forms import WIDTH
from itda.commands.table import GROUPS, Command

EXAMPLES = (
    "itda demo",
    "itda train tiny --layers 2,4 --corpus python-docs --tokens 50k",
    "itda decompose runs/tiny-1 'import os'",
    "itda explore runs/tiny-1 --open",
)
COLUMN = 15
"""Columns before what a command is for."""


def overview() -> str:
    """Return the text of `itda --help`."""
    groups = [f"{title}:\n" + "\n".join(map(_line, commands)) for title, commands in GROUPS.items()]
    parts = [
        "usage: itda COMMAND [options]",
        "Take a language model's activations apart into labelled ones.",
        *groups,
        "Examples:\n" + "\n".join(f"  {each}" for each in EXAMPLES),
        "`itda COMMAND --help` lists the options of a command.\n`itda --version` prints the version.",
    ]
    return "\n\n".join(parts)


def _line(command: Command) -> str:
    first = " ".join((command.settings.__doc__ or "").split("\n\n")[0].split())
    return textwrap.fill(first, WIDTH, initial_indent=f"  {command.name:<{COLUMN - 2}}", subsequent_indent=" " * COLUMN)
