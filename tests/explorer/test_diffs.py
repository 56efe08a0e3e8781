"""Diffs in the explorer: what its answers say, what it refuses, and the views in a real browser."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import until  # pyright: ignore[reportAttributeAccessIssue]
from serving import get, port_of
from strange_corpus import DOCUMENTS, write_to
from test_accessible import PICTURES, compressed, faults, rest
from test_cli import refused

from itda import config as settings
from itda.diffing.summary import summary
from itda.errors import ItdaError, MissingError, SettingError
from itda.explorer.server import running
from itda.recipes.diff import diff
from itda.recipes.explore import explorer_of
from itda.sources.models.transformers import LanguageModel
from itda.store.diffs import read_diff

NAME = "21 english.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A diff, called `found`, of tiny and a noisy tiny on the strange corpus; and the noisy one."""
    root = tmp_path_factory.mktemp("diffs")
    (root / "corpus").mkdir()
    write_to(root / "corpus")
    torch.manual_seed(0)
    noisy = LanguageModel.load("tiny")
    with torch.no_grad():
        for parameter in noisy.model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    noisy.model.save_pretrained(root / "noisy")
    noisy.tokenizer.save_pretrained(root / "noisy")
    options = {"corpus": str(root / "corpus"), "tokens": 2500, "window": 64, "layers": (1, 3), "quiet": True}
    diff(settings.Diff(base="tiny", changed=str(root / "noisy"), noise=0, out=root / "found", **options))
    return root


@pytest.fixture(scope="module")
def made(folder):
    return read_diff(folder / "found")


@pytest.fixture(scope="module")
def explorer(folder):
    return explorer_of(settings.Explore(runs=(folder / "found",)))


@pytest.fixture(scope="module")
def address(explorer):
    with running(explorer) as found:
        yield found


@pytest.fixture(scope="module")
def exported(folder):
    from itda.recipes.explore import export

    page = folder / "page.html"
    assert export(settings.Explore(runs=(folder / "found",), export=page)) == page.stat().st_size
    return page


def first(explorer) -> dict:
    return explorer.answer("diff", {"diff": "found"})["atoms"][0]


def query_of(atom: dict) -> dict[str, str]:
    return {"diff": "found", "site": atom["site"], "atom": str(atom["atom"])}


def test_the_first_page_is_the_summary_of_the_diff(explorer, made):
    assert explorer.answer("diff", {"diff": "found"}) == summary(made.values)
    (listed,) = explorer.answer("runs", {})["diffs"]
    assert listed == {
        "name": "found",
        "base": "tiny",
        "changed": "noisy",
        "sites": ["layer_1", "layer_3"],
        "live": True,
    }


def test_the_texts_of_an_atom_are_whole_and_shaded_at_the_tokens_that_were_read(explorer, made):
    for listed in explorer.answer("diff", {"diff": "found"})["atoms"]:
        atom = explorer.answer("diff_atom", query_of(listed))
        tokens = [atom, *atom["examples"]]
        assert len(atom["texts"]) == len(tokens)
        for text, token in zip(atom["texts"], tokens, strict=True):
            assert "".join(text["tokens"]) == token["before"] + token["token"] + token["after"]
            assert text["document"] == token["document"]
            at = text["at"]
            assert text["kl"][at] is None or text["kl"][at] == pytest.approx(token["kl"], rel=1e-4)
            assert token["token"].endswith(text["tokens"][at])
            assert sum(energy for _, energy in text["codes"][at]) <= 1.001 * text["energy"][at]
            assert atom["atom"] in [one for one, _ in text["codes"][at]]
    read = sum(energy is not None for text in atom["texts"] for energy in text["energy"])
    assert read > sum(energy is None for text in atom["texts"] for energy in text["energy"])


