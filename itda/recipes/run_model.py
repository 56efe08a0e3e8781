"""The language model of a run, found again: the same files, the same commit, the same dtype, or a refusal."""

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
"""The key in run.json; absent from older runs, whose models are taken as they are."""

T = TypeVar("T", bound=settings.ModelOptions)
Made = TypeVar("Made", settings.Train, settings.Harvest)


@dataclass(frozen=True)
class RunModel(Generic[T]):
    """What to load, and how."""

    name: str
    revision: str | None
    options: T
    changed: bool
    """Whether it is another model than that of the run, as the options allow."""


def located(options: Made, *, model: bool = True, corpus: bool = True) -> Made:
    """The settings with absolute paths where they name a model or a corpus on this machine.

    What was a folder when a run was made is then a folder for all that opens it again, wherever they run. `model` and
    `corpus` are False for those that were given as objects, whose names are no paths.
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
    """The model of the run in `folder`, whose run.json has `record`, with `dtype` auto replaced by the run's own.

    Raises `ModelError` if it is not there, or not the run's; with `changed_model` in the options, `say` is told that.
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
        what = f"{name} is not what it was when {folder} was made" if given is None else f"{name} is not its model"
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
