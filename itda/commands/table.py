"""The list of commands: of each its name, its settings and its function, in the order of `itda --help`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from itda import config as settings
from itda.commands.comparing import compare_command, diff_command, fingerprint_command
from itda.commands.making import harvest_command, import_command, plan_command, train_command
from itda.commands.measuring import evaluate_command, features_command, index_command, probe_command, replicate_command
from itda.commands.prompts import decompose_command, steer_command
from itda.commands.sharing import export_command, push_command
from itda.commands.showing import explore_command, info_command
from itda.demo import demo


@dataclass(frozen=True)
class Command:
    """A command: the word that people type, the class of its settings, and what it does with them."""

    name: str
    settings: type[Any]
    run: Callable[[Any], None]


COMMANDS = (
    Command("demo", settings.Demo, demo),
    Command("train", settings.Train, train_command),
    Command("harvest", settings.Harvest, harvest_command),
    Command("plan", settings.Plan, plan_command),
    Command("info", settings.Info, info_command),
    Command("decompose", settings.Decompose, decompose_command),
    Command("steer", settings.Steer, steer_command),
    Command("evaluate", settings.Evaluate, evaluate_command),
    Command("probe", settings.Probe, probe_command),
    Command("fingerprint", settings.Fingerprint, fingerprint_command),
    Command("compare", settings.Compare, compare_command),
    Command("diff", settings.Diff, diff_command),
    Command("index", settings.Index, index_command),
    Command("replicate", settings.Replicate, replicate_command),
    Command("features", settings.Features, features_command),
    Command("explore", settings.Explore, explore_command),
    Command("export", settings.Export, export_command),
    Command("push", settings.Push, push_command),
    Command("import", settings.Import, import_command),
)


def command_of(given: object) -> Command:
    """Return the command whose settings these are."""
    return next(command for command in COMMANDS if type(given) is command.settings)
