"""The steering panel: its texts and numbers are those of `itda steer`; and the panel in a real browser."""

import json
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from conftest import settle, until  # pyright: ignore[reportAttributeAccessIssue]
from test_accessible import compressed, faults_of, worth_showing  # noqa: F401 # pyright: ignore[reportAttributeAccessIssue]

from itda import config as settings
from itda.core.site import Site
from itda.errors import ItdaError, MissingError, SettingError
from itda.recipes.steer import steer_run
from itda.steering.beside import Steered

PROMPT, ATOM = "def read(path):\n    with open(", 20
QUERY = {"run": "plain", "site": "layer_3", "atom": str(ATOM), "prompt": PROMPT, "strength": "8", "tokens": "12"}
ALL = "untouched,steered,control"
ADDRESS = f"#/atom?run=plain&site=layer_3&atom={ATOM}"


def pieces(explorer, left=None, **changes) -> list[dict]:
    found: list[dict] = []
    explorer.stream("steer", {**QUERY, **changes}, lambda values: found.append(dict(values)), left or threading.Event())
    return found


def texts_of(found) -> dict[str, str]:
    return {each["way"]: each["text"] for each in found if each.get("whole")}


def by_command(served, **changes):
    """What `itda steer` makes of the same question."""
    asked = {"tokens": 12, "strength": (8.0,), **changes}
    options = settings.Steer(run=served.runs[0], prompt=PROMPT, layer=Site(3), atom=(ATOM,), **asked)
    found = steer_run(options)[1]
    assert isinstance(found, Steered)
    return found


@pytest.mark.parametrize("seed", [None, 3])
def test_texts_controls_and_next_tokens_are_those_of_itda_steer(served, seed):
    expected = by_command(served, seed=seed)
    found = pieces(served.explorer, ways=ALL, **({"seed": str(seed)} if seed is not None else {}))
    way = expected.ways[0]
    assert texts_of(found) == {
        "untouched": expected.untouched,
        "steered": way.steered.text,
        "control": way.control.text,
    }
    begun, changes = found[0], next(each["next_token"] for each in found if "next_token" in each)
    assert begun["control"]["atom"] == way.control_atoms[0][0]
    assert begun["source"] == expected.source
    assert begun["unit"] == pytest.approx(expected.unit[0], rel=1e-4)
    assert begun["push"] == pytest.approx(way.push, rel=1e-4)
    assert changes["kls"] == pytest.approx(list(way.control_kl), rel=1e-3, abs=1e-6)
    for name, own in (("steered", way.steered.next_token), ("control", way.control.next_token)):
        assert changes[name]["kl"] == pytest.approx(own.kl, rel=1e-3, abs=1e-6)
        for end in ("promoted", "suppressed"):
            assert [each["token"] for each in changes[name][end]] == [each.token for each in getattr(own, end)]


def test_each_text_grows_from_token_to_token_and_the_steered_one_begins_first(served):
    found = pieces(served.explorer, ways=ALL)
    for way, whole in texts_of(found).items():
        grown = [each for each in found if each.get("way") == way]
        assert [each["tokens"] for each in grown[:-1]] == sorted({each["tokens"] for each in grown[:-1]})
        assert all(whole.startswith(each["text"]) for each in grown)
        assert len(grown) > 6
    seeded = pieces(served.explorer, ways=ALL, seed="1")  # one after the other: torch has one generator
    assert [each["way"] for each in seeded if each.get("whole")] == ["steered", "control", "untouched"]


def test_strength_0_writes_what_the_untouched_model_does(served):
    found = pieces(served.explorer, ways=ALL, strength="0")
    assert len(set(texts_of(found).values())) == 1
    changes = next(each["next_token"] for each in found if "next_token" in each)
    assert changes["steered"] == {"kl": 0.0, "promoted": [], "suppressed": []}
    assert changes["kls"] == [0.0] * 8


def test_only_what_is_asked_for_is_written(served):
    found = pieces(served.explorer, ways="control")
    assert set(texts_of(found)) == {"control"}
    assert not [each for each in found if "next_token" in each]


def test_writing_ends_soon_after_its_page_is_left(served):
    left, found = threading.Event(), []

    def send(values):
        found.append(values)
        if values.get("tokens") == 3:
            left.set()

    served.explorer.stream("steer", {**QUERY, "tokens": "150", "ways": ALL}, send, left)
    assert not [each for each in found if each.get("whole")]
    assert max(each.get("tokens", 0) for each in found) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name == "itda writes"]


