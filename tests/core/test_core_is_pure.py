"""The core is mathematics: no module of it opens files, reads the environment or the clock, or starts processes."""

import ast
from pathlib import Path

import pytest

import itda

CORE = Path(itda.__file__).parent / "core"
MODULES = {path.relative_to(CORE).as_posix(): path for path in sorted(CORE.rglob("*.py"))}

IMPURE_MODULES = {
    *("datetime", "glob", "importlib.resources", "importlib.util", "io", "mmap", "os", "pathlib", "platform", "psutil"),
    *("requests", "secrets", "shutil", "socket", "subprocess", "tempfile", "time", "urllib"),
}
IMPURE_NAMES = {
    *("environ", "exec", "find_spec", "fromfile", "getenv", "input", "load", "loadtxt", "memmap", "monotonic", "open"),
    *("perf_counter", "read_bytes", "read_text", "save", "savetxt", "savez", "tofile", "write_bytes", "write_text"),
}
"""Of functions, methods and attributes."""

FROM_MEMORY = ("tl", "builder")
"""What loads from memory, not from a file."""

ALLOWED = {
    ("dictionary.py", "pathlib"): "ITDA.save_pretrained and from_pretrained hand a path on to itda.store",
    ("pursuit/compiled.py", "cache=True"): "numba keeps what it compiled in __pycache__",
    ("pursuit/compiled.py", "pathlib"): "what numba keeps is of use as long as its sources are the same",
    ("pursuit/compiled.py", "read_bytes"): "the sources, to see whether they are",
    ("pursuit/scratch.py", "mmap"): "memory that no file is behind, in huge pages",
    ("pursuit/threads.py", "os"): "register_at_fork: a forked process has none of its parent's threads",
}
"""Module of the core and what it uses, with the reason."""


def impure(source: str) -> set[str]:
    """Modules imported and names used, anywhere in a source, that reach outside of the program.

    Triton's `tl.load` and the `builder.load` of LLVM do not: they are from memory.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name for alias in node.names if (name := _outside(alias.name))}
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name for given in names if (name := _outside(given))}
            found |= {alias.name for alias in node.names if alias.name in IMPURE_NAMES}
        elif isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in IMPURE_NAMES:
            found |= set() if ast.unparse(node.value) in FROM_MEMORY else {node.attr}
        elif isinstance(node, ast.keyword) and node.arg == "cache" and ast.unparse(node.value) == "True":
            found.add("cache=True")
    return found


def _outside(module: str) -> str | None:
    """The entry of `IMPURE_MODULES` that a module is, or is part of."""
    return next((m for m in IMPURE_MODULES if module == m or module.startswith(f"{m}.")), None)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_of_the_core_reaches_outside(name):
    found = impure(MODULES[name].read_text())
    assert found == {what for module, what in ALLOWED if module == name}, f"core/{name} uses {found}"


def test_exceptions_are_of_modules_that_exist_and_have_a_reason():
    assert {module for module, _ in ALLOWED} <= MODULES.keys()
    assert all(ALLOWED.values())


def test_threads_ask_the_system_for_nothing_but_forks():
    """What the exception above allows, and no more."""
    tree = ast.parse(MODULES["pursuit/threads.py"].read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "os"}
    assert used == {"register_at_fork"}


PLANTED = {
    "def f():\n    with open('x') as file:\n        pass": {"open"},
    "import time\n\ndef f():\n    return time.monotonic()": {"time", "monotonic"},
    "from time import perf_counter": {"time", "perf_counter"},
    "import os.path": {"os"},
    "from os import environ": {"os", "environ"},
    "def f():\n    from pathlib import Path\n    return Path('x').read_text()": {"pathlib", "read_text"},
    "import importlib.util": {"importlib.util"},
    "from importlib import util": {"importlib.util"},
    "import torch\ntorch.load('x')": {"load"},
    "import numpy as np\nnp.memmap('x')": {"memmap"},
    "import subprocess": {"subprocess"},
    "import numba\nnumba.njit(cache=True)(f)": {"cache=True"},
}


@pytest.mark.parametrize("source", PLANTED)
def test_the_walk_sees_what_is_planted(source):
    assert impure(source) == PLANTED[source]


def test_the_walk_lets_mathematics_pass():
    assert (
        impure("import math\nfrom itda.core.code import SparseCode\n\ndef timed(x):\n    return math.sqrt(x)") == set()
    )
