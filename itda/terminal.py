"""Text from and to a terminal: arguments that are not UTF-8, and characters that the terminal cannot show."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from itda.errors import SettingError

SIGNS = {
    **str.maketrans("«»…·⏎⇥␍⍽∅", "<>~./>/_0"),
    **dict.fromkeys(map(ord, "─━"), "-"),
    **dict.fromkeys(map(ord, "│┃"), "|"),
    **dict.fromkeys(map(ord, "╭╮╰╯├┤┬┴┼"), "+"),
}
"""ASCII replacements, of the same width, for characters of ours that a terminal cannot show."""
HANDLER = "itda-signs"
"""The name under which Python knows our handler of encoding errors."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].translate(SIGNS)
    return "".join(c if c.isascii() else "?" for c in lacking), error.end


def prepare_output() -> None:
    """Make standard output and error replace characters that they cannot encode, instead of raising an error."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # notebooks and tests replace streams by objects without it
        if reconfigure is not None:
            reconfigure(errors=HANDLER)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises `SettingError` for an argument whose bytes are no UTF-8: no label, page or record could hold it."""
    for argument in arguments:
        if not is_text(argument):
            shown = ascii(argument.encode("utf-8", "surrogateescape")).removeprefix("b")[:200]
            raise SettingError(f"{shown} is not UTF-8: rename the file, or type the text again")


def is_text(value: object) -> bool:
    """Return True if a value can be written as UTF-8: in file names, Python keeps other bytes as lone surrogates.

    >>> is_text("café"), is_text(b"caf\\xe9".decode(errors="surrogateescape"))
    (True, False)
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def json_line(values: Mapping[str, Any]) -> str:
    """Return a JSON object on one line; characters that standard output cannot encode are escaped."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(values, allow_nan=False)
    return text
