"""Draw docs/images/rooms.svg: the rooms of the package, by the chain in docs/architecture.md.

python scripts/rooms.py
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
DRAWING = DOCS / "images" / "rooms.svg"
WHAT = {
    "errors": "one line per failure",
    "files": "durable files",
    "machine": "memory, environment",
    "core": "tensors and labels only",
    "store": "dictionaries, runs, checkpoints",
    "sources": "corpora, tokens, models, shards",
    "workers": "Ray",
    "evaluation": "what the model loses; probes",
    "steering": "atoms added, taken away",
    "explorer": "index, pages, server",
    "diffing": "two models side by side",
    "recipes": "one file for each command",
    "bridges": "the tools of others",
    "report": "results as text",
    "plots": "results as pictures",
    "api": "what users call",
    "commands": "what each command prints",
    "cli": "what users type",
}
WIDTH, HEIGHT, GAP, ROW = 212, 52, 16, 84
PAGE = 720


def chain() -> list[list[str]]:
    """The layers, the lowest first, as docs/architecture.md has them."""
    line = re.search(r"^errors.* <- .*$", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert line, "docs/architecture.md has no chain of rooms"
    return [re.findall(r"\w+", layer) for layer in line[0].split(" <- ")]


def drawing() -> str:
    """The picture, as SVG."""
    layers = chain()
    height = len(layers) * ROW + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PAGE} {height}" font-family="sans-serif" role="img">',
        "<title>The rooms of itda: each imports from those below it alone</title>",
        f'<rect width="{PAGE}" height="{height}" fill="#ffffff"/>',
    ]
    for number, rooms in enumerate(layers):
        y = height - (number + 1) * ROW + GAP
        left = (PAGE - len(rooms) * WIDTH - (len(rooms) - 1) * GAP) / 2
        for place, room in enumerate(rooms):
            x = left + place * (WIDTH + GAP)
            middle = x + WIDTH / 2
            parts += [
                f'<rect x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#eef3fb" stroke="#3b5b8c"/>',
                f'<text x="{middle:g}" y="{y + 22}" text-anchor="middle" font-size="16" fill="#10233f">{room}</text>',
                f'<text x="{middle:g}" y="{y + 41}" text-anchor="middle" font-size="12" fill="#44546a">'
                f"{WHAT[room]}</text>",
            ]
        if number:  # down to the layer below
            start, end = y + HEIGHT + 4, y + ROW - 4
            parts += [
                f'<path d="M{PAGE / 2:g} {start}V{end - 6}" stroke="#3b5b8c" stroke-width="2"/>',
                f'<path d="M{PAGE / 2 - 6:g} {end - 8}h12l-6 8z" fill="#3b5b8c"/>',
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    DRAWING.write_text(drawing())
    print(DRAWING)
