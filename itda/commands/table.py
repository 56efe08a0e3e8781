"""The table of the commands, in the groups and the order of `itda --help`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from itda import config as settings
from itda.commands.comparing import compare_command, diff_command, fingerprint_command
from itda.commands.making import harvest_command, import_command, plan_command, train_command
from itda.commands.measuring import (
    effects_command,
    evaluate_command,
    features_command,
    index_command,
    probe_command,
    replicate_command,
)
from itda.commands.prompts import decompose_command, steer_command
from itda.commands.sharing import export_command, push_command
from itda.commands.showing import explore_command, info_command
from itda.demo import demo


@dataclass(frozen=True)
class Command:
    """A command: the word that people type, the class of its settings, what it does with them, and how it is typed.

    The first line of the settings' docstring says in `itda --help` what the command is for.
    """

    name: str
    settings: type[Any]
    run: Callable[[Any], None]
    examples: tuple[str, ...]


GROUPS = {
    "First steps": (
        Command("demo", settings.Demo, demo, ("itda demo",)),
        Command(
            "train",
            settings.Train,
            train_command,
            (
                "itda train tiny --layers 2,4 --corpus python-docs --tokens 50k",
                "itda train EleutherAI/pythia-160m --layers 6 --corpus texts/ --atoms 4k",
            ),
        ),
        Command("info", settings.Info, info_command, ("itda info runs/demo",)),
        Command(
            "decompose",
            settings.Decompose,
            decompose_command,
            (
                "itda decompose runs/demo 'import os' --layer 4",
                "itda decompose runs/demo 'import os' --token -1 --why",
            ),
        ),
        Command(
            "explore",
            settings.Explore,
            explore_command,
            ("itda explore runs/demo --open", "itda explore runs/demo --export page.html"),
        ),
        Command(
            "steer",
            settings.Steer,
            steer_command,
            (
                "itda steer runs/demo --find 'import os'",
                "itda steer runs/demo 'def read' --atom 17 --strength 4",
            ),
        ),
    ),
    "Measure a run, or keep more in it": (
        Command("evaluate", settings.Evaluate, evaluate_command, ("itda evaluate runs/demo",)),
        Command("index", settings.Index, index_command, ("itda index runs/demo",)),
        Command("replicate", settings.Replicate, replicate_command, ("itda replicate runs/demo --draws 2",)),
        Command("effects", settings.Effects, effects_command, ("itda effects runs/demo --contexts 20",)),
        Command("probe", settings.Probe, probe_command, ("itda probe runs/demo",)),
        Command("features", settings.Features, features_command, ("itda features runs/demo",)),
    ),
    "Compare models": (
        Command(
            "compare",
            settings.Compare,
            compare_command,
            ("itda compare runs/demo", "itda compare a.itda b.itda --out comparison"),
        ),
        Command(
            "fingerprint",
            settings.Fingerprint,
            fingerprint_command,
            ("itda fingerprint tiny --corpus python-docs --out a.itda",),
        ),
        Command(
            "diff",
            settings.Diff,
            diff_command,
            ("itda diff tiny ./finetuned --layers 3,5 --corpus python-docs --out difference",),
        ),
    ),
    "Share": (
        Command("export", settings.Export, export_command, ("itda export runs/demo --to json",)),
        Command("push", settings.Push, push_command, ("itda push runs/demo user/name --dry-run",)),
        Command("import", settings.Import, import_command, ("itda import ./released --out runs/released",)),
    ),
    "Large models": (
        Command("plan", settings.Plan, plan_command, ("itda plan Qwen/Qwen2.5-7B --layers 14 --gpu-memory 24G",)),
        Command(
            "harvest",
            settings.Harvest,
            harvest_command,
            (
                "itda harvest tiny --layers 2,4 --corpus python-docs --out kept",
                "itda train --activations kept",
            ),
        ),
    ),
}
"""The commands under the headings of `itda --help`."""
COMMANDS = {command.name: command for commands in GROUPS.values() for command in commands}
"""The commands by their names."""


def command_of(given: object) -> Command:
    """Return the command whose settings these are."""
    return next(command for command in COMMANDS.values() if type(given) is command.settings)