def test_a_text_that_is_typed_is_shaded_as_the_diff_shaded_it(explorer, made):
    rows = np.flatnonzero(made.tokens["document"] == NAME)[:40]
    text = DOCUMENTS[NAME][: made.tokens["char_end"][rows[-1]]]
    found = explorer.answer("diff_text", {"diff": "found", "site": "layer_3", "text": text})
    assert "".join(found["tokens"]) == text
    energies = np.array([each for each in found["energy"] if each is not None])
    columns = made.rows[next(site for site in made.sites if str(site) == "layer_3")]
    here = np.isin(columns["token"], rows)
    assert energies == pytest.approx(columns["energy"][here], rel=1e-2, abs=1e-4)
    divergences = [each for each in found["kl"] if each is not None]
    assert len(divergences) == len(rows) - 1  # what comes after the last one is not known
    assert divergences == pytest.approx(made.tokens["kl"][rows][:-1].tolist(), rel=2e-2, abs=1e-4)
    used = {str(atom) for code in found["codes"] for atom, _ in code}
    assert set(found["atoms"]) == used


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("diff", {"diff": "other"}, "no diff 'other' here: use one of found"),
        ("diff_atom", {"site": "layer_2"}, "found has no layer_2: use one of layer_1, layer_3"),
        ("diff_atom", {"atom": "9999"}, "no atom 9,999: there are"),
        ("diff_atom", {"atom": "x"}, "atom is 'x': give a number"),
        ("diff_text", {"text": "a" * 20_001}, "the text has 20,001 characters: shorten it to 20,000"),
    ],
)
def test_a_bad_question_is_refused_in_a_sentence(explorer, address, name, change, sentence):
    query = {"diff": "found", "site": "layer_3", "atom": "0", **change}
    with pytest.raises((MissingError, SettingError), match=sentence):
        explorer.answer(name, query)
    if name != "diff_text":
        reply = get(port_of(address), f"/api/{name}?" + "&".join(f"{key}={value}" for key, value in query.items()))
        assert reply.status in (400, 404)
        assert sentence in reply.json["error"]


def test_models_that_are_not_at_hand_are_one_line_and_the_rest_is_shown(folder, made, tmp_path):
    shutil.copytree(folder / "found", tmp_path / "found")
    record = tmp_path / "found" / "diff.json"
    record.write_text(record.read_text().replace(str(folder / "noisy"), str(tmp_path / "gone")))
    explorer = explorer_of(settings.Explore(runs=(tmp_path / "found",)))
    assert explorer.answer("diff", {"diff": "found"})["changed"] == "gone"
    text = {"diff": "found", "site": "layer_3", "text": "a text"}
    with pytest.raises(ItdaError) as error:
        explorer.answer("diff_text", text)
    assert "\n" not in str(error.value)
    assert "gone" in str(error.value)
    without = explorer_of(settings.Explore(runs=(tmp_path / "found",), model=False))
    assert not without.answer("runs", {})["diffs"][0]["live"]
    with pytest.raises(MissingError, match="without --no-model"):
        without.answer("diff_text", text)


