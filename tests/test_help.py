"""The help of every command: 80 columns, types as words, groups in one order, examples that can be typed."""

import re
import shlex

import pytest

from itda.cli import main
from itda.commands.fields import ORDER, options_of
from itda.commands.forms import settings_of
from itda.commands.overview import EXAMPLES, overview
from itda.commands.table import COMMANDS


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def help_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    output, error = capsys.readouterr()
    assert (stop.value.code, error) == (0, "")
    return output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_keeps_to_80_columns_and_says_types_as_words(capsys, name):
    text, options = help_of(capsys, name), options_of(COMMANDS[name].settings)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"\{|\}|\bNone\b|\bSTR\b|\bINT\b|\bFLOAT\b|-path PATH", text)
    assert text.startswith(f"usage: itda {name}")
    for option in options:
        value = f" {option.kind.word}" if option.kind and not option.positional else ""
        assert f"\n  {option.flag}{value}" in text.replace("\n  [", "\n  "), option.name
        assert option.help, option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_groups_of_options_are_in_one_order_with_the_usual_first_and_ray_last(capsys, name):
    text = help_of(capsys, name)
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    known = ["Examples", "positional arguments", "options", *(f"{group} options" for group in ORDER if group)]
    assert headings == [heading for heading in known if heading in headings]
    assert "\nExamples:\n  itda " in text


@pytest.mark.parametrize("example", [*EXAMPLES, *(each for command in COMMANDS.values() for each in command.examples)])
def test_examples_can_be_typed(example):
    program, name, *arguments = shlex.split(example)
    assert program == "itda"
    assert isinstance(settings_of(COMMANDS[name], arguments), COMMANDS[name].settings)


def test_the_help_of_all_lists_each_command_once_in_80_columns(capsys):
    text = help_of(capsys)
    assert text == overview() + "\n"
    assert max(map(len, text.splitlines())) <= 80
    listed = re.findall(r"^  (\w+)  +[A-Z]", text, re.MULTILINE)
    assert listed == list(COMMANDS)
    assert listed[:4] == ["demo", "train", "info", "decompose"]


def test_no_command_at_all_shows_the_help_and_is_a_failure(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().out == overview() + "\n"


def test_every_option_of_a_command_is_read_and_none_is_lost():
    given = shlex.split("tiny --layers 2,4 --corpus x --tokens 5k --k 8 --json --fast --workers 2 --scratch . --seed 3")
    made = settings_of(COMMANDS["train"], given)
    assert (made.model, made.layers, made.tokens, made.k, made.seed, made.workers) == ("tiny", (2, 4), 5000, 8, 3, 2)
    assert (made.json, made.fast, made.quiet, made.stream) == (True, True, False, False)
    explored = settings_of(COMMANDS["explore"], ["a", "b", "--no-model", "--prompts", "one text", "another"])
    assert ([path.name for path in explored.runs], explored.model) == (["a", "b"], False)
    assert explored.prompts == ("one text", "another")
    assert settings_of(COMMANDS["decompose"], ["a", "text", "--token", "-1"]).token == -1
