"""Settings of the test run: property tests are deterministic, and nothing asks the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import sys

import pytest
import shape_checks
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("house")

TOGETHER = ("tests/explorer/", "tests/workers/")
"""Folders whose tests share a browser, or a cluster."""
LONG = (
    "tests/core/training/test_growth.py",
    "tests/core/pursuit/test_triton.py",
    "tests/explorer/",
    "tests/test_resume.py",
    "tests/workers/",
    "tests/core/training/test_trainer_whole.py",
    "tests/core/training/test_growth_device.py",
    "tests/sources/test_growth_on_tiny.py",
    "tests/test_cli.py",
    "tests/test_opened_again.py",
    "tests/test_index_command.py",
    "tests/test_docs.py",
    "tests/test_best.py",
    "tests/test_at_once.py",
)
"""What takes long. The first compiles the loops, which the second needs none of: else two processes compile them."""

shape_checks.check_everything()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests go to one process, and so do those of a folder that shares a browser or a cluster.

    xdist's own way, `--dist loadgroup`, does nothing under pytest 9.2.
    """
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False
    return Together(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items):
    """What takes long comes first, so that the processes end together."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: next((at for name, at in places.items() if item.nodeid.startswith(name)), len(LONG)))


@pytest.fixture(autouse=True)
def usual_memory():
    """A command that a test runs in its own process sets limits for the whole of it."""
    yield
    if memory := sys.modules.get("itda.core.memory"):
        memory.set_memory(None)
        memory.set_fast(False)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors are so small that a second thread only waits for the first; tests of thread counts set their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def standard_library_is_read_once():
    """Commands on python-docs read all of it, several times each: for a third of a second every time."""
    from itda.sources.corpora import corpus

    read = corpus._read_python_docs
    kept = functools.cache(lambda tests: tuple(read(tests)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_read_python_docs", lambda tests: iter(kept(tests)))
        yield
