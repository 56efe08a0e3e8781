"""The page of a prompt: other readouts beside the code, a tint by any atom, long texts, and what stays in sight."""

import re
import urllib.parse

import pytest
import torch
from conftest import until  # pyright: ignore[reportAttributeAccessIssue]
from test_browser import TEXT

from itda.core.site import Site
from itda.recipes.runs import open_run
from itda.sources.models.transformers import LanguageModel
from itda.sources.prompt import read_prompt, read_windows

REFINED = {"run": "refined", "site": "layer_3"}
LONG = "The harbour was quiet before the storm, and nobody spoke of the wind. " * 40
BUSY = "document.querySelector('.result').getAttribute('aria-busy')"


@pytest.fixture(scope="module")
def activations(served):
    run = open_run(served.runs[1])
    _, found = read_prompt(LanguageModel.load("tiny"), TEXT, [Site(3)], run.record["window"], 8)
    return run.dictionary(Site(3)), found[Site(3)]


def test_similarity_and_features_are_beside_the_code(visit, served, activations):
    dictionary, x = activations
    page = visit(f"#/prompt?run=refined&site=layer_3&t=5&text={urllib.parse.quote(TEXT)}")
    page.wait_for_selector(".token")
    for name, code in (
        ("Nearest atoms", dictionary.similarity(x, top=8)),
        ("Detectors that fire", dictionary.features(x, top=8)),
    ):
        card = page.get_by_role("region", name=name)
        ids = [int(text.lstrip("?").replace(",", "")) for text in card.locator("td.id").all_inner_texts()]
        assert ids == code.indices[5, : code.count[5]].tolist()
        shown = [float(text.replace("−", "-")) for text in card.locator(".number-cell").all_inner_texts()]
        assert shown == pytest.approx(code.coefficients[5, : code.count[5]].tolist(), abs=6e-3)
    shares = page.get_by_role("region", name="The chosen token").locator(".share-cell").all_inner_texts()
    explained = served.ask("decompose", **REFINED, text=TEXT)["explained"][5]
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100 * explained, abs=0.5)


def test_a_text_is_tinted_by_any_atom_and_the_chosen_token_too(visit, served, activations):
    dictionary, x = activations
    found = served.ask("decompose", **REFINED, text=TEXT, atom="7")["chosen"]
    assert found["cosine"] == pytest.approx(dictionary.similarity(x)[:, 7].tolist(), abs=1e-4)
    fired = dictionary.features(x, top=len(dictionary))
    rows, places = torch.nonzero(fired.indices == 7, as_tuple=True)
    rows, places = rows[places < fired.count[rows]], places[places < fired.count[rows]]
    assert len(rows) > 0
    assert [found["score"][row] for row in rows] == pytest.approx(fired.coefficients[rows, places].tolist(), abs=1e-3)
    page = visit("#/atom?run=refined&site=layer_3&atom=7")
    page.get_by_label("Text to tint").fill(TEXT)
    page.wait_for_selector(".tinted-card .token")
    page.get_by_role("radio", name="cosine to the atom").check()
    page.get_by_role("link", name="Take it apart into all its atoms").click()
    page.wait_for_selector(".result > section .token")
    assert "a=7" in page.url
    assert "by=cosine" in page.url
    assert page.locator(".token.positive, .token.negative").count() == page.locator(".token:not(.massive)").count()
    chosen = page.locator('.token[aria-pressed="true"]')
    ground = chosen.evaluate("e => getComputedStyle(e).backgroundColor")
    assert re.match(r"rgba\((37, 118, 214|217, 104, 20),", ground)  # a tint, not the yellow of a mark
    page.get_by_role("textbox", name="Text").fill("import sys")
    until(page, f"{BUSY} === 'false' && document.querySelectorAll('.token').length < 12")
    assert "a=7" in page.url  # the atom stays


def test_a_long_text_is_read_in_windows_as_the_corpus_is(visit, served, tabs):
    run = open_run(served.runs[1])
    model = LanguageModel.load("tiny")
    data = served.ask("decompose", **REFINED, text=LONG)
    windows = model.windower(run.record["window"], run.bos).windows(_document(LONG))
    assert len(windows) > 2
    lengths = [len(window.token_ids) for window in windows]
    assert data["windows"] == [sum(lengths[:i]) for i in range(len(lengths))]
    _, found, starts = read_windows(model, LONG, [Site(3)], run.record["window"], 8, run.bos)
    code = run.dictionary(Site(3)).encode(found[Site(3)])
    last = len(data["codes"]) - 1
    assert starts == data["windows"]
    assert data["codes"][last][0] == code.indices[last, : code.count[last]].tolist()
    page = visit("#/prompt?run=refined&site=layer_3")
    box = page.get_by_role("textbox", name="Text")
    box.fill(LONG)
    page.wait_for_selector(".token")
    assert page.locator(".window-edge").count() == len(windows) - 1
    assert f"cut into {len(windows)} windows" in page.get_by_role("region", name="Text", exact=True).inner_text()
    number = page.locator(".token").count()
    tabs.allowed = 1  # the browser notes the refused request
    box.fill("word " * 5000)
    page.wait_for_selector("[role=alert]:not([hidden])")
    assert page.locator(".token").count() == number  # the last result stays


def _document(text):
    from itda.sources.corpora.corpus import Document

    return Document("prompt", text)
