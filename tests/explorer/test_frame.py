"""The frame around all views, in a browser: history, addresses of nothing, the keyboard, colours, a lost server."""

import re

import pytest
from conftest import settle, until  # pyright: ignore[reportAttributeAccessIssue]
from test_browser import VIEWS, shown_ids


def test_back_and_forward_go_through_the_views(visit):
    page = visit(VIEWS["atoms"])
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Overview").click()
    page.wait_for_selector("dl")
    page.get_by_role("link", name="Prompt").click()
    page.wait_for_selector("textarea")
    page.go_back()
    page.wait_for_selector("dl")
    page.go_back()
    page.wait_for_selector(".rows .row")
    page.go_forward()
    page.wait_for_selector("dl")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("#/atom?run=plain&site=layer_3&atom=99999", "no atom 99,999"),
        ("#/atom?run=plain&site=layer_3&atom=x", "give a number"),
        ("#/atoms?run=absent", "There is no run absent"),
        ("#/atoms?run=plain&site=layer_2", "plain has no layer_2"),
        ("#/elsewhere", "There is no page elsewhere"),
        ("#/prompt?run=plain&site=layer_3&token=99999999", "no token 99,999,999"),
    ],
)
def test_what_is_not_there_is_told_and_the_frame_stays(visit, tabs, address, sentence):
    tabs.allowed = 1
    page = visit(address)
    assert sentence in page.get_by_role("alert").inner_text()
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Overview").click()
    page.wait_for_selector("dl")


def test_everything_can_be_reached_with_the_keyboard(visit):
    page = visit(VIEWS["atoms"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Atoms"
    page.keyboard.press("?")
    assert page.evaluate("document.activeElement.textContent") == "Close"
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Atoms"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("the")
    ids = shown_ids(page)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent").replace(",", "") == str(ids[0])
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.name") == "q"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('open')"):
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent").replace(",", "") == str(ids[2])
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('h1').textContent.startsWith('Atom {ids[2]:,} ')")
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_dark_mode_follows_the_system_and_the_button(visit):
    def ground(page):
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light, page = visit(VIEWS["overview"]), visit(VIEWS["overview"], color_scheme="dark")
    assert ground(page) != ground(light) == "rgb(255, 255, 255)"
    button = page.get_by_role("button", name=re.compile("Colours"))
    button.click()
    assert ground(page) == ground(light)
    page.reload()
    settle(page)
    assert ground(page) == ground(light)


def test_a_server_that_is_gone_is_told(tabs, runs):
    from itda import config as settings
    from itda.explorer.server import running
    from itda.recipes.explore import explorer_of

    tabs.allowed = 1
    with running(explorer_of(settings.Explore(runs=runs, model=False))) as address:
        page = tabs.open(address)
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Overview").click()
    page.wait_for_selector("[role=alert]")
    assert "The server does not answer" in page.get_by_role("alert").inner_text()
