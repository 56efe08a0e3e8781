"""Parsing of the text that people type: into numbers, sizes of memory, layers and sites, and back to text."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from itda.core.site import STREAMS, Site, Stream
from itda.errors import SettingError

MOST_LAYERS = 10_000
"""A number of layers that no model has: a larger number is a slip, and its list would take a minute to make."""


@dataclass(frozen=True)
class Kind:
    """A type of setting: the word for it in the help, and how it is read from text and written as text."""

    word: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def parse_number(text: str) -> float:
    """Read a number. Raises `SettingError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise SettingError(f"{text[:80]!r} is not a number: write it as 0.25 or 3")
    return value


def parse_whole_number(text: str) -> int:
    """Read a whole number. Raises `SettingError`."""
    try:
        return int(text)
    except ValueError:
        raise SettingError(f"{text[:80]!r} is not a whole number: write it as 40") from None


def one_of(choices: Sequence[str]) -> Kind:
    """Return the type of a setting that is one of some words.

    >>> one_of(("mp", "omp")).word
    'one of: mp, omp'
    """

    def read(text: str) -> str:
        if text not in choices:
            raise SettingError(f"{text[:80]!r} is not one of {', '.join(choices)}{meant(text, choices)}")
        return text

    return Kind(f"one of: {', '.join(choices)}", read)


def meant(text: str, words: Sequence[str]) -> str:
    """Return the question for what was meant by a slip of the pen, or '' where no word is near.

    >>> meant("--tokns", ["--tokens", "--layers"])
    '; did you mean --tokens?'
    """
    near = get_close_matches(text, words, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def parse_count(text: str) -> int:
    """Read a number of tokens or atoms: 50000, 50k or 1.5M. Raises `SettingError`."""
    factor = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    try:
        value = float(digits) * factor
    except ValueError:
        value = -1.0
    if not (0 < value < 1e15 and value == int(value)):
        raise SettingError(f"{text!r} is not a number of tokens: write it as 50000, 50k or 1.5M")
    return int(value)


def parse_bytes(text: str) -> int:
    """Read a size of memory: 8G, 512M or 8000000000; G is 2^30. Raises `SettingError`."""
    power = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text.removesuffix("B").removesuffix("i")[-1:].lower(), 0)
    digits = text.removesuffix("B").removesuffix("i")[:-1] if power else text
    try:
        value = float(digits) * 2**power
    except ValueError:
        value = -1.0
    if not 2**20 <= value < 2**60:
        raise SettingError(f"{text!r} is not a size of memory: write it as 8G or 512M, at least 1M")
    return int(value)


def parse_free_bytes(text: str) -> int:
    """Read a scratch folder or a size; return the bytes that are free there. Raises `SettingError`."""
    if Path(text).is_dir():
        return shutil.disk_usage(text).free
    try:
        return parse_bytes(text)
    except SettingError:
        raise SettingError(f"no folder {text!r} for --scratch: name one, or how much is free, such as 500G") from None


def parse_layers(text: str) -> tuple[int, ...]:
    """Read layer numbers: 3,4-6 is 3, 4, 5 and 6. Raises `SettingError`.

    >>> parse_layers("blocks.3.hook_resid_post,5")
    (3, 5)
    """
    layers: set[int] = set()
    for part in text.split(","):
        if part.strip().startswith("blocks."):
            layers.add(_layer_of_hook(part.strip()))
            continue
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal():
            raise SettingError(f"{text[:80]!r} is not a list of layers: write it as 3,4-6")
        if max(len(first), len(last)) > 9 or int(last) >= MOST_LAYERS:  # do not make a list of millions of layers
            raise SettingError(
                f"{text[:80]!r} has a layer of {MOST_LAYERS:,} or more: no model has so many, name fewer"
            )
        if int(last) < int(first):
            raise SettingError(f"{text[:80]!r} is not a list of layers: write it as 3,4-6")
        layers.update(range(int(first), int(last) + 1))
    return tuple(sorted(layers))


def _layer_of_hook(name: str) -> int:
    """Return the layer of a hook's name, which is to be that of a block's output. Raises `SettingError`."""
    site = Site.parse(name)
    if site.stream != "resid_post":
        raise SettingError(f"{name} is no layer: write --layers {site.layer} --streams {site.stream}")
    return site.layer


def parse_any_layers(text: str) -> tuple[int, ...]:
    """Read layer numbers, or `all`, which is (). Raises `SettingError`."""
    return () if text == "all" else parse_layers(text)


def parse_streams(text: str) -> tuple[Stream, ...]:
    """Read the names of streams: resid_post,mlp_out. Raises `SettingError`."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in STREAMS:
            raise SettingError(f"no stream {name!r}: use {', '.join(STREAMS)}")
    return tuple(name for name in STREAMS if name in names)


def parse_site(text: str) -> Site:
    """Read a layer (3) or a site (3.mlp_out). Raises `SettingError`."""
    return Site.parse(text.strip())


def parse_some_sites(text: str) -> tuple[Site, ...]:
    """Read several layers or sites with commas: 2.mlp_out,3. Raises `SettingError`."""
    return tuple(parse_site(part) for part in text.split(","))


def parse_names(text: str) -> tuple[str, ...]:
    """Return names with commas between them, without white space around them.

    >>> parse_names("100_news_fake, 5_hist_fig_ismale")
    ('100_news_fake', '5_hist_fig_ismale')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_atom_numbers(text: str) -> tuple[int, ...]:
    """Read numbers of atoms: 3,17,25. Raises `SettingError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise SettingError(f"{text!r} is not a list of atoms: write it as 3,17,25")
    return tuple(sorted({int(part) for part in parts}))


