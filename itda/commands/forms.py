"""From what was typed to a command's settings, by tyro, and the help of each command."""

from __future__ import annotations

import dataclasses
import io
import re
import textwrap
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

from itda.commands.fields import USUAL, Option, options_of
from itda.errors import SettingError
from itda.parsing import meant

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec

    from itda.commands.table import Command

WIDTH = 80
"""Columns of the help."""
RULE = r" +-{10,} *"
"""A rule that tyro draws where it has no terminal to draw boxes on."""
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
    shown = io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(shown):
            form, unknown = tyro.cli(
                _form_of(options),
                prog=f"itda {command.name}",
                args=arguments,
                description="",
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except RefusedError as error:
        raise error.args[0] from None
    except SystemExit as stop:
        if stop.code:
            raise SettingError(_refused(command, options, arguments, shown.getvalue())) from None
        print(_help(command, shown.getvalue()))
        raise
    _check_known(command, options, unknown)
    values = _flat(form)
    for option in options:
        if option.required and values[option.name] is None:
            raise SettingError(f"no {option.flag} given: {usage(command, options)}")
    return command.settings(**values)


def _help(command: Command, shown: str) -> str:
    """Return the help of a command: what it does and examples, between the usage and the options that tyro wrote."""
    usage, _, options = shown.partition("\n\n")
    lines = "\n".join(line.rstrip() for line in options.splitlines() if line.strip())
    headed = re.sub(rf"^ (\S.*)\n{RULE}$", r"\n\1:", lines, flags=re.MULTILINE)
    return "\n\n".join([usage, *_paragraphs(command), "\n".join(["Examples:", *_examples(command)]), headed.strip()])


def _paragraphs(command: Command) -> list[str]:
    """Return the docstring of a command's settings, filled to the width of the help."""
    return [textwrap.fill(" ".join(each.split()), WIDTH) for each in (command.settings.__doc__ or "").split("\n\n")]


def _examples(command: Command) -> list[str]:
    return [f"  {example}" for example in command.examples]


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

    def from_texts(texts: list[Any]) -> Any:
        if texts == [[]]:  # tyro's way to say that an argument is not there
            return option.default
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


def _refused(command: Command, options: list[Option], arguments: list[str], shown: str) -> str:
    """Return on one line why tyro refused: an option without a value, or what tyro wrote below its title."""
    valued = {option.flag: option.kind.word for option in options if option.kind is not None}
    flags = {"", *(option.flag for option in options)}
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in valued and following in flags:
            return f"{word} needs a value after it ({valued[word]}): `itda {command.name} --help` says which"
    parts = re.split(rf"^{RULE}$", shown, flags=re.MULTILINE)
    return " ".join((parts[1] if len(parts) > 1 else shown).split()).rstrip(".") + f": see `itda {command.name} --help`"
