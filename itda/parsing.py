"""Numbers, sizes and lists as people write them on a command line."""

from itda.errors import SettingError


def parse_count(text: str) -> int:
    """A number of tokens or atoms: 50000, 50k or 1.5M. Raises `SettingError`."""
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
    """A size of memory: 8G, 512M or 8000000000; G is 2^30. Raises `SettingError`."""
    power = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text.removesuffix("B").removesuffix("i")[-1:].lower(), 0)
    digits = text.removesuffix("B").removesuffix("i")[:-1] if power else text
    try:
        value = float(digits) * 2**power
    except ValueError:
        value = -1.0
    if not 2**20 <= value < 2**60:
        raise SettingError(f"{text!r} is not a size of memory: write it as 8G or 512M, at least 1M")
    return int(value)


MOST_LAYERS = 10_000
"""No model has as many: a larger number is a slip, and a list of all up to it would take a minute."""


def parse_layers(text: str) -> list[int]:
    """Layer numbers: 3,4-6 is 3, 4, 5 and 6. Raises `SettingError`."""
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal():
            raise SettingError(f"{text[:80]!r} is not a list of layers: write it as 3,4-6")
        if max(len(first), len(last)) > 9 or int(last) >= MOST_LAYERS:  # no list is made of what no model has
            raise SettingError(
                f"{text[:80]!r} has a layer of {MOST_LAYERS:,} or more: no model has so many, name fewer"
            )
        if int(last) < int(first):
            raise SettingError(f"{text[:80]!r} is not a list of layers: write it as 3,4-6")
        layers.update(range(int(first), int(last) + 1))
    return sorted(layers)
