"""What goes in from a terminal and out to it: bytes that are no text, and signs that a terminal lacks."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Sequence
from typing import Any

from itda.errors import SettingError

SIGNS = {
    **str.maketrans("«»…·⏎⇥␍⍽∅", "<>~./>/_0"),
    **dict.fromkeys(map(ord, "─━"), "-"),
    **dict.fromkeys(map(ord, "│┃"), "|"),
    **dict.fromkeys(map(ord, "╭╮╰╯├┤┬┴┼"), "+"),
}
"""What stands for a sign of ours where there is none: of the same width, so that columns stay columns."""
HANDLER = "itda-signs"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].translate(SIGNS)
    return "".join(c if c.isascii() else "?" for c in lacking), error.end


def prepare_output() -> None:
    """From now on, what the terminal has no sign for is replaced, where it would have ended the command."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not of what stands for a stream in a notebook or a test
        if reconfigure is not None:
            reconfigure(errors=HANDLER)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises `SettingError` for an argument whose bytes are no UTF-8: no label, page or record could hold it."""
    for argument in arguments:
        if not is_text(argument):
            shown = ascii(argument.encode("utf-8", "surrogateescape")).removeprefix("b")[:200]
            raise SettingError(f"{shown} is not UTF-8: rename the file, or type the text anew")


def is_text(value: object) -> bool:
    """Whether something can be written as UTF-8: bytes of a file name that are none become halves of surrogate pairs.

    >>> is_text("café"), is_text(b"caf\\xe9".decode(errors="surrogateescape"))
    (True, False)
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def json_line(values: dict[str, Any]) -> str:
    """One JSON object, in signs that standard output has: escaped where it lacks them, so that nothing is replaced."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(values, allow_nan=False)
    return text
