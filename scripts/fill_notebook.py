"""Run a notebook's cells in order and keep what they show in it, without a Jupyter server.

python scripts/fill_notebook.py examples/from_python.ipynb
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run_cell(code: str, names: dict[str, Any]) -> tuple[str, Any]:
    """Run the code of a cell in a namespace; return what it prints, and the value of its last expression."""
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        value = (
            eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if isinstance(last, ast.Expr) else None
        )
    return printed.getvalue(), value


def shown(value: Any) -> dict[str, Any]:
    """Return what a notebook keeps of a value: its plain text, and its HTML if it has some."""
    found: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    html = getattr(value, "_repr_html_", None)
    if html is not None and (text := html()) is not None:
        found["text/html"] = text.splitlines(keepends=True)
    return found


def fill(notebook: dict[str, Any]) -> None:
    """Run all cells, and put what they show into the notebook."""
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        printed, value = run_cell("".join(cell["source"]), names)
        outputs: list[dict[str, Any]] = []
        if printed:
            outputs.append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)})
        if value is not None:
            data = {"data": shown(value), "metadata": {}, "execution_count": number}
            outputs.append({"output_type": "execute_result", **data})
        cell["outputs"], cell["execution_count"] = outputs, number


def main() -> None:
    for name in sys.argv[1:]:
        path = Path(name)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        fill(notebook)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
