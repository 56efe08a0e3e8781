"""A store for the hidden states between two blocks, of all groups in flight: in memory, or in a mapped file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itda.errors import StoreError

ALIGNMENT = 64
"""Each hidden state begins at a multiple of so many bytes, as torch's tensors do: elsewhere, products may differ."""


class HiddenStates:
    """A store of hidden states, one tensor for each key, all of one shape and dtype; in a file if a folder is given.

    The file has no name, and vanishes with the store. All states are copied into one block of memory, made for `room`
    of them: if each stayed where it was computed, memory would be fragmented.

    >>> hidden = HiddenStates(None)
    >>> hidden.put(0, torch.ones(2))
    >>> hidden.get(0)
    tensor([1., 1.])
    """

    def __init__(self, folder: Path | None, room: int = 0) -> None:
        self._folder, self._room = folder, room
        self._held: dict[Hashable, Tensor] = {}
        self._free: list[Tensor] = []
        """The memory of hidden states that were dropped, to be used again."""
        self._block: Tensor | None = None
        self._used = 0

    def get(self, key: Hashable) -> Tensor:
        """Return the hidden state of a key."""
        return self._held[key]

    def put(self, key: Hashable, state: Tensor) -> None:
        """Keep a hidden state in place of the key's last one. Raises `StoreError` without space."""
        if key not in self._held:
            self._held[key] = self._slot(state)
        self._held[key].copy_(state)

    def keys(self) -> list[Any]:
        """List the keys that have a hidden state, in the order in which they came."""
        return list(self._held)

    def drop(self, key: Hashable) -> None:
        """Forget a hidden state; its memory is used again."""
        self._free.append(self._held.pop(key))

    def _slot(self, like: Tensor) -> Tensor:
        if self._free:
            return self._free.pop()
        size = math.ceil(like.numel() * like.dtype.itemsize / ALIGNMENT) * ALIGNMENT // like.dtype.itemsize
        if self._block is None or self._used + size > len(self._block):
            numbers, self._used = size * max(1, self._room), 0
            in_memory = self._folder is None
            self._block = torch.empty(numbers, dtype=like.dtype) if in_memory else self._file(numbers, like.dtype)
        slot = self._block[self._used : self._used + like.numel()].view(like.shape)
        self._used += size
        return slot

    def _file(self, size: int, dtype: torch.dtype) -> Tensor:
        assert self._folder is not None
        length = size * dtype.itemsize
        descriptor, name = tempfile.mkstemp(prefix="itda-states-", dir=self._folder)
        try:
            # Take all space now: a full disk raises an error here, but kills the process when a page is written.
            os.posix_fallocate(descriptor, 0, length)
            return torch.from_file(name, shared=True, size=size, dtype=dtype)
        except OSError as error:
            raise StoreError(
                f"no room for {length / 1e9:.1f} GB of hidden states in {self._folder} ({error.strerror}): name "
                "another folder with --scratch, or give more memory with --model-memory"
            ) from error
        finally:
            os.close(descriptor)
            Path(name).unlink()  # the map keeps it; nobody has to clean up