def parse_strengths(text: str) -> tuple[float, ...]:
    """Read strengths of steering: 2,4,-8. Raises `SettingError`.

    >>> parse_strengths("2, 0.5,-8")
    (2.0, 0.5, -8.0)
    """
    values = []
    for part in text.split(","):
        try:
            values.append(float(part))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise SettingError(f"{text[:80]!r} is not a list of strengths: write it as 2,4,8")
    return tuple(values)


def shown_bytes(size: int) -> str:
    """Write a size as `parse_bytes` reads it, in the largest unit that gives a whole number.

    >>> shown_bytes(8 * 2**30), shown_bytes(2**20 + 1)
    ('8G', '1048577')
    """
    for unit, power in (("G", 30), ("M", 20)):
        if size % 2**power == 0:
            return f"{size >> power}{unit}"
    return str(size)


def shown_count(count: int) -> str:
    """Write a number of tokens as `parse_count` reads it, in the largest unit that gives a whole number.

    >>> shown_count(1_000_000), shown_count(20_000), shown_count(1_234)
    ('1M', '20k', '1234')
    """
    for unit, factor in (("M", 1_000_000), ("k", 1_000)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def listed(values: Sequence[object]) -> str:
    """Write a list of numbers or sites with commas, as the functions above read it.

    >>> listed((2, 4)), listed((Site(3, "mlp_out"), Site(5)))
    ('2,4', '3.mlp_out,5')
    """
    return ",".join(value.short if isinstance(value, Site) else str(value) for value in values)


Count = Annotated[int, Kind("number", parse_count, shown_count)]
Bytes = Annotated[int, Kind("size", parse_bytes, shown_bytes)]
FreeBytes = Annotated[int, Kind("folder or size", parse_free_bytes, shown_bytes)]
LayerNumbers = Annotated[tuple[int, ...], Kind("layers", parse_layers, listed)]
AnyLayers = Annotated[tuple[int, ...], Kind("layers", parse_any_layers, lambda layers: listed(layers) or "all")]
SomeStreams = Annotated[tuple[Stream, ...], Kind("streams", parse_streams, listed)]
OneSite = Annotated[Site, Kind("layer", parse_site, lambda site: site.short)]
SomeSites = Annotated[tuple[Site, ...], Kind("layers", parse_some_sites, listed)]
AtomNumbers = Annotated[tuple[int, ...], Kind("atoms", parse_atom_numbers, listed)]
Numbers = Annotated[tuple[int, ...], Kind("numbers", parse_atom_numbers, listed)]
Strengths = Annotated[
    tuple[float, ...], Kind("numbers", parse_strengths, lambda values: listed([f"{value:g}" for value in values]))
]
Names = Annotated[tuple[str, ...], Kind("names", parse_names, ",".join)]
File = Annotated[Path, Kind("file", Path)]
"""A path of a file; a plain `Path` is one of a folder."""
