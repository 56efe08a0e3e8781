"""The command line: from what was typed to the settings of a command, which `itda.commands` then runs.

Models and tensors are imported when needed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

from itda import config as settings
from itda.checks import check
from itda.commands.table import COMMANDS, command_of
from itda.errors import ItdaError, SettingError
from itda.parsing import meant
from itda.terminal import check_arguments, prepare_output


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `itda`. Exit status 0, or 2 with one line on standard error for bad usage or bad input."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--version" in given:
        from itda.version import __version__

        print(f"itda {__version__}")
        return
    prepare_output()
    try:
        check_arguments(given)
        options = _fetched(_parsed(_spelled(given)))
        check(options)
        _dispatch(options)
    except ItdaError as error:
        print(f"itda: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        # A run that can be resumed says so in the exception.
        print(f"itda: {stop}" if str(stop) else "itda: stopped; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output, `head` for one, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        from itda.files import is_full

        if not is_full(error):
            raise
        print(f"itda: no space ({error}): free some, and run the command again", file=sys.stderr)
        raise SystemExit(2) from None


def _parsed(arguments: list[str]) -> Any:
    """Return the settings of the command that was typed; for --help print it, and exit.

    Raises `SettingError` for a word that is no command, and for what the command cannot read.
    """
    from itda.commands.forms import settings_of

    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        from itda.commands.overview import overview

        print(overview())
        raise SystemExit(0 if arguments else 2)
    if name not in COMMANDS:
        raise SettingError(f"no command {name[:80]!r}{meant(name, list(COMMANDS)) or ': `itda --help` lists them'}")
    return settings_of(COMMANDS[name], rest)


def _fetched(command: Any) -> Any:
    """Return the command with folders for runs that it names on the Hub. Raises `StoreError` for what is not there."""
    from itda.store.hub import is_repository, local_run

    several = isinstance(command, settings.Explore | settings.Compare)
    named = command.runs if several else [command.run] if hasattr(command, "run") else []
    if isinstance(command, settings.Push) or not any(is_repository(str(run)) and not run.exists() for run in named):
        return command
    if command.quiet or not sys.stderr.isatty():  # the Hub's own bars, of what may be many megabytes
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    if several:
        index = isinstance(command, settings.Explore)
        return replace(command, runs=tuple(local_run(run, index=index, or_fingerprint=True) for run in named))
    return replace(command, run=local_run(command.run))


def _dispatch(options: Any) -> None:
    """Run the command whose settings these are."""
    if not isinstance(options, settings.Info):  # `itda info` loads none of the libraries that are silenced here
        _silence_libraries()
    command_of(options).run(options)


def _silence_libraries() -> None:
    """Turn off other libraries' bars and warnings, which would bury our one line per failure."""
    import logging

    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.CRITICAL)


MANY_LAYERS = ("train", "harvest", "plan", "fingerprint", "diff")
"""Commands whose option is called --layers."""


def _spelled(arguments: list[str]) -> list[str]:
    """Return the arguments with --layer or --layers spelled as the command has it: users may give either."""
    named = "--layers" if arguments[:1] and arguments[0] in MANY_LAYERS else "--layer"

    def one(argument: str) -> str:
        flag, equals, value = argument.partition("=")
        return named + equals + value if flag in ("--layer", "--layers") else argument

    return [one(argument) for argument in arguments]


if __name__ == "__main__":
    main()
