"""Compiled loops: kept on disk where that is possible, and the same where it is not."""

import errno

import numba
import numpy as np
import pytest
from numba.core import caching

from itda.core.pursuit.compiled import as_written


@pytest.mark.parametrize("method", ["_save_index", "_save_data"])
def test_on_a_full_disk_a_loop_runs_and_is_not_kept(monkeypatch, tmp_path, method):
    tried = []
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def full(*arguments):
        tried.append(arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    @as_written
    def total(values):
        found = 0.0
        for value in values:
            found += value
        return found

    monkeypatch.setattr(caching.IndexDataCacheFile, method, full)
    assert total(np.arange(5.0)) == 10
    assert tried
    assert not list(tmp_path.rglob("*.nbc"))
