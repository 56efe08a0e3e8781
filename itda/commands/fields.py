"""The options of a command, read from the class of its settings: names, help, types as words, groups of the help."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from itda import options
from itda.errors import SettingError
from itda.parsing import Kind, one_of, parse_number, parse_whole_number

USUAL, MORE = "", "more"
GROUPS = {
    options.Output: "output",
    options.ModelOptions: "model",
    options.RunOptions: "model",
    options.CorpusOptions: "corpus",
    options.RunCorpusOptions: "corpus",
    options.DocumentOptions: MORE,
    options.PursuitOptions: "memory and precision",
    options.LargeOptions: "large-model",
    options.ElsewhereOptions: "Ray and NDIF",
}
"""The groups of the help where options of shared classes stand."""
ORDER = (USUAL, MORE, "output", "model", "corpus", "memory and precision", "large-model", "Ray and NDIF")
"""All groups, in the order of the help."""
PLAIN = {
    int: Kind("number", parse_whole_number),
    float: Kind("number", parse_number, "{:g}".format),
    str: Kind("text", str),
    Path: Kind("folder", Path),
}
"""The types of settings that need no `Kind` of their own."""


@dataclass(frozen=True)
class Option:
    """An option or argument of a command: what the help says of it, and how it is read.

    `kind` is None for a switch, which has no value. `required` options have no default.
    """

    name: str
    help: str
    kind: Kind | None
    group: str
    default: Any
    required: bool
    positional: bool
    several: bool

    @property
    def flag(self) -> str:
        """The name that people type, --batch-size, or see in the usage, RUN."""
        if self.positional:
            return self.name.upper()
        return ("--no-" if self.kind is None and self.default else "--") + self.name.replace("_", "-")

    @property
    def hint(self) -> str:
        """What the help says after the text: that it is required, or its default; '' where the text has said it."""
        if self.required:
            return "(required)"
        if self.kind is None or self.default in (None, (), "") or "efault:" in self.help:
            return ""
        return f"(default: {self.kind.write(self.default)})"

    def from_text(self, text: str) -> Any:
        """Read what was typed. Raises `SettingError`, which names the option."""
        assert self.kind is not None, "a switch has no value"
        try:
            return self.kind.read(text)
        except SettingError as error:
            raise SettingError(f"{self.flag}: {error}") from None


def options_of(settings: type[Any]) -> list[Option]:
    """Return the options of a command, in the order of its help.

    >>> from itda.config import Info
    >>> [(option.flag, option.group) for option in options_of(Info)]
    [('RUN', ''), ('--json', 'output'), ('--quiet', 'output')]
    """
    hints, helps = get_type_hints(settings, include_extras=True), _docstrings(settings)
    found = [_option(settings, field, hints[field.name], helps[field.name]) for field in dataclasses.fields(settings)]
    own = inspect.get_annotations(settings)
    return sorted(found, key=lambda option: (not option.positional, ORDER.index(option.group), option.name not in own))


def _option(settings: type[Any], field: dataclasses.Field[Any], hint: Any, text: str) -> Option:
    kind, metadata = _opened(hint)
    positional, required = options.Place.POSITIONAL in metadata, field.default is dataclasses.MISSING
    home = next(base for base in reversed(settings.__mro__) if field.name in inspect.get_annotations(base))
    group = USUAL if positional else MORE if options.Place.MORE in metadata else GROUPS.get(home, USUAL)
    named = next((each for each in metadata if isinstance(each, Kind)), None)
    several = named is None and get_origin(kind) is tuple
    if named is None and kind is not bool:
        plain = get_args(kind)[0] if several else kind
        named = one_of(get_args(kind)) if get_origin(kind) is Literal else PLAIN[plain]
    default = None if required else field.default
    return Option(field.name, text, named, group, default, required, positional, several)


def _opened(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without `Annotated` and `None` around it, and what was annotated."""
    metadata: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            metadata += hint.__metadata__
            hint = hint.__origin__
        elif get_origin(hint) in (Union, UnionType):
            (hint,) = (each for each in get_args(hint) if each is not NoneType)
        else:
            return hint, metadata


@cache
def _docstrings(settings: type[Any]) -> dict[str, str]:
    """Return the string under each field of a dataclass and of its bases, on one line."""
    found: dict[str, str] = {}
    for base in reversed(settings.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found
