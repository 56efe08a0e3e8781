"""The pages of docs/ as a site: what leads where, the README, and the scripts by which `make docs` builds it."""

import re
from pathlib import Path

import docs_check
import docs_hooks
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import itda

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINKS = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)|!\[[^\]]*\]\(([^)\s]+)\)")
GLOSSARY = "# Glossary\n\n## atom\nA vector.\n\n## CE loss score\nA measure.\n"


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, in which names of Python functions stand."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, name, node: name)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(page):
    for target, anchor, picture in LINKS.findall(without_code(page.read_text())):
        place = (page.parent / (target or picture)).resolve() if target or picture else page
        assert place.is_file(), f"{page.name} links to {target or picture}, which is not there"
        if anchor:
            assert anchor in anchors(place), f"{page.name} links to {target}#{anchor}: no such heading"


def named(entries: list) -> list[str]:
    """The pages of a part of the navigation."""
    values = [value for entry in entries for value in entry.values()]
    return [page for value in values for page in ([value] if isinstance(value, str) else named(value))]


def test_every_page_is_in_the_navigation_once():
    pages = named(SITE["nav"])
    assert sorted(pages) == sorted({*(path.name for path in DOCS.glob("*.md")), "contributing.md", "changelog.md"})


def test_the_site_is_built_strictly_and_asks_no_other_host():
    assert SITE["strict"] is True
    assert set(SITE["validation"].values()) == {"warn"}  # which is a failure where all is strict
    assert SITE["theme"]["font"] is False
    assert all((DOCS / script).is_file() for script in SITE["extra"]["polyfills"])


def test_every_public_name_is_on_the_page_of_the_api_once():
    names = re.findall(r"^::: itda\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(itda.__all__)


def test_the_readme_is_short_and_says_how_to_test_and_where_to_go():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 100
    assert "make test" in text
    assert "make demo" in text
    first, second = {"docs/" + name for name in named(SITE["nav"])}, set(re.findall(r"\]\((docs/\w+\.md)\)", text))
    assert second <= first
    assert len(second) > 15


def test_links_lead_to_the_pages_of_the_site():
    places = docs_hooks.elsewhere()
    changed = "[a](results/atoms.md) [b](method.md#train) [c](tiny.md) [d](https://x.org/y.md) [e](#here)"
    text = "[a](../benchmarks/results/atoms.md) [b](method.md#train) [c](../itda/assets/tiny/README.md)"
    assert docs_hooks.site_links(f"{text} [d](https://x.org/y.md) [e](#here)", "docs/page.md", places) == changed
    assert docs_hooks.site_links("[x](docs/method.md)", "CHANGELOG.md", places) == "[x](method.md)"
    assert docs_hooks.site_links("[x](atoms.md)", "benchmarks/results/pursuit.md", places) == "[x](atoms.md)"


def test_an_example_is_shown_as_what_it_says_and_its_code():
    page = docs_hooks.script_page("examples/a.py", '"""Do this.\n\nMore.\n"""\n\nimport itda\n')
    assert page == "# a.py\n\nDo this.\n\nMore.\n\n```python\nimport itda\n```\n"


def test_the_first_use_of_a_term_leads_to_the_glossary_and_no_other():
    text = "# An atom\n`atom` [atom](x.md) Atoms, an atom.\n```\natom\n```\nThe CE loss score of an atom-like thing"
    expected = text.replace("Atoms,", "[Atoms](g.md#atom){ .term },").replace(
        "CE loss score", "[CE loss score](g.md#ce-loss-score){ .term }"
    )
    assert docs_hooks.glossary_links(text, GLOSSARY, "g.md") == expected


@given(st.text(alphabet=st.sampled_from("atom s`[]()#<>|\n-"), max_size=60))
def test_links_to_the_glossary_leave_the_text_as_it_is(text):
    linked = docs_hooks.glossary_links(text, GLOSSARY, "g.md")
    assert re.sub(r"\[([^\]\n]*)\]\(g\.md#[\w-]+\)\{ \.term \}", r"\1", linked) == text
    assert linked.count("g.md") <= 2


def test_every_term_of_the_glossary_has_an_anchor_of_its_own_and_says_something():
    text = (DOCS / "glossary.md").read_text()
    found = docs_hooks.terms(text)
    assert len({docs_hooks.anchor(term) for term in found}) == len(found) > 60
    assert {docs_hooks.anchor(term) for term in found} <= anchors(DOCS / "glossary.md")
    assert all(len(part.strip()) > 20 for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:])
    assert set(found) >= docs_hooks.COMMON


FETCHING = {
    "a.html": [
        '<script src="https://x.org/a.js"></script>',
        '<img src="//x.org/a.png">',
        '<link rel="stylesheet" href="http://x.org/a.css">',
        '<img srcset="https://x.org/a.png 2x">',
        '<p style="background: url(https://x.org/a.png)">',
        "<style>@import 'https://x.org/a.css'</style>",
        '<pre class="mermaid">graph</pre>',
    ],
    "a.css": ["p { background: url('https://x.org/a.png') }", '@import "//x.org/a.css";'],
    "a.js": ['fetch("https://x.org/a.json")'],
}
FETCHING_NOTHING = {
    "a.html": [
        '<a href="https://x.org">there</a><img src="images/a.png"><p>url(https://x.org) in words</p>',
        '<link rel="canonical" href="https://x.org">',
    ],
    "a.css": ["p { background: url(data:image/png;base64,AA) } /* https://x.org */"],
    "a.js": ["/* https://x.org */ fetch('search/search_index.json')", 'n = "http://www.w3.org/2000/svg"'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in FETCHING for text in FETCHING[name]])
def test_what_would_be_fetched_from_another_host_is_found(name, text, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert docs_check.main(tmp_path) == 1
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(("name", "text"), [(n, text) for n in FETCHING_NOTHING for text in FETCHING_NOTHING[n]])
def test_what_is_fetched_from_nowhere_else_is_let_pass(name, text, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert docs_check.main(tmp_path) == 0
    assert "fetch nothing" in capsys.readouterr().out


def test_a_folder_without_pages_is_refused(tmp_path, capsys):
    assert docs_check.main(tmp_path) == 1
    assert "make docs" in capsys.readouterr().out
