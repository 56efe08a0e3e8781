"""Keyword arguments of the Python API, turned into the settings of a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from itda.core.site import STREAMS, Site, Stream
from itda.errors import SettingError

Settings = TypeVar("Settings")


def made(kind: type[Settings], **given: Any) -> Settings:
    """Make a command's settings of keyword arguments. Raises `SettingError` for a name that it does not have."""
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType] - a dataclass
    for name in given:
        if name not in known:
            usual = ", ".join(each for each in known if each not in ("json", "quiet"))
            raise SettingError(f"no setting {name!r}: use one of {usual}")
    return kind(**given)


def layers_of(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Layer numbers in ascending order, from one or several. Raises `SettingError`."""
    several = (layers,) if isinstance(layers, int) else tuple(layers)
    if not several or not all(isinstance(layer, int) and layer >= 0 for layer in several):
        raise SettingError(f"layers are {layers!r}: give one number, or a list of numbers such as [2, 4]")
    return tuple(sorted(set(several)))


def streams_of(streams: str | Sequence[str]) -> tuple[Stream, ...]:
    """Names of streams, from one or several. Raises `SettingError`."""
    several = [streams] if isinstance(streams, str) else list(streams)
    for name in several:
        if name not in STREAMS:
            raise SettingError(f"no stream {name!r}: use {', '.join(STREAMS)}")
    return tuple(name for name in STREAMS if name in several)


def site_of(site: Site | str | int | None) -> Site | None:
    """A site from its layer, its name (`3.mlp_out`), or itself. Raises `SettingError`."""
    return Site.of(site) if site is not None else None


def path_of(path: str | Path) -> Path:
    """A path, with ~ for the home folder."""
    return Path(path).expanduser()
