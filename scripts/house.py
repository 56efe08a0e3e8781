"""Measure how the house is kept: modules, imports, settings, long functions, docstrings and names.

    python scripts/house.py                         # this checkout
    python scripts/house.py ../other/itda           # another one
    python scripts/house.py --list                  # with the places that are counted

It reads the source and imports nothing of it. The rooms, and which may import from which, are the table of
tests/test_imports.py beside the package.
"""

import argparse
import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

EDGE = {"config.py", "parsing.py", "checks.py", "cli.py"}
"""Where text that a user typed becomes numbers, layers and sites. Other modules call no `parse_` function."""
LONG = 50
"""A function of more lines than this is long."""
OPENINGS = ("Of", "What", "Whether", "All")
"""One-line docstrings that begin so seldom tell a newcomer what the thing is."""
WORDS = ("origin", "unfinished", "pieces", "sizes", "states", "opened", "effects")
"""Names that do not say what a thing is."""
SAID = re.compile("(hidden|training)_?states", re.IGNORECASE)
"""States that say what of."""
INTENDED = {"core/dictionary.py", "core/model.py"}
"""The dictionary's module: `ITDA.save_pretrained` calls the store, which makes an ITDA, a circle that is meant."""
STORE = ("store.py", "store/")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[str, int, str]
"""File, line, and what is there."""


class Package:
    """The modules of a package, parsed, by their path in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.texts = {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.py"))}
        self.trees = {file: ast.parse(text) for file, text in self.texts.items()}

    def file_of(self, dotted: str) -> str | None:
        """The file of a module such as itda.core.code, or None where there is none of that name."""
        first, *parts = dotted.split(".")
        if first != self.name:
            return None
        stem = "/".join(parts)
        return next((file for file in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")) if file in self.trees), None)

    def imports(self, file: str, *, typing: bool = False) -> Iterator[tuple[int, str]]:
        """The modules that a module imports, in its functions too, sorted: line, file.

        What only a type checker imports (`if TYPE_CHECKING:`) counts with `typing` alone.
        """
        yield from sorted(self._imports(ast.walk(self.trees[file]) if typing else running(self.trees[file]), file))

    def _imports(self, nodes: Iterable[ast.AST], file: str) -> Iterator[tuple[int, str]]:
        for node in nodes:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                # `from itda.core import code` is a module, `from itda.core.code import SparseCode` a name in one.
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if self.file_of(name) else node.module for name in names]
            else:
                continue
            yield from ((node.lineno, found) for name in names if (found := self.file_of(name)) and found != file)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a module but those under `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def circles(package: Package) -> list[list[str]]:
    """Sets of modules that import one another, around (strongly connected components of more than one module)."""
    graph = {file: {other for _, other in package.imports(file)} for file in package.trees}
    return strongly_connected(graph)


def strongly_connected(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, each sorted (plain: reachable there and back).

    >>> strongly_connected({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    [['b', 'c']]
    """
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        reach[start] = seen
    found = {tuple(sorted(other for other in reach[file] if file in reach[other])) for file in graph}
    return sorted(list(each) for each in found if len(each) > 1)


def intended(circle: Iterable[str]) -> bool:
    """Say whether a circle is the one that is meant: the dictionary's module and the store, nothing else."""
    return all(file in INTENDED or file.startswith(STORE) for file in circle)


def room_of(file: str) -> str:
    """The room of a module: the folder at the top of the package, or the module itself where it lies in none."""
    return file.split("/")[0].removesuffix(".py")


