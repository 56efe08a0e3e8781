"""A process in which Triton's kernels run: on a GPU where there is one, else in Triton's interpreter.

Triton decides when it is imported whether it interprets, so kernels run in a process of their own.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
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
        with suppress(ImportError):
            interpret()
    torch.set_num_threads(1)


def interpret() -> None:
    """Have this process interpret kernels, several times as fast as Triton does; call it before Triton is imported.

    Triton's interpreter replaces the functions of its language by its own. It does so at each launch of a kernel, which
    must be, as the end of a launch undoes it, and again whenever a kernel calls a function, which takes most of the
    time. Here calls do it once for each module, for what the launch does not replace: that is never undone.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    patched: set[int] = set()

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        names = id(self.fn.__globals__)
        if names not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(names)
        return self.rewrite()(*arguments, **named)

    interpreter.InterpretedFunction.__call__ = call
