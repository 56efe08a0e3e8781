"""The frame of the bridges: each list of versions has its tests and its row in docs/bridges.md, with these versions."""

import re
from pathlib import Path

import pytest
from page_blocks import blocks

import itda

ROOT = Path(itda.__file__).parent.parent
LISTS = sorted((ROOT / "scripts" / "bridges").glob("*.txt"))


def row_of(bridge: str) -> str:
    """The row of the table of versions whose environment is the bridge's."""
    table = (ROOT / "docs" / "bridges.md").read_text().partition("## Tested with")[2]
    rows = [row for row in table.splitlines() if f"| `{bridge}` |" in row]
    assert rows, f"docs/bridges.md has no row for the environment `{bridge}`"
    return "\n".join(rows)


@pytest.mark.parametrize("path", LISTS, ids=[path.stem for path in LISTS])
def test_each_environment_has_tests_and_a_row_with_its_versions(path: Path):
    assert list((ROOT / "bridges_tests" / path.stem).glob("test_*.py")), f"bridges_tests/{path.stem} has no tests"
    row = row_of(path.stem)
    first = re.search(r"^[\w.-]+==([\w.]+)", path.read_text(), re.MULTILINE)
    assert first, f"{path.name} gives no version"
    assert first[1] in row, f"the row of {path.stem} does not name the version {first[1]}"
    assert f"`make bridge-{path.stem}`" in row


def test_blocks_are_those_of_their_heading_and_language(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(
        "# A\n```sh\n# B\n```\n```python\n# no heading\nx = 1\n```\n## B\n```python\ny\n```\n"
    )
    monkeypatch.setattr("page_blocks.DOCS", tmp_path)
    assert blocks("page.md", "A") == ["# no heading\nx = 1\n"]
    assert blocks("page.md", "B") == ["y\n"]
    assert blocks("page.md", "A", "sh") == ["# B\n"]
    with pytest.raises(ValueError, match="no block of sh under 'B'"):
        blocks("page.md", "B", "sh")
