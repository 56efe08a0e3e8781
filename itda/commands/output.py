"""How commands print: JSON, what several of them show, and the line of one that was stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.terminal import json_line


@contextmanager
def resumable() -> Iterator[None]:
    """Print how to go on with a command that is stopped by Ctrl-C in this context, and exit with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("itda: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object, on one line."""
    print(json_line(values))


def show_diff(values: Mapping[str, Any], out: Path | None, options: settings.Diff | settings.Info) -> None:
    """Print a diff, which is in the folder `out` or in none."""
    if options.json:
        print_json({"out": str(out) if out else None, **values})
    else:
        from itda import report

        print(report.diff_summary(values, out))
