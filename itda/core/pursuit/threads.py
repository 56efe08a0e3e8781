"""Threads for compiled loops that release the interpreter lock; as many as torch has, so one setting is for both."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

PARTS = 8
"""Parts of the work per thread: rows differ in cost, and a thread that is done takes the next part."""

_pools: dict[int, ThreadPoolExecutor] = {}


def over_rows(loop: Callable[..., Any], rows: np.ndarray, *args: object) -> None:
    """Run `loop(rows, *args)` with the rows spread over threads. Rows must not depend on one another."""
    threads = torch.get_num_threads()
    if threads == 1 or len(rows) == 1:
        loop(rows, *args)
        return
    if not len(rows):
        return
    parts = np.array_split(rows, min(len(rows), threads * PARTS))
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="itda")
    futures = [_pools[threads].submit(loop, part, *args) for part in parts]
    try:
        for future in futures:
            future.result()
    finally:  # interrupted, too: what they write to may be moved once this returns
        wait(futures)


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pools.clear)
