"""The rules of the house about imports: one way only, nothing heavy at `import itda`, small modules."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import itda

PACKAGE = Path(itda.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# What settings and records need: nothing heavy.
LIGHT = {"errors", "core", "files", "terminal", "checks", "config", "version", "parsing", "resolving"}

# What each room may import from, besides itself. `itda` alone is the package's own names, for no room inside it.
ALLOWED = {
    "errors": set(),
    "version": set(),
    "machine": set(),
    "core": {"errors", "machine"},
    "files": {"errors"},
    "store": {"errors", "core", "files"},
    "sources": {"errors", "core", "files"},
    "workers": {"errors", "core", "sources"},
    "evaluation": {"errors", "core", "sources"},
    "explorer": {"errors", "core", "files", "store", "sources"},
    "parsing": {"errors", "core"},
    "config": {"errors", "core", "parsing"},
    "resolving": {"errors", "core", "config", "parsing"},
    "progress": set(),
    "terminal": {"errors"},
    "checks": {"errors", "core", "files", "store", "sources", "config", "resolving", "terminal"},
    "recipes": {"machine", "store", "sources", "workers", "evaluation", "explorer"} | LIGHT,
    "report": {"errors", "core", "parsing", "store", "evaluation", "recipes"},
    "plots": {"errors", "core", "recipes"},
    "cli": {"store", "sources", "evaluation", "progress", "recipes", "report", "plots"} | LIGHT,
    # The similarity indices, one call each: what `itda.similarity` is.
    "similarity": {"core"},
    "__init__": {"errors", "core", "similarity", "version"},
}
# ITDA.save_pretrained, from_pretrained and push_to_hub: where people look for them first.
EXCEPTIONS = {("core/dictionary.py", "store")}


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(source: str) -> set[str]:
    """Rooms of `itda` that a module imports, anywhere in it, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == "itda"]
    return {part[1] if len(part) > 1 and part[1] in ALLOWED else "__init__" for part in parts}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_go_one_way(module: Path):
    room = room_of(module)
    name = module.relative_to(PACKAGE).as_posix()
    forbidden = rooms_imported(module.read_text()) - ALLOWED[room] - {room}
    forbidden -= {other for file, other in EXCEPTIONS if file == name}
    if module.name == "cli.py":
        forbidden -= {"__init__"}  # set_memory and set_fast
    assert not forbidden, f"{name} imports {forbidden}"


def test_the_import_walk_sees_imports_within_functions():
    assert rooms_imported("def f():\n    from itda.store.dictionaries import read_json") == {"store"}
    assert rooms_imported("import itda") == {"__init__"}


def imported_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


HEAVY = {"torch", "transformers", "numba", "datasets", "pyarrow", "starlette", "uvicorn", "matplotlib"}


def test_importing_itda_loads_nothing_heavy_until_a_name_is_asked_for():
    assert not imported_after("import itda") & (HEAVY | {"numpy", "huggingface_hub", "tyro"})
    loaded = imported_after("import itda; itda.ITDA")
    assert "torch" in loaded
    assert not loaded & {"transformers", "datasets", "huggingface_hub", "pyarrow", "starlette", "uvicorn", "tyro"}


def test_importing_the_command_line_loads_nothing_heavy():
    assert not imported_after("import itda.cli") & (HEAVY | {"itda.recipes"})


def test_public_names_are_sorted_and_exist():
    assert itda.__all__ == sorted(itda.__all__)
    assert 10 <= len(itda.__all__) <= 40
    assert all(hasattr(itda, name) for name in itda.__all__)
    assert set(itda.__all__) <= set(dir(itda))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        itda.Nothing  # noqa: B018


def test_every_public_name_has_a_docstring():
    for name in itda.__all__:
        assert getattr(itda, name).__doc__, name


def test_modules_are_small():
    lines = [len(module.read_text().splitlines()) for module in MODULES]
    assert statistics.median(lines) < 150
    assert max(lines) <= 500
