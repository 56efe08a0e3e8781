"""Memory that is kept from block to block."""

import mmap

import numpy as np
import pytest

from itda.core.pursuit.scratch import HUGE, Scratch, in_huge_pages


def test_an_array_is_in_the_memory_of_the_last_one_of_its_name_while_it_fits():
    scratch = Scratch()
    first = scratch.array("c", (600, 1000), np.float32)
    assert np.shares_memory(first, scratch.array("c", (650, 1000), np.float32))
    assert not np.shares_memory(first, scratch.array("c", (700, 1000), np.float32))
    assert not np.shares_memory(first, scratch.array("first", (600, 1000), np.float32))


@pytest.mark.parametrize("size", [0, 1, HUGE // 8 - 1, HUGE // 8, HUGE // 8 + 1, HUGE])
def test_all_of_an_array_can_be_written_and_read(size):
    array = in_huge_pages(size, np.float64)
    assert array.shape == (size,)
    assert array.dtype == np.float64
    assert array.flags.c_contiguous
    assert array.flags.aligned
    assert array.flags.writeable
    array[:] = np.arange(size)
    assert np.array_equal(array, np.arange(size))


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no huge pages")
def test_a_large_array_begins_with_a_huge_page():
    assert in_huge_pages(HUGE, np.int16).ctypes.data % HUGE == 0


class Refusing(mmap.mmap):
    def madvise(self, *_: object) -> None:
        raise OSError("no huge pages")


@pytest.mark.parametrize("missing", ["the name", "the pages"])
def test_without_huge_pages_an_array_is_one_of_numpy(monkeypatch, missing):
    if missing == "the name":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(mmap, "mmap", Refusing)
    array = in_huge_pages(HUGE, np.int16)
    assert array.base is None
    assert array.shape == (HUGE,)