def test_a_diff_and_a_run_are_not_exported_together(folder, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    arguments = ["explore", str(folder / "found"), str(tmp_path / "run"), "--export", str(tmp_path / "page.html")]
    assert "is a diff and" in refused(capsys, *arguments)


@pytest.fixture
def look(tabs, address):
    """Open a view of the diff; all that it asks for must come from that server."""

    def opened(view: str = "", **options):
        return tabs.open(address + view, **options)

    yield opened
    assert [url for url in tabs.requests if not url.startswith((address, "data:"))] == []


def change_of(explorer) -> str:
    atom = first(explorer)
    return f"#/change?diff=found&site={atom['site']}&atom={atom['atom']}"


def test_a_diff_opens_with_its_verdict_and_its_list_which_leads_to_an_atom_and_back(look, explorer):
    page = look()
    found = explorer.answer("diff", {"diff": "found"})
    assert page.text_content("h1") == "What changed: tiny → noisy"
    assert page.text_content(".summary strong") == found["verdict"][0]
    assert page.locator(".changes tbody tr").count() == len(found["atoms"])
    page.locator(".changes tbody a").first.focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelector('h1').textContent.startsWith('Change 1 ')")
    assert page.locator(".shaded").count() == 1 + len(found["atoms"][0]["examples"])
    assert page.locator(".shaded mark").count() == page.locator(".shaded").count()
    page.get_by_role("link", name="← what changed").click()
    until(page, "document.querySelector('h1').textContent.startsWith('What changed')")


def test_the_shade_of_an_atoms_texts_is_chosen_by_keys_and_kept_in_the_address(look, explorer):
    page = look(change_of(explorer))
    before = page.locator(".shaded .positive").count()
    page.locator('input[value="atom"]').focus()
    page.keyboard.press("ArrowDown")
    until(page, "location.hash.includes('by=energy')")
    assert page.locator(".shaded .positive").count() > before > 0
    assert "energy " in page.locator(".shaded .weight").first.get_attribute("title")


def test_lists_of_a_layer_change_with_the_choice(look):
    page = look("#/diff?diff=found&site=layer_1")
    texts = page.locator(".tokens h3").all_text_contents()
    page.select_option('select[name="site"]', "layer_3")
    until(page, "location.hash.includes('layer_3')")
    assert page.locator(".tokens h3").all_text_contents() != texts


def test_any_text_is_shaded_as_it_is_typed_and_stays_text(look):
    page = look("#/both")
    page.fill("#text", "def read(self):\n    <script>window.pwned=1</script> </textarea>")
    until(page, "document.querySelectorAll('.result .shaded .positive').length > 3")
    assert "<script>window.pwned=1</script>" in page.text_content(".result .shaded")
    assert "text=def" in page.evaluate("location.hash")
    page.locator('input[value="kl"]').check()
    until(page, "location.hash.includes('by=kl')")
    assert page.locator(".result .codes tbody tr").count() > 0
    page.fill("#text", "")
    until(page, "!document.querySelector('.result .shaded')")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390)])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(look, explorer, scheme, width):
    for view in ("", change_of(explorer), "#/both?text=import%20os"):
        page = look(view, color_scheme=scheme, width=width, bypass_csp=True)
        if "both" in view:
            until(page, "document.querySelector('.result .shaded')")
        rest(page)
        assert faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_exported_page_stands_alone(tabs, exported: Path, explorer):
    page = tabs.open(exported.as_uri())
    assert page.text_content("h1") == "What changed: tiny → noisy"
    page.locator(".changes tbody a").first.click()
    until(page, "document.querySelectorAll('.shaded mark').length > 0")
    page.goto(exported.as_uri() + "#/both")
    until(page, "document.querySelector('.lead').textContent.includes('stands alone')")
    assert [url for url in tabs.requests if not url.startswith(("file:", "data:"))] == []


def test_a_phone_shows_all_columns_of_the_list(tabs, address):
    page = tabs.open(address, width=390)
    row = page.locator(".changes tbody tr").first
    for column in ("id", "layer", "weight-cell", "share", "prompt-cell", "promotes"):
        assert row.locator(f".{column}").is_visible(), column
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_scripts_an_exported_page_has_the_verdict_and_the_texts(tabs, exported: Path, explorer):
    page = tabs.open(exported.as_uri(), java_script_enabled=False)
    found = explorer.answer("diff", {"diff": "found"})
    assert found["verdict"][0] in page.text_content("main")
    assert page.locator("main mark").count() == len(found["atoms"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_changed_has_its_picture(tabs, address, tmp_path, scheme):
    """Of the diff that ITDA_SCREENSHOTS_DIFF names, if pictures for the docs are wanted; else of the tests' own."""
    shown = os.environ.get("ITDA_SCREENSHOTS_DIFF")
    folder = PICTURES if shown else tmp_path
    if shown:
        with running(explorer_of(settings.Explore(runs=(Path(shown),), model=False))) as other:
            page = tabs.open(other, color_scheme=scheme)
            rest(page)
            page.screenshot(path=folder / f"diff-{scheme}.png")
    else:
        page = tabs.open(address, color_scheme=scheme)
        page.screenshot(path=folder / f"diff-{scheme}.png")
    compressed(folder / f"diff-{scheme}.png")
    assert 5_000 < (folder / f"diff-{scheme}.png").stat().st_size < 250_000
