"""From what was typed to a command's settings, by tyro, and the help of each command."""

from __future__ import annotations

import dataclasses
import io
import textwrap
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Annotated, Any

from itda.commands.fields import USUAL, Option, options_of
from itda.errors import SettingError
from itda.parsing import meant

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec

    from itda.commands.table import Command

WIDTH = 80
"""Columns of the help."""
GROUP = "group_"
"""How the names of a form's groups begin; no option's name does."""


class RefusedError(Exception):
    """Carries a `SettingError` past tyro, which would show a `ValueError` in a box of its own."""


def settings_of(command: Command, arguments: list[str]) -> Any:
    """Return the settings of a command that were typed after its name; with --help print its help, and exit.

    Raises `SettingError` for an option that it has not, a value that cannot be read, and what is missing.
    """
    import tyro

    options = options_of(command.settings)
    refused = io.StringIO()
    try:
        with redirect_stderr(refused):
            form, unknown = tyro.cli(
                _form_of(options),
                prog=f"itda {command.name}",
                args=arguments,
                description=description(command),
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except RefusedError as error:
        raise error.args[0] from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SettingError(f"{_first_lines(refused.getvalue())} `itda {command.name} --help` shows how") from None
    _check_known(command, options, unknown)
    values = _flat(form)
    for option in options:
        if option.required and values[option.name] in (None, ()):
            raise SettingError(f"no {option.flag} given: {usage(command, options)}")
    return command.settings(**values)


def description(command: Command) -> str:
    """Return what the help of a command says before its options: what it does, and examples."""
    paragraphs = [" ".join(each.split()) for each in (command.settings.__doc__ or "").split("\n\n")]
    indent = "  "  # tyro joins lines that begin with a letter
    filled = [textwrap.fill(each, WIDTH, subsequent_indent=indent) for each in paragraphs]
    return "\n\n".join([*filled, "\n".join(["Examples:", *(indent + each for each in command.examples)])])


def usage(command: Command, options: list[Option]) -> str:
    """Return how a command is typed: its arguments, and the options that it cannot do without."""
    words = [option.flag for option in options if option.positional and (option.required or option.several)]
    words += [f"{o.flag} {o.name.upper()}" for o in options if o.required and not o.positional]
    return " ".join(["itda", command.name, *words])


def _form_of(options: list[Option]) -> type[Any]:
    """Return a dataclass for tyro: arguments and usual options as its fields, other groups as dataclasses in it.

    All of its fields have defaults, so that what is missing is said in our own words.
    """
    import tyro

    fields: dict[str, list[Any]] = {}
    for option in options:
        fields.setdefault(option.group, []).append((option.name, _typed(option), _default(option)))
    own = fields.pop(USUAL, [])
    for number, (title, members) in enumerate(fields.items()):
        group = dataclasses.make_dataclass("Group", members)
        group.__doc__ = ""
        named = Annotated[group, tyro.conf.arg(name=title)]
        own.append((f"{GROUP}{number}", named, dataclasses.field(default_factory=group)))
    form = dataclasses.make_dataclass("Form", own)
    form.__doc__ = ""
    return form


def _default(option: Option) -> Any:
    return () if option.several and option.required else option.default


def _typed(option: Option) -> Any:
    """Return the type of a field of the form."""
    import tyro

    shown = option.flag + " ..." * option.several
    shown = shown if option.required else f"[{shown}]"
    about = tyro.conf.arg(
        help=option.help, help_behavior_hint=option.hint, metavar=shown if option.positional else None
    )
    kind: Any = bool if option.kind is None else Annotated[object, _spec(option)]
    named = Annotated[kind, about]
    return tyro.conf.Positional[named] if option.positional else named


def _spec(option: Option) -> PrimitiveConstructorSpec[Any]:
    """Return tyro's description of an option's value: how to read it, and its word in the help."""
    from tyro.constructors import PrimitiveConstructorSpec

    def from_texts(texts: list[str]) -> Any:
        try:
            values = tuple(option.from_text(text) for text in texts)
        except SettingError as error:
            raise RefusedError(error) from error
        return values if option.several else values[0]

    assert option.kind is not None
    return PrimitiveConstructorSpec(
        nargs="*" if option.several else 1,
        metavar=option.kind.word + " ..." * option.several,
        instance_from_str=from_texts,
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(value)],
    )


def _flat(form: Any) -> dict[str, Any]:
    """Return the values of a form by the names of their options."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(form):
        value = getattr(form, field.name)
        values |= (
            _flat(value) if dataclasses.is_dataclass(value) and field.name.startswith("group_") else {field.name: value}
        )
    return values


def _check_known(command: Command, options: list[Option], unknown: list[str]) -> None:
    """Raises `SettingError` for words that the command does not know."""
    if not unknown:
        return
    flags = [option.flag for option in options if not option.positional]
    word = next((each for each in unknown if each.startswith("-")), None)
    if word is None:
        raise SettingError(f"one word too many, {unknown[0][:80]!r}: put text with spaces in quotes")
    name = word.partition("=")[0][:80]
    near = meant(name, flags)
    raise SettingError(
        f"`itda {command.name}` has no option {name}{near or f': `itda {command.name} --help` lists them'}"
    )


def _first_lines(box: str) -> str:
    """Return the text of a box that tyro draws around a refusal, up to its first rule, on one line."""
    lines = [line.strip(" │|") for line in box.splitlines()[1:]]
    end = next((number for number, line in enumerate(lines) if not line.strip("─-╰╯+")), len(lines))
    return " ".join(lines[:end])
