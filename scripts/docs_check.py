"""Check a built site of the docs: nothing that a browser fetches for a page comes from another host.

python scripts/docs_check.py site
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

AWAY = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
IN_CSS = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
IN_JS = re.compile(r"https?://[\w.-]+")
FETCHED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
}
NEVER_REACHED = {
    "https://unpkg.com": "diagrams of mermaid, which no page has, and browsers without ResizeObserver",
    "https://api.github.com": "the stars of a repository, which mkdocs.yml does not name",
    "https://bit.ly": "a link in a message of the search",
    "http://www.w3.org": "the name of SVG's elements",
}
"""What the theme's scripts name and our pages never ask for, with the reason."""


class Fetches(HTMLParser):
    """The addresses that a page has a browser fetch from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag has a browser fetch."""
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "prev", "next", "alternate"):
            return
        asked = [values.get(name) or "" for name in FETCHED.get(tag, ())]
        self.found += [address for address in asked if AWAY.match(address)]
        self.found += IN_CSS.findall(values.get("style") or "")
        if tag == "pre" and "mermaid" in (values.get("class") or ""):
            self.found.append("a diagram of mermaid")


def fetched_elsewhere(name: str, text: str) -> list[str]:
    """Return what a file of the site would fetch from other hosts, by the file's name and text."""
    if name.endswith(".html"):
        page = Fetches()
        page.feed(text)
        styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
        return [*page.found, *IN_CSS.findall(" ".join(styles))]
    if name.endswith(".css"):
        return IN_CSS.findall(text)
    if name.endswith(".js"):
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        return sorted(set(IN_JS.findall(code)) - set(NEVER_REACHED))
    return []


def main(folder: Path) -> int:
    """Check every page, style and script of a site but for the text of the search; print what is wrong."""
    wrong = []
    files = [path for path in folder.rglob("*") if path.suffix in (".html", ".css", ".js")]
    for path in sorted(files):
        if path.name != "search_index.js" and "lunr" not in path.parts:
            found = fetched_elsewhere(path.name, path.read_text(encoding="utf-8"))
            wrong += [f"{path.relative_to(folder)} fetches {address}" for address in found]
    if not files:
        wrong = [f"{folder} has no pages: build the site first, by `make docs`"]
    print("\n".join(wrong) if wrong else f"{len(files)} files of {folder} fetch nothing from another host")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
