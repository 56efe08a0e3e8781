"""The header of a GGUF file, which lists its tensors and their types. No tensor is read."""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from itda.errors import ModelError

MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The `struct` format of each type of metadata that has a fixed size."""
STRING, ARRAY = 8, 9
ALIGNMENT = 32


@dataclass(frozen=True)
class GgufHeader:
    """The facts in the header of a GGUF file."""

    path: Path
    architecture: str
    file_type: int | None
    """The number of the file's own quantisation type; None if the header has none."""
    numbers: Counter[int]
    """How many weights there are of each tensor type."""

    @property
    def quantisation(self) -> str:
        """The commonest type of the weights, and the file's own, in words."""
        from gguf.constants import GGMLQuantizationType, LlamaFileType

        weights = sum(self.numbers.values())
        most, number = self.numbers.most_common(1)[0]
        try:
            own = LlamaFileType(self.file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:  # none is given, or a newer one
            own = "not said"
        return (
            f"{GGMLQuantizationType(most).name} ({100 * number // weights}% of the weights; a GGUF file of type {own})"
        )

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(self.numbers.values())

    @staticmethod
    def read(path: Path) -> GgufHeader:
        """Read the header of a file. Raises `ModelError` if it is cut short, or is not in GGUF."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parsed(path, _Reader(data))
        except (ValueError, struct.error, OverflowError, KeyError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} is damaged, or no GGUF file ({error}): download it again") from error
        except OSError as error:
            raise ModelError(f"cannot read {path} ({error.strerror}): check its permissions") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place = data, 0

    def numbers(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{count}{kind}", self.data, self.place)
        self.place += struct.calcsize(f"<{count}{kind}")
        return found

    def text(self) -> bytes:
        (length,) = self.numbers("Q")
        if self.place + length > len(self.data):
            raise ValueError("it is cut short")
        self.place += length
        return self.data[self.place - length : self.place]

    def value(self, kind: int) -> Any:
        """Read a number or a text; skip an array, and return None."""
        if kind in NUMBERS:
            return self.numbers(NUMBERS[kind])[0]
        if kind == STRING:
            return self.text().decode()
        if kind != ARRAY:
            raise ValueError(f"metadata of the unknown type {kind}")
        (inner,), (count,) = self.numbers("I"), self.numbers("Q")
        if inner in NUMBERS:
            self.place += count * struct.calcsize(f"<{NUMBERS[inner]}")
            return None
        for _ in range(count):
            self.value(inner)
        return None


def _parsed(path: Path, reader: _Reader) -> GgufHeader:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if reader.data[:4] != MAGIC:
        raise ValueError("it does not begin with GGUF")
    reader.place = 4
    (version,) = reader.numbers("I")
    if version not in VERSIONS:
        raise ModelError(f"{path} is GGUF of version {version}, which is not read: convert the model anew")
    tensors, entries = reader.numbers("Q", 2)
    metadata = {}
    for _ in range(entries):
        name = reader.text().decode()
        metadata[name] = reader.value(reader.numbers("I")[0])
    numbers: Counter[int] = Counter()
    end = 0
    for _ in range(tensors):
        reader.text()
        shape = reader.numbers("Q", reader.numbers("I")[0])
        kind, offset = reader.numbers("I")[0], reader.numbers("Q")[0]
        numbers[kind] += prod(shape)
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = max(end, offset + prod(shape) // block * size)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    start = -(-reader.place // alignment) * alignment
    if start + end > len(reader.data):
        raise ValueError(f"it is cut short, {len(reader.data):,} of {start + end:,} bytes")
    if not numbers:
        raise ValueError("it holds no tensors")
    return GgufHeader(path, str(metadata.get("general.architecture")), metadata.get("general.file_type"), numbers)
