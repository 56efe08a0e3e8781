"""Settings of the test run: property tests are deterministic, and nothing asks the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("house")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors are so small that a second thread only waits for the first; tests of thread counts set their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
