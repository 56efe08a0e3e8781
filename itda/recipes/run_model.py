"""Finding the language model of a run again: the same files, commit and dtype, or an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from itda import config as settings
from itda.errors import ModelError
from itda.sources.models.named import DTYPES, NamedModel

MODEL = "model_fingerprint"
"""The key of the model's fingerprint in run.json; older runs lack it, and their models are not checked."""

T = TypeVar("T", bound=settings.ModelOptions)
Made = TypeVar("Made", settings.Train, settings.Harvest, settings.Fingerprint)


@dataclass(frozen=True)
class RunModel(Generic[T]):
    """The name and settings with which to load the model of a run."""

    name: str
    revision: str | None
    options: T
    changed: bool
    """True if it is another model than that of the run, which the options allow."""


def located(options: Made, *, model: bool = True, corpus: bool = True) -> Made:
    """Return the settings with absolute paths where they name a model or a corpus on this machine.

    So a run opens from any folder. `model` and `corpus` are False if they were given as objects, whose names are not
    paths.
    """
    found: dict[str, str] = {}
    if model and options.model and options.model != "tiny" and Path(options.model).expanduser().exists():
        found["model"] = _absolute(options.model)
    if corpus and options.corpus and options.corpus != "python-docs" and Path(options.corpus).expanduser().exists():
        found["corpus"] = _absolute(options.corpus)
    return replace(options, **found)


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links stay, `..` goes


def find_model(
    folder: Path, record: Mapping[str, Any], options: T, say: Callable[[str], object] = lambda _line: None
) -> RunModel[T]:
    """Find the model of the run in `folder`, with its run.json in `record`; `dtype` auto becomes that of the run.

    Raises `ModelError` if the model is gone or has changed; with `changed_model` in the options, a changed one is taken
    and `say` is told so.
    """
    given = getattr(options, "model_path", None)
    name = _absolute(given) if given is not None else str(record["model"])
    revision = None if given is not None else record["revision"] or record["settings"]["revision"]
    if Path(name).is_absolute() and not Path(name).exists():
        if given is not None:
            raise ModelError(f"no {name}: check --model-path")
        raise ModelError(
            f"the model of {folder} was in {name}, and is not there now: put it back, or name its place with "
            "--model-path"
        )
    if options.dtype == "auto" and record["dtype"] in DTYPES:
        options = replace(options, dtype=record["dtype"])
    changed = _has_changed(name, record, given is not None)
    if changed:
        what = f"{name} has changed since {folder} was made" if given is None else f"{name} is not its model"
        if not getattr(options, "changed_model", False):
            raise ModelError(f"{what}: bring that back, or add --changed-model to go on with this one")
        say(f"{what}: the dictionaries are of another model (--changed-model)")
    return RunModel(name, revision, options, changed)


def _has_changed(name: str, record: Mapping[str, Any], moved: bool) -> bool:
    if MODEL not in record:
        return False
    if record[MODEL] is None and not moved:  # a Hub id, whose commit is loaded
        return False
    return NamedModel.named(name).fingerprint() != record[MODEL]
