"""Memory for numbers that a pursuit goes through again and again: kept from block to block, in huge pages if it can be.

A processor looks up where a page is before it reads from it, and remembers some thousands of pages. Large arrays in
pages of 4 KiB make it forget; Linux has pages of 2 MiB for those who ask. NumPy asks too, but only where the C library
has not yet taken to reusing freed memory, which it does sooner or later in every process that runs for a while.
"""

import math
import mmap

import numpy as np

HUGE = 2**21
"""Bytes of a huge page."""


class Scratch:
    """Arrays that are reused from block to block, so that the system provides their memory only once."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Return an array of undefined content, in the memory of the last one of that name."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            # An eighth more than needed: a dictionary that grows asks for a little more each time.
            del buffer
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = in_huge_pages(size + size // 8, dtype)
        return buffer[:size].reshape(shape)


def in_huge_pages(size: int, dtype: type) -> np.ndarray:
    """Return a new array of so many numbers, in huge pages if it is large enough and the system has them.

    >>> in_huge_pages(2**20, float).shape
    (1048576,)
    """
    length = size * np.dtype(dtype).itemsize
    if length < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, dtype)
    try:
        room = mmap.mmap(-1, length + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        room.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel built without them; should memory be short, NumPy says so
        return np.empty(size, dtype)
    whole = np.frombuffer(room, np.uint8)  # keeps `room` until no array needs it
    start = -whole.ctypes.data % HUGE
    return whole[start : start + length].view(dtype)