def test_an_error_in_one_text_ends_the_others_and_is_raised(served, monkeypatch):
    from itda.explorer import steering as module

    def fails(lm, prompt, how, **more):
        if threading.current_thread().name == "itda writes":
            raise RuntimeError("no memory")
        return true(lm, prompt, how, **more)

    true = module.written
    monkeypatch.setattr(module, "written", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        pieces(served.explorer, tokens="150")


REFUSED = {
    "no prompt": ({"prompt": "  "}, "there is no prompt: type the beginning of a text"),
    "a long prompt": ({"prompt": "x" * 8_001}, "the prompt has 8,001 characters: shorten it to 8,000"),
    "too many tokens": ({"prompt": "x " * 300}, "tiny reads at most 256: shorten one"),
    "no strength": ({"strength": ""}, "the question lacks strength"),
    "a strength in words": ({"strength": "much"}, "the strength is 'much': give a number from -1,000 to 1,000"),
    "a strength that is no number": ({"strength": "nan"}, "the strength is 'nan'"),
    "a strength without end": ({"strength": "-inf"}, "the strength is '-inf'"),
    "a length of nothing": ({"tokens": "0"}, "the length is '0': give a whole number from 1 to 200"),
    "a long reply": ({"tokens": "201"}, "the length is '201': give a whole number from 1 to 200"),
    "a seed below 0": ({"seed": "-1"}, "the seed is '-1': give a whole number from 0"),
    "ways that there are not": ({"ways": "steered,more"}, "ways is 'steered,more': name some of untouched"),
    "an atom that is not there": ({"atom": "99999"}, "no atom 99,999: there are"),
    "a site that is not there": ({"site": "layer_2"}, "plain has no layer_2"),
    "half a surrogate pair": ({"prompt": "a \ud83d"}, "half a surrogate pair"),
}


@pytest.mark.parametrize("slip", REFUSED)
def test_slips_are_refused_in_a_line(served, slip):
    changes, sentence = REFUSED[slip]
    with pytest.raises((SettingError, MissingError)) as error:
        pieces(served.explorer, **changes)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dictionary_whose_labels_have_no_texts_needs_an_index(served, monkeypatch):
    from dataclasses import replace

    dictionary = served.explorer.runs.dictionary("plain", "layer_3")
    monkeypatch.setattr(served.explorer.runs, "dictionary", lambda *_: replace(dictionary, index=None))
    assert texts_of(pieces(served.explorer, ways="steered"))  # by the windows of its labels
    monkeypatch.setattr("itda.explorer.steering.label_windows", lambda *_: [])
    with pytest.raises(MissingError, match="no texts in which to measure the unit of strength: first run `itda index"):
        served.ask("steering", run="plain", site="layer_3")


# In a browser.


def panel(page):
    return page.get_by_role("region", name="Steer by")


def wait_until_done(page):
    until(page, "document.querySelector('.steer [role=status]').textContent.startsWith('Done')", 30)


def text_of(page, way):
    """A text as the page has it, its signs aside."""
    return page.evaluate(f"document.querySelector('[data-way={way}]').textContent")


@pytest.fixture
def steered(visit):
    """Open an address with the panel, and remember what is asked for."""

    def opened(address, **options):
        page = visit(address, **options)
        page.asked = []
        page.on("request", lambda r: page.asked.append(json.loads(r.post_data)) if "/api/steer" in r.url else None)
        return page

    return opened


def written(page, prompt=PROMPT, length="12"):
    panel(page).get_by_label("Prompt", exact=True).fill(prompt)
    panel(page).get_by_label("Length, in tokens").fill(length)
    panel(page).get_by_role("button", name="Write").click()
    wait_until_done(page)


def shown_as(text):
    return text.strip(" \n")


def slowness() -> float:
    """How many times longer than alone a thread takes now, as the machine has other work; 1 if it has none."""
    begun, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < 0.1:
        sum(range(10_000))
    return (time.perf_counter() - begun) / (time.thread_time() - used)


# The time from the click to the first letter of the steered text.
TIMED = """() => {
    let begun = null;
    window.first = null;
    document.querySelector('.write').addEventListener('click', () => { begun = performance.now(); }, {once: true});
    new MutationObserver((_, observer) => {
        const text = document.querySelector('[data-way=steered]').textContent;
        if (begun === null || text === '' || text === '…') return;
        window.first = performance.now() - begun;
        observer.disconnect();
    }).observe(document.querySelector('.steer'), {childList: true, subtree: true});
}"""


def test_texts_come_side_by_side_the_first_within_a_second_and_the_address_has_all(steered, served):
    expected = by_command(served)
    page = steered(ADDRESS)
    assert panel(page).get_by_label("Prompt", exact=True).input_value()  # the atom's own
    waited = []
    for _ in range(3):
        page.evaluate(TIMED)
        slowed = slowness()
        written(page)
        waited.append(page.evaluate("window.first") / 1000 / min(slowed, slowness()))
        if waited[-1] < 1:
            break
    assert min(waited) < 1, waited
    assert page.evaluate("document.activeElement.textContent") == "Write"  # where it was: nothing took the focus away
    assert shown_as(text_of(page, "untouched")) == shown_as(expected.untouched)
    assert shown_as(text_of(page, "steered")) == shown_as(expected.ways[0].steered.text)
    assert page.locator("[data-way=control]").is_hidden()
    parameters = dict(urllib.parse.parse_qsl(page.url.split("?")[1]))
    assert parameters == {
        "run": "plain", "site": "layer_3", "atom": str(ATOM), "prompt": PROMPT, "strength": "8", "length": "12"
    }  # fmt: skip


def test_the_control_is_one_click_away_and_only_what_is_new_is_written(steered, served):
    expected = by_command(served)
    page = steered(ADDRESS)
    written(page)
    page.get_by_role("checkbox", name="Control").check()
    until(page, "document.querySelector('[data-way=control]').textContent.length > 5")
    wait_until_done(page)
    assert shown_as(text_of(page, "control")) == shown_as(expected.ways[0].control.text)
    atom = expected.ways[0].control_atoms[0][0]
    assert page.get_by_role("heading", name=f"Control: atom {atom:,}").get_by_role("link").is_visible()
    assert page.locator(".next").get_by_text(f"Control, atom {atom:,}: KL").is_visible()
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    until(page, "document.querySelector('.ways h3').textContent && location.hash.includes('strength=7')")
    wait_until_done(page)
    assert [each["ways"] for each in page.asked] == ["untouched,steered", "control", "steered,control"]
    assert page.asked[-1]["strength"] == "7"
    assert slider.get_attribute("aria-valuetext") == "7 typical coefficients"
    assert page.evaluate("document.activeElement.type") == "range"
    line = page.locator(".next .muted").first.inner_text()
    assert "With 8 controls" in line
    assert page.get_by_role("img", name="KL of the next token").is_visible()


def test_a_shared_address_shows_the_same_texts_at_once(steered, served):
    expected = by_command(served, seed=5, strength=(-4.0,))
    more = urllib.parse.urlencode({"prompt": PROMPT, "strength": "-4", "length": "12", "seed": "5", "control": "1"})
    page = steered(f"{ADDRESS}&{more}")
    wait_until_done(page)
    assert panel(page).get_by_label("Strength, as a number").input_value() == "-4"
    assert page.get_by_role("heading", name="Steered, strength −4").is_visible()
    way = expected.ways[0]
    for name, text in (("untouched", expected.untouched), ("steered", way.steered.text), ("control", way.control.text)):
        assert shown_as(text_of(page, name)) == shown_as(text)


def test_writing_stops_on_the_server_by_the_button_by_escape_and_when_the_page_is_left(steered, served):
    page = steered(ADDRESS)
    writing = lambda: [t for t in threading.enumerate() if t.name == "itda writes"]  # noqa: E731
    ends = [
        lambda: panel(page).get_by_role("button", name="Stop").click(),
        lambda: page.keyboard.press("Escape"),
        lambda: page.get_by_role("link", name="Overview").click(),
    ]
    panel(page).get_by_label("Prompt", exact=True).fill(PROMPT)
    panel(page).get_by_label("Length, in tokens").fill("200")
    for end in ends:
        panel(page).get_by_role("button", name="Write").click()
        until(page, "document.querySelector('[data-way=steered]').textContent.length > 5")
        assert writing()
        end()
        until_ended = time.monotonic() + 10
        while writing():
            assert time.monotonic() < until_ended
            page.wait_for_timeout(10)
        if end is not ends[-1]:
            assert panel(page).get_by_role("status").inner_text() == "Stopped."
            assert panel(page).get_by_role("button", name="Write").is_enabled()
            assert text_of(page, "steered")  # what there is stays
    settle(page)
    page.wait_for_selector("dl")


def test_a_slip_is_told_and_the_next_try_works(steered, tabs):
    tabs.allowed = 1
    page = steered(ADDRESS)
    for prompt, length, sentence in (
        ("", "12", "there is no prompt"),
        ("x " * 300, "12", "tiny reads at most 256: shorten one"),
        (PROMPT, "500", "the length is '500': give a whole number from 1 to 200"),
    ):
        panel(page).get_by_label("Prompt", exact=True).fill(prompt)
        panel(page).get_by_label("Length, in tokens").fill(length)
        panel(page).get_by_role("button", name="Write").click()
        until(page, f"document.querySelector('.steer [role=alert]').textContent.includes({json.dumps(sentence)})")
    written(page)
    assert panel(page).get_by_role("alert").is_hidden()


def test_a_prompts_own_atoms_are_offered_and_the_address_has_the_one(steered, served):
    page = steered("#/prompt?run=plain&site=layer_3&text=" + urllib.parse.quote(PROMPT))
    page.wait_for_selector(".token")
    ids = page.get_by_role("region", name="The chosen token").locator("td.id").all_inner_texts()
    choice = panel(page).get_by_label("Atom, of the chosen token")
    assert [text.split()[0] for text in choice.locator("option").all_inner_texts()] == ids
    choice.select_option(ids[1].replace(",", ""))
    panel(page).get_by_label("Length, in tokens").fill("5")
    panel(page).get_by_role("button", name="Write").click()
    wait_until_done(page)
    atom = ids[1].replace(",", "")
    assert page.asked[0]["atom"] == atom
    assert page.asked[0]["prompt"] == PROMPT
    page.locator('[data-token="1"]').click()  # another token's atoms are offered; the chosen one stays
    assert choice.input_value() == atom
    assert len(page.asked) == 1
    again = steered(page.url[page.url.index("#") :])
    wait_until_done(again)
    assert panel(again).get_by_label("Atom, of the chosen token").input_value() == atom
    assert text_of(again, "steered") == text_of(page, "steered")
    again.get_by_role("textbox", name="Text").fill("import os")
    until(again, "document.querySelector('[data-way=untouched]').textContent.length > 2")
    until(again, "location.hash.includes('text=import')")


def no_model(_: Path):
    raise SettingError("the model some/where is not on this machine: give --model PATH")


@pytest.mark.parametrize("kind", ["--no-model", "no such model"])
def test_where_there_is_no_model_a_line_says_so(tabs, runs, kind):
    from itda.explorer.pages import Explorer
    from itda.explorer.server import running

    loader = None if kind == "--no-model" else no_model
    tabs.allowed = 1  # the answers that need the model are refused
    with running(Explorer(list(runs), loader=loader, compare=lambda a, b: {})) as address:
        page = tabs.open(f"{address}{ADDRESS}&strength=8")
        expected = "without --no-model to steer it" if loader is None else "is not on this machine"
        until(page, f"document.querySelector('.steer').textContent.includes({json.dumps(expected)})")
        assert panel(page).get_by_role("button").count() == 0
        assert panel(page).locator("p").count() == 1


def test_axe_finds_no_serious_fault_in_the_panel_and_it_has_its_pictures(tabs, worth_showing):  # noqa: F811
    address, names, folder = worth_showing
    more = {"prompt": "def read(path):\n    with open(path", "strength": "8", "control": "1"}
    page = tabs.open(f"{address}#/atom?{urllib.parse.urlencode({**names, **more})}", bypass_csp=True)
    wait_until_done(page)
    for width in (390, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert faults_of(page, ".steer") == []
            if width == 1280:
                picture = folder / f"steer-{scheme}.png"
                panel(page).screenshot(path=picture)
                compressed(picture)
                assert 5_000 < picture.stat().st_size < 250_000


def test_hostile_prompts_and_replies_are_text(visit):
    more = urllib.parse.urlencode({"prompt": "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"})
    page = visit(f"{ADDRESS}&{more}&strength=4&length=8")
    wait_until_done(page)
    assert page.evaluate("document.querySelectorAll('.steer img, .steer script').length") == 0


def test_errors_are_itda_errors_everywhere(served):
    with pytest.raises(ItdaError, match="no page 'steal'"):
        served.explorer.stream("steal", QUERY, lambda _: None, threading.Event())