def table_of_rooms(tests: Path) -> tuple[dict[str, set[str]], set[tuple[str, str]]] | None:
    """ALLOWED and EXCEPTIONS of tests/test_imports.py, or None where there is no such file."""
    file = tests / "test_imports.py"
    if not file.exists():
        return None
    names: dict[str, Any] = {}
    for node in ast.parse(file.read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id.isupper():
            try:
                exec(compile(ast.Module([node], []), str(file), "exec"), names)
            except (NameError, AttributeError):
                continue  # about something that it imports
    return names["ALLOWED"], names.get("EXCEPTIONS", set())


def upward(package: Package) -> list[Place] | None:
    """The imports of a room that may not be imported from there, or None where there is no table of rooms."""
    table = table_of_rooms(package.folder.parent / "tests")
    if table is None:
        return None
    allowed, exceptions = table
    found = []
    for file in package.trees:
        room = room_of(file)
        for line, other in package.imports(file):
            to = room_of(other)
            version = (file, to) == ("cli.py", "__init__")
            if to != room and to not in allowed.get(room, set()) and (file, to) not in exceptions and not version:
                found.append((file, line, f"imports {other}"))
    return found


def parse_calls(package: Package) -> list[Place]:
    """Calls outside the edge of the package's functions that are named `parse_...`."""
    nodes = [node for tree in package.trees.values() for node in ast.walk(tree)]
    parsers = {node.name for node in nodes if isinstance(node, Function) and node.name.startswith("parse_")}
    found = []
    for file, tree in package.trees.items():
        for node in ast.walk(tree):
            if file not in EDGE and isinstance(node, ast.Call):
                called = node.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                if name in parsers:
                    found.append((file, node.lineno, name))
    return found


def settings_taken(package: Package) -> list[Place]:
    """Parameters and fields whose annotation names a class of config.py."""
    tree = package.trees.get("config.py")
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} if tree else set()
    found = []
    for file, tree in package.trees.items():
        if file == "config.py":
            continue
        aliases, imported = config_names(package.name, tree, classes)
        for owner, annotation in annotations(tree):
            for node in ast.walk(unquoted(annotation)):
                if isinstance(node, ast.Attribute):
                    taken = ast.unparse(node.value) in aliases and node.attr in classes
                else:
                    taken = isinstance(node, ast.Name) and node.id in imported
                if taken:
                    found.append((file, annotation.lineno, f"{owner}: {ast.unparse(annotation)}"))
                    break
    return found


def config_names(package: str, tree: ast.AST, classes: set[str]) -> tuple[set[str], set[str]]:
    """Names by which a module calls config.py, and names of its classes that it imported."""
    aliases, imported = {f"{package}.config"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "config"}
        elif isinstance(node, ast.ImportFrom) and node.module == f"{package}.config":
            imported |= {alias.asname or alias.name for alias in node.names if alias.name in classes}
        elif isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == f"{package}.config" and alias.asname}
    return aliases, imported


