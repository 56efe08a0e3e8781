"""Search in the list of atoms: what is found, where it is marked, and that no expression hangs the server."""

import time
from contextlib import suppress

import pytest
from conftest import listed, until  # pyright: ignore[reportAttributeAccessIssue]
from hypothesis import given
from hypothesis import strategies as st

from itda.errors import MissingError, SettingError
from itda.explorer.search import MOST_SECONDS, AtomTexts, Search

LIST = "#/atoms?run=plain&site=layer_3"
WORDS = st.lists(st.tuples(*[st.text("aAbé \n", max_size=6)] * 3), max_size=8)


@given(WORDS, st.text("aAbé ", min_size=1, max_size=3))
def test_a_plain_search_finds_what_holds_the_text_in_any_case_and_places_it(shown, wanted):
    texts = AtomTexts(shown, ["document"] * len(shown))
    for where, each in (("text", ["".join(s) for s in shown]), ("token", [s[1] for s in shown])):
        search = Search(wanted, where)
        found = texts.rows(search).tolist()
        assert found == [row for row, text in enumerate(each) if wanted.lower() in text.lower()]
        for row in found:
            span = search.finds(each[row])
            assert span is not None
            assert each[row][slice(*span)].lower() == wanted.lower()
    exact = texts.rows(Search(wanted, "exact")).tolist()
    assert exact == [row for row, s in enumerate(shown) if s[1].strip().lower() == wanted.strip().lower()]


@pytest.mark.parametrize(
    ("expression", "text", "span"),
    [("(a|b)(c)", "xx\nyé bc d", (6, 8)), ("^y", "y y", (0, 1)), ("y$", "y y", (2, 3)), ("(?i)É+", "aéé", (1, 3))],
)
def test_an_expression_is_placed_in_characters(expression, text, span):
    search = Search(expression, "text", regex=True)
    assert search.finds(text) == span
    assert AtomTexts([("", text, "")], [""]).rows(search).tolist() == [0]
    assert search.finds("zzz") is None


@pytest.mark.parametrize("expression", ["(a+)+$", "(a|a)*$", "(.*)*x", "[a-q][^u-z]{500}x", "((a{1,9}){1,9}){1,9}b"])
def test_a_hostile_expression_ends_in_time(expression):
    texts = AtomTexts([("a" * 120, "a", "a" * 48)] * 20_000, [""] * 20_000)
    started = time.monotonic()
    with suppress(SettingError):  # that it takes too long
        texts.rows(Search(expression, "text", regex=True))
    assert time.monotonic() - started < 10 * MOST_SECONDS  # machines that are shared are slow


@pytest.mark.parametrize("expression", ["(", "a{1000}{1000}", "(?=a)", r"\1", "x" * 501, "\ud800"])
def test_an_expression_that_cannot_be_read_is_refused_in_a_sentence(expression):
    with pytest.raises(SettingError, match="expression"):
        Search.of({"q": expression, "regex": "1"})


def test_questions_that_make_no_sense_are_refused(served):
    where = {"run": "plain", "site": "layer_3"}
    with pytest.raises(SettingError, match="no place 'heart'"):
        served.ask("search", **where, q="a", **{"in": "heart"})
    with pytest.raises(SettingError, match="lacks q"):
        served.ask("search", **where)
    with pytest.raises(SettingError, match="write them as 3,17,25"):
        served.ask("rows", **where, atoms="1,x")
    with pytest.raises(MissingError, match="no atom 99,999"):
        served.ask("rows", **where, atoms="1,99999")


def test_the_match_is_shown_and_the_address_has_the_search(visit, served):
    page = visit(LIST)
    page.get_by_label("Search").fill("return")
    listed(page)
    hits = page.locator(".rows .hit").all_inner_texts()
    assert len(hits) == page.locator(".rows .row").count() > 0
    assert {"return" in each.lower() or each in "return" for each in hits} == {True}
    page.get_by_label("regex").check()
    page.get_by_label("Search").fill("r[eé]turn$")
    page.get_by_label("Where").select_option("exact")
    listed(page)
    tokens = served.ask("atoms", run="plain", site="layer_3")["token"]
    expected = sum(token.endswith("return") for token in tokens)
    assert page.get_by_role("status").first.inner_text().startswith(f"{expected} of ")
    assert "regex=1" in page.url
    assert "in=exact" in page.url
    page.get_by_label("Where").select_option("document")
    page.get_by_label("Search").fill("code")
    listed(page)
    assert page.locator(".found-in .hit").first.inner_text() == "code"


def test_a_bad_expression_is_told_and_the_list_stays(visit, tabs):
    tabs.allowed = 1  # the browser notes the refused request
    page = visit(LIST + "&q=(&regex=1")
    until(page, "document.querySelector('.status').textContent.includes('cannot be read')")
    page.get_by_label("Search").fill("the")
    listed(page)
    assert page.locator(".rows .row").count() > 0


def test_an_atom_is_opened_by_its_number(visit):
    page = visit(LIST)
    page.get_by_label("Atom number").fill("99999")
    page.get_by_role("button", name="Go").click()
    until(page, "document.querySelector('.status').textContent.startsWith('There is no atom 99999')")
    page.get_by_label("Search").fill("#23")
    listed(page)
    assert page.locator(".rows .open").all_inner_texts() == ["23"]
    page.keyboard.press("Enter")
    until(page, "document.querySelector('h1').textContent.startsWith('Atom 23 ')")
    page.go_back()
    page.get_by_label("Atom number").fill("17")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('h1').textContent.startsWith('Atom 17 ')")
