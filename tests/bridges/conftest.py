"""A made-up run of two sites with an index, which no model has made."""

from pathlib import Path

import pytest
from made_up_run import make_run

from itda import Site
from itda.bridges.indexed import Indexed
from itda.store.records import open_record

SITES = (Site(1), Site(3, "mlp_out"))


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run with all that a dictionary can have, and an index of 1,000 tokens."""
    folder = tmp_path_factory.mktemp("made") / "run"
    make_run(folder, sites=SITES)
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory) -> Path:
    """A run of atoms with labels and nothing else, of 100 tokens."""
    folder = tmp_path_factory.mktemp("made") / "bare"
    make_run(folder, sites=(Site(2),), tokens=100, rich=False)
    return folder


@pytest.fixture(scope="session")
def sources(run) -> list[Indexed]:
    record = open_record(run)
    return [Indexed.open(record, site) for site in SITES]
