"""What the site of the docs needs beside docs/: pages from elsewhere in the repository, and links to the glossary.

mkdocs reads it (mkdocs.yml, `make docs`). A page of docs/ links to a file of the repository as one reads it there, such
as `../benchmarks/results/atoms.md`; the site has a page for each of these, and the links are changed to lead to it.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
# Where no term is made a link: code, links and pictures, tags and comments.
APART = re.compile(r"(`+[^`]*`+|!?\[[^\]]*\]\([^)]*\)|<[^>]*>|https?://\S+)")
COMMON = {"code", "control", "difference", "draw", "effect", "error", "index", "layer", "run"}
"""Terms that pages use in other senses too, so that no link is made of them."""
TERM = re.compile(r"^## (?P<term>.+)$", re.MULTILINE)


def elsewhere() -> dict[str, str]:
    """Return the pages of the site whose text is not in docs/: their place in the repository, and that in the site."""
    results = {f"benchmarks/results/{path.name}" for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    examples = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    return {
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "itda/assets/tiny/README.md": "tiny.md",
        **{name: f"results/{posixpath.basename(name)}" for name in sorted(results)},
        **{name: f"examples/{Path(name).stem}.md" for name in sorted(examples)},
        "examples/from_python.ipynb": "examples/from_python.ipynb",
    }


def script_page(name: str, code: str) -> str:
    """Return a page that shows an example: what its docstring says, then the code."""
    said, _, rest = code.removeprefix('"""').partition('"""\n')
    return f"# {Path(name).name}\n\n{said.strip()}\n\n```python\n{rest.strip()}\n```\n"


def page_text(name: str) -> str:
    """Return the text of a page from elsewhere in the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".py"):
        return script_page(name, text)
    if text.startswith("---\n"):  # what the Hub reads
        text = text.split("---\n", 2)[2]
    has_title = re.search(r"^# ", text, re.MULTILINE)
    return text if has_title else f"# {Path(name).stem.replace('_', ' ').capitalize()}\n\n{text}"


def site_links(text: str, page: str, places: dict[str, str]) -> str:
    """Change the links of a page, given by its place in the repository, to lead to the pages of the site."""

    def place(name: str) -> str:
        return places.get(name, name.removeprefix("docs/"))

    def changed(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link["path"]))
        return posixpath.relpath(place(target), posixpath.dirname(place(page)) or ".") + (link["anchor"] or "")

    return LINK.sub(changed, text)


def prose(text: str) -> Iterator[tuple[str, bool]]:
    """Cut a page into parts, and say of each if it is prose, in which a term may be made a link."""
    fenced = False
    for line in text.splitlines(keepends=True):
        if line.startswith(("```", "~~~")):
            fenced = not fenced
            yield line, False
        elif fenced or line.startswith(("#", "    ", "<!--", ":::", "|--")):
            yield line, False
        else:
            for number, part in enumerate(APART.split(line)):
                yield part, number % 2 == 0


def terms(glossary: str) -> list[str]:
    """Return the terms of the glossary: its headings."""
    return TERM.findall(glossary)


def anchor(term: str) -> str:
    """Return the anchor of a term's heading."""
    return re.sub(r"[^\w]+", "-", term.lower()).strip("-")


def glossary_links(text: str, glossary: str, place: str) -> str:
    """Make the first use of each term on a page a link to the glossary, which is at a place relative to the page."""
    names = sorted(set(terms(glossary)) - COMMON, key=lambda term: (-len(term), term))
    waiting = set(names)
    any_term = re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, names))})(?P<ending>e?s)?(?![\w-])", re.IGNORECASE)

    def linked(use: re.Match[str]) -> str:
        name = next(name for name in names if name.lower() == use[1].lower())
        if name not in waiting:
            return use[0]
        waiting.remove(name)
        return f"[{use[0]}]({place}#{anchor(name)}){{ .term }}"

    return "".join(any_term.sub(linked, part) if is_prose else part for part, is_prose in prose(text))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from elsewhere to the site."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for name, place in elsewhere().items():
        made = {"abs_src_path": str(ROOT / name)} if name.endswith(".ipynb") else {"content": page_text(name)}
        files.append(File.generated(config, place, **made))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page, and link the terms of the glossary."""
    places = elsewhere()
    place = page.file.src_uri
    name = next((name for name, found in places.items() if found == place), f"docs/{place}")
    text = site_links(markdown, name, places)
    if place in ("glossary.md", "api.md", "changelog.md") or place.startswith(("results/", "examples/")):
        return text
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    return glossary_links(text, glossary, posixpath.relpath("glossary.md", posixpath.dirname(place) or "."))
