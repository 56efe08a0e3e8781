"""The notebooks and scripts of examples/ run from top to bottom, and use the public Python API alone."""

import ast
import doctest
import json
import runpy
from pathlib import Path

import pytest
from fill_notebook import fill
from page_blocks import blocks, form

import itda

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PRINTED = {
    "compare_checkpoints.py": "layer_3",
    "forward_hook.py": "<ITDA of ",
    "own_embeddings.py": "An exception is raised",
    "prompt_to_pandas.py": "coefficient",
    "steer.py": "strength 16:",
    "what_changed.py": "numpy as zebra",
}
"""Of each script, what is printed among other things."""


def sources(path):
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_example_is_run_and_is_on_the_page_of_examples():
    assert NOTEBOOKS
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == sorted(PRINTED)
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert all(f"](../examples/{name})" in page for name in (*PRINTED, *(path.name for path in NOTEBOOKS)))


@pytest.mark.parametrize("name", PRINTED)
def test_a_script_runs_and_prints_what_it_is_about(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / name))
    printed = capsys.readouterr().out
    assert PRINTED[name] in printed
    if name == "what_changed.py":  # the page shows what it prints
        shown = form(blocks("examples.md", "Examples", "text")[0])
        assert doctest.OutputChecker().check_output(shown, form(printed), doctest.ELLIPSIS), printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_makes(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    fill(notebook)
    shown = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(shown), "each cell shows something"


@pytest.mark.parametrize("name", [*PRINTED, *(path.name for path in NOTEBOOKS)])
def test_an_example_uses_public_names_alone(name):
    for source in sources(ROOT / "examples" / name):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("itda"), node.module
            if isinstance(node, ast.Import):
                assert all(not alias.name.startswith("itda.") for alias in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "itda":
                assert node.attr in (*itda.__all__, "__file__")
