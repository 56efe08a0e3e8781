"""One thread for the tests of the core: their tensors are small, and threads that wait for each other cost 10 times
as much on a busy machine. The tests of thread counts set their own."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