def annotations(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What functions and classes say that they take: `function(parameter)` or `Class.field`, and its annotation."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            args = node.args
            every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            yield from ((f"{node.name}({arg.arg})", arg.annotation) for arg in every if arg and arg.annotation)
        elif isinstance(node, ast.ClassDef):
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            yield from ((f"{node.name}.{ast.unparse(field.target)}", field.annotation) for field in fields)


def unquoted(annotation: ast.expr) -> ast.expr:
    """An annotation, read where it is written as a string."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            pass
    return annotation


def long_functions(package: Package) -> list[Place]:
    """Functions of more than `LONG` lines, their docstring among them, longest first."""
    found = []
    for file, tree in package.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Function) and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LONG:
                found.append((lines, (file, node.lineno, f"{node.name}: {lines} lines")))
    return [place for _, place in sorted(found, key=lambda each: -each[0])]


def weak_docstrings(package: Package) -> list[Place]:
    """One-line docstrings, of modules, classes, functions and fields, that begin with one of `OPENINGS`."""
    found = []
    for file, tree in package.trees.items():
        for node in ast.walk(tree):
            for value in bare_strings(node):
                text = str(value.value).strip()
                if "\n" not in text and re.match(rf"({'|'.join(OPENINGS)})\b", text):
                    found.append((file, value.lineno, text))
    return found


def bare_strings(node: ast.AST) -> list[ast.Constant]:
    """Strings that stand alone in a body: docstrings, and those under a field or a constant."""
    body = getattr(node, "body", None)
    statements = [each.value for each in body if isinstance(each, ast.Expr)] if isinstance(body, list) else []
    return [each for each in statements if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def words(package: Package) -> list[Place]:
    """Identifiers that have one of `WORDS` in them, once for each name and module."""
    found = {}
    for file, tree in package.trees.items():
        for node in ast.walk(tree):
            for name in identifiers(node):
                parts = re.findall(r"[A-Z]?[a-z]+", name)
                if any(part.lower() in WORDS for part in parts) and not SAID.search(name):
                    found.setdefault((file, name), (file, getattr(node, "lineno", 1), name))
        if any(part in WORDS for part in file.removesuffix(".py").split("/")):
            found[file, file] = (file, 1, "the module's name")
    return list(found.values())


def identifiers(node: ast.AST) -> list[str]:
    """Names that a node makes: a definition, a parameter, a variable, or an attribute that it sets."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.arg():
            return [node.arg]
        case ast.Name(ctx=ast.Store()):
            return [node.id]
        case ast.Attribute(ctx=ast.Store()):
            return [node.attr]
        case _:
            return []


def by(places: Iterable[Place], key: Any) -> str:
    """Counts of places by something, the most first: `recipes 41, cli 3`."""
    return ", ".join(f"{name} {count}" for name, count in Counter(map(key, places)).most_common())


def rows(package: Package) -> Iterator[tuple[str, str, list[Place]]]:
    """The rows of the table: a name, a figure, and the places that were counted."""
    lines = {file: len(text.splitlines()) for file, text in package.texts.items()}
    longest = max(lines, key=lambda file: lines[file])
    yield "modules", f"{len(lines)}", []
    yield "lines", f"{sum(lines.values()):,}", []
    yield "median lines of a module", f"{statistics.median(lines.values()):g}", []
    yield "most lines of a module", f"{lines[longest]} ({longest})", []
    round_and_round = circles(package)
    meant = [circle for circle in round_and_round if intended(circle)]
    others = [circle for circle in round_and_round if not intended(circle)]
    yield "circles of imports, ITDA <-> store apart", f"{len(others)}", [(c[0], 1, " <-> ".join(c)) for c in others]
    yield "circle of ITDA <-> store (intended)", f"{len(meant)}", [(c[0], 1, " <-> ".join(c)) for c in meant]
    up = upward(package)
    yield "imports that run up", "no table" if up is None else f"{len(up)}", up or []
    calls = parse_calls(package)
    yield "`parse_*` calls outside the edge", f"{len(calls)}", calls
    taken = settings_taken(package)
    rooms = by(taken, lambda place: room_of(place[0]))
    yield "signatures that take a command's settings", f"{len(taken)}" + (f" ({rooms})" if rooms else ""), taken
    long = long_functions(package)
    yield f"functions over {LONG} lines", f"{len(long)}", long
    weak = weak_docstrings(package)
    openings = by(weak, lambda place: place[2].split()[0].rstrip(",.:"))
    name = "one-line docstrings beginning " + "/".join(OPENINGS)
    yield name, f"{len(weak)}" + (f" ({openings})" if openings else ""), weak
    names = words(package)
    by_word = by(names, lambda place: next((w for w in WORDS if w in f"{place[2]} {place[0]}".lower()), ""))
    yield "names with " + ", ".join(WORDS), f"{len(names)}" + (f" ({by_word})" if by_word else ""), names


def main() -> None:
    """Print the table, and with --list the places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, default=Path(__file__).parent.parent / "itda")
    parser.add_argument("--list", action="store_true", help="the places that are counted, too")
    options = parser.parse_args()
    package = Package(options.package.resolve())
    print("| | |\n|---|---|")
    table = list(rows(package))
    for name, figure, _ in table:
        print(f"| {name} | {figure} |")
    if options.list:
        for name, _, places in table:
            if places:
                print(f"\n{name}:")
                print("\n".join(f"  {file}:{line}: {text}" for file, line, text in places))


if __name__ == "__main__":
    main()
