"""axe-core finds no serious fault on any view, and the pictures of docs/explorer.md are made."""

import os
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import settle  # pyright: ignore[reportAttributeAccessIssue]
from test_browser import VIEWS

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
PICTURES = Path(__file__).parents[2] / "docs" / "images" / "explorer"


def faults(page) -> list[str]:
    """What axe-core calls serious or critical, with the first place of each."""
    return faults_of(page, "html")


def faults_of(page, part: str) -> list[str]:
    """The same in a part of the page, by its selector."""
    page.evaluate(AXE)
    found = page.evaluate("part => axe.run(part, {resultTypes: ['violations']})", part)
    return [
        f"{fault['id']}: {fault['nodes'][0]['html']} {fault['nodes'][0]['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def rest(page) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(150)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault(visit, view, scheme):
    page = visit(VIEWS[view], color_scheme=scheme, bypass_csp=True)
    rest(page)
    for width in (1280, 390, 1920):
        page.set_viewport_size({"width": width, "height": 860})
        page.wait_for_timeout(50)
        assert (width, faults(page)) == (width, [])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_axe_finds_no_serious_fault_where_something_is_chosen_or_wrong(visit, tabs):
    tabs.allowed = 1
    page = visit(VIEWS["prompt"] + "&t=2&a=0", bypass_csp=True)
    rest(page)
    page.get_by_text("Atoms of the whole text").click()
    assert faults(page) == []
    page = visit("#/atom?run=plain&site=layer_3&atom=99999", bypass_csp=True)
    assert faults(page) == []


SHOWN = {
    "start": "#/start?run={run}&site={site}",
    "corpus": "#/corpus?run={run}&site={site}&q=raise",
    "overview": "#/overview",
    "atoms": "#/atoms?run={run}&site={site}&q=self",
    "atom": "#/atom?run={run}&site={site}&atom={atom}",
    "prompt": "#/prompt?run={run}&site={site}&text=raise%20ValueError(f%22expected%20a&t=6",
    "compare": "#/compare?a={run}&b={run}",
}


@pytest.fixture(scope="session")
def worth_showing(request, tmp_path_factory):
    """An address with run, site and atom, and a folder for pictures.

    If pictures for the docs are wanted, ITDA_SCREENSHOTS names the run of `itda demo` and an atom of its layer 4, as
    runs/demo:99; else they are of what the tests have.
    """
    if not (wanted := os.environ.get("ITDA_SCREENSHOTS")):
        yield (
            request.getfixturevalue("served").address,
            {"run": "plain", "site": "layer_3", "atom": 20},
            tmp_path_factory.mktemp("p"),
        )
        return
    from itda import config as settings
    from itda.explorer.server import running
    from itda.recipes.explore import explorer_of

    run, _, atom = wanted.rpartition(":")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with running(explorer_of(settings.Explore(runs=(Path(run),)))) as address:
        yield address, {"run": Path(run).name, "site": "layer_4", "atom": int(atom)}, PICTURES


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", SHOWN)
def test_each_view_has_its_picture(tabs, worth_showing, view, scheme):
    address, names, folder = worth_showing
    page = tabs.open(address + SHOWN[view].format(**names), color_scheme=scheme)
    rest(page)
    picture = folder / f"{view}-{scheme}.png"
    page.screenshot(path=picture)
    compressed(picture)
    assert 5_000 < picture.stat().st_size < 250_000


def test_a_phone_has_its_picture(tabs, worth_showing):
    address, names, folder = worth_showing
    page = tabs.open(address + SHOWN["atom"].format(**names), width=390, height=780)
    settle(page)
    rest(page)
    picture = folder / "atom-phone.png"
    page.screenshot(path=picture)
    compressed(picture)
    assert 5_000 < picture.stat().st_size < 250_000


def compressed(picture: Path) -> None:
    """128 colours are enough for text and bars, and a third of the bytes."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)
