"""The rules of the house about imports: one way only, no circles, nothing heavy at `import itda`, small modules.

`scripts/house.py` walks the imports; docs/architecture.md tells the rules in words.
"""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import house
import pytest
import rooms

import itda

FOLDER = Path(itda.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"))
PACKAGE = house.Package(FOLDER)
ARCHITECTURE = FOLDER.parent / "docs" / "architecture.md"

# What each room may import from, besides itself; docs/architecture.md has the same table, and says what each room is.
# `core` imports no files, `parsing`, `config` and `resolving` nothing heavy. `__init__` hands out the public names of
# every room, and imports each when it is asked for.
LOW = {"errors", "files", "core"}
SETTINGS = {"parsing", "config", "resolving", "checks", "terminal", "version"}
MIDDLE = {*LOW, "machine", "store", "sources", "workers"}
READERS = {"evaluation", "steering", "diffing", "explorer"}
ALLOWED = {
    "errors": set(),
    "version": set(),
    "machine": set(),
    "files": {"errors"},
    "core": {"errors", "machine"},
    "similarity": {"core", "errors"},
    "store": {*LOW, "machine"},
    "sources": {*LOW, "machine"},
    "workers": {*LOW, "machine", "sources"},
    "evaluation": MIDDLE,
    "steering": MIDDLE,
    "explorer": {*MIDDLE, "steering"},
    "diffing": MIDDLE,
    "parsing": {"errors", "core"},
    "options": {"errors", "core", "parsing"},
    "config_prompts": {"errors", "core", "options", "parsing"},
    "config": {"errors", "core", "options", "parsing", "config_prompts"},
    "resolving": {"errors", "core", "config", "parsing"},
    "terminal": {"errors"},
    "progress": set(),
    "checks": {*LOW, *SETTINGS, "store", "sources"} - {"checks", "version"},
    "recipes": {*MIDDLE, *READERS, *SETTINGS},
    "bridges": {*MIDDLE, *READERS, *SETTINGS, "recipes"},
    "report": {*MIDDLE, *READERS, *SETTINGS, "recipes", "bridges"},
    "api": {*MIDDLE, *READERS, *SETTINGS, "progress", "recipes", "bridges", "report"},
    "plots": {"errors", "files", "core", "recipes"},
    "demo": {*MIDDLE, *READERS, *SETTINGS, "progress", "recipes", "report"},
    "commands": {*MIDDLE, *READERS, *SETTINGS, "options", "progress", "recipes", "bridges", "report", "plots", "demo"},
    "cli": {"checks", "commands", "config", "errors", "files", "parsing", "store", "terminal", "version"},
    "__main__": {"cli"},
    "__init__": {*MIDDLE, *READERS, *SETTINGS, "similarity", "recipes", "bridges", "api"},
}
# ITDA.save_pretrained, from_pretrained and push_to_hub: where people look for them first.
EXCEPTIONS = {("core/dictionary.py", "store")}


@pytest.mark.parametrize("file", PACKAGE.trees)
def test_imports_go_one_way(file: str):
    room = house.room_of(file)
    assert room in ALLOWED, f"{file} is in no room: add it to the table here and in docs/architecture.md"
    imported = {house.room_of(other) for _, other in PACKAGE.imports(file, typing=True)}
    forbidden = imported - ALLOWED[room] - {room} - {other for f, other in EXCEPTIONS if f == file}
    assert not forbidden, f"{file} imports {forbidden}"


def test_imports_run_in_no_circle():
    assert [circle for circle in house.circles(PACKAGE) if not house.intended(circle)] == []


def test_the_walk_sees_imports_within_functions_and_passes_over_those_for_types(tmp_path):
    folder = tmp_path / "itda"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "a.py").write_text("def f():\n    from itda import b\n    import itda.c\n")
    (folder / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from itda.a import f\n")
    (folder / "c.py").write_text("from itda.a import f\n")
    package = house.Package(folder)
    assert [other for _, other in package.imports("a.py")] == ["b.py", "c.py"]
    assert [other for _, other in package.imports("b.py")] == []
    assert [other for _, other in package.imports("b.py", typing=True)] == ["a.py"]
    assert house.circles(package) == [["a.py", "c.py"]]


def test_docs_tell_the_rules_that_are_held():
    text = ARCHITECTURE.read_text()
    rows = re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\| ([^|]*) \|$", text, re.MULTILINE)
    told = {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows}
    assert told == {room: set(others) for room, others in ALLOWED.items() if room != "__init__"}
    chain = re.search(r"^errors.* <- .*$", text, re.MULTILINE)
    assert chain
    steps = [set(re.findall(r"\w+", step)) for step in chain[0].split(" <- ")]
    for number, step in enumerate(steps):
        later = set().union(*steps[number + 1 :])
        assert not [room for room in step if ALLOWED[room] & later], step


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_the_pages_for_contributors_name_exist(page: str):
    text = (FOLDER.parent / page).read_text()
    named = re.findall(r"`((?:itda|tests|docs|scripts|benchmarks)/[\w./-]+|[A-Z][\w.]+\.md)`", text)
    linked = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [name for name in named if not (FOLDER.parent / name).exists()] == []
    assert [link for link in linked if not (FOLDER.parent / page).parent.joinpath(link).exists()] == []
    assert page == "CONTRIBUTING.md" or len(named) > 30


def test_files_that_make_quick_runs_exist():
    named = re.findall(r"\btests/[\w./]+(?:::\w+)?", (FOLDER.parent / "Makefile").read_text())
    assert len(named) > 10
    for name in named:
        file, _, test = name.partition("::")
        assert (FOLDER.parent / file).exists(), f"{file} is gone: mend QUICK in the Makefile"
        assert not test or f"def {test}(" in (FOLDER.parent / file).read_text(), f"{name} is gone"


def test_the_picture_of_the_rooms_is_that_of_the_chain():
    assert rooms.DRAWING.read_text() == rooms.drawing(), "draw it again: python scripts/rooms.py"


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


def test_what_opens_runs_and_models_loads_no_models_of_transformers_until_one_is_opened():
    modules = "itda.recipes.explore, itda.bridges.export"
    loaded = imported_after(f"import itda; itda.compare; itda.load_model; import {modules}")
    assert "itda.sources.streamed.model" in loaded
    assert not loaded & {"transformers.modeling_utils", "transformers.tokenization_utils_base", "torch._dynamo"}


def test_importing_the_command_line_loads_nothing_heavy():
    assert not imported_after("import itda.cli") & (HEAVY | {"itda.recipes"})


def test_public_names_are_sorted_and_exist():
    assert itda.__all__ == sorted(itda.__all__)
    assert 10 <= len(itda.__all__) <= 48
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
