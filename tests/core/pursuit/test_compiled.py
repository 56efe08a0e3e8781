"""Compiled loops: kept on disk where that is possible, and the same where it is not."""

import errno
import pickle

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


def test_what_an_older_itda_kept_of_a_module_that_is_gone_is_compiled_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def make():
        @as_written
        def doubled(values):
            return 2 * values[0]

        return doubled

    assert make()(np.ones(1)) == 2
    (index,) = tmp_path.rglob("*.nbi")
    with index.open("rb") as file:
        version = pickle.load(file)
    gone = b"\x80\x04\x8c\x0emissing_module\x8c\x05Thing\x93."  # the pickle of a class that is nowhere
    index.write_bytes(pickle.dumps(version) + gone)
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(gone)
    assert make()(np.ones(1)) == 2
    assert gone not in index.read_bytes()
