"""A process in which Triton's kernels run: on a GPU where there is one, else in Triton's interpreter.

Triton decides when it is imported whether it interprets, so kernels run in a process of their own.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


@contextmanager
def triton_worker(*, interprets: bool = not GPU) -> Iterator[Callable[..., Any]]:
    """Give a function that calls its first argument, a function of a module, with the others in that process."""
    with ProcessPoolExecutor(1, get_context("spawn"), _set_up, [interprets]) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _set_up(interprets: bool) -> None:
    if interprets:
        os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
