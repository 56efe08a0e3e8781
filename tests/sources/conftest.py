"""What the tests of shards share."""

import pytest
from sources.shards.shard_cases import direct, write


@pytest.fixture(scope="session")
def stream():
    """Activations of tiny as a source yields them."""
    return list(direct())


@pytest.fixture(scope="session")
def folder(stream, tmp_path_factory):
    """The same on disk: seven ranges of 96 tokens and one of 28."""
    return write(tmp_path_factory.mktemp("shards") / "whole", stream)
