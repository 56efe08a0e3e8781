"""The first page, the search in the corpus, an atom elsewhere and as a picture, and help."""

import re
import struct

import numpy as np
import pytest
from conftest import until  # pyright: ignore[reportAttributeAccessIssue]
from strange_corpus import SCRIPT
from test_accessible import faults

from itda.errors import SettingError
from itda.explorer.landing import ALIKE, worth_seeing
from itda.recipes.runs import open_run

REFINED = {"run": "refined", "site": "layer_3"}


def test_the_atoms_worth_seeing_are_used_replicate_and_differ(served):
    dictionary = served.explorer.runs.dictionary("refined", "layer_3")
    atoms = list(worth_seeing(dictionary))
    assert len(atoms) == 10
    itda, index = dictionary.itda, dictionary.index
    assert all(itda.replication.replicates[atoms])
    assert all(3 <= index.counts[atom] <= 0.05 * index.tokens for atom in atoms)
    cosines = (itda.atoms[atoms] @ itda.atoms[atoms].T).numpy() - 2 * np.eye(10)
    assert cosines.max() <= ALIKE
    assert len({itda.labels[atom].token.strip().lower() for atom in atoms}) == 10


def test_the_first_page_says_what_the_run_is_and_leads_on(visit, served):
    data = served.ask("start", **REFINED)
    page = visit("#/?run=refined&site=layer_3")
    until(page, "document.querySelector('h1').textContent.startsWith('refined')")
    numbers = page.locator(".best-number").all_inner_texts()
    assert [int(text.replace(",", "")) for text in numbers] == [each["atom"] for each in data["best"]]
    assert page.get_by_text("itda evaluate RUN").is_visible()  # not measured yet
    tokens = served.ask("decompose", **REFINED, text=data["prompts"][0])["tokens"]  # loads the model, for however long
    page.locator(".prompts a").first.click()
    page.wait_for_selector(".token")
    assert page.locator(".token").count() == len(tokens)
    assert page.get_by_role("textbox", name="Text").input_value() == data["prompts"][0]
    verdict = served.ask("start", run="plain", site="layer_3")["verdict"]
    assert visit("#/start?run=plain&site=layer_3").get_by_text(verdict[0]).is_visible()


def test_the_corpus_is_searched_and_each_place_leads_to_its_token(visit, served):
    index = served.explorer.runs.dictionary("refined", "layer_3").index
    windows = [text.as_py() for text in index.text.windows_as_strings()]
    for query, regex in (("THE", ""), ("r[eé]turn", "1")):
        found = served.ask("corpus", **REFINED, q=query, regex=regex)
        pattern = re.compile(query if regex else re.escape(query), 0 if regex else re.IGNORECASE)
        assert found["windows"] == sum(bool(pattern.search(text)) for text in windows) > 0
        assert found["searched"] == 1
        for place in found["places"]:
            assert pattern.fullmatch(place["match"])
            token = index.text.token_strings(place["token"], place["token"] + 1)[0]
            assert place["match"][-1] in token  # the token at the end of the match
            ids, values = index.codes(place["token"])
            assert place["atom"] == (ids[np.abs(values).argmax()] if len(ids) else None)
    with pytest.raises(SettingError, match="cannot be read"):
        served.ask("corpus", **REFINED, q="(", regex="1")
    page = visit("#/corpus?run=refined&site=layer_3")
    page.get_by_label("Search the corpus").fill(SCRIPT[:8])
    until(page, "document.querySelectorAll('.places li').length > 0")
    assert SCRIPT[:8] in page.locator(".places li").first.text_content()
    page.locator(".place").first.click()
    page.wait_for_selector('.token[aria-pressed="true"]')


def test_an_atom_is_found_elsewhere_by_its_label_and_by_its_direction(visit, served):
    runs = [open_run(run) for run in served.runs]
    plain = served.explorer.runs.dictionary("plain", "layer_3").itda
    refined = served.explorer.runs.dictionary("refined", "layer_3").itda
    keys = [(label.document, label.char_end) for label in refined.labels]
    atom = next(i for i, label in enumerate(plain.labels) if (label.document, label.char_end) in keys)
    found = served.ask("elsewhere", run="plain", site="layer_3", atom=str(atom))
    key = (plain.labels[atom].document, plain.labels[atom].char_end)
    same = {(one["run"], one["site"]): one["atom"] for one in found["same"]}
    assert same["refined", "layer_3"] == keys.index(key)
    for run in runs:
        for site in run.sites:
            labels = [(each.document, each.char_end) for each in run.dictionary(site).labels]
            if (run.folder.name, str(site)) != ("plain", "layer_3"):
                assert ((run.folder.name, str(site)) in same) == (key in labels)
    cosines = (refined.atoms @ plain.atoms[atom]).topk(5)
    assert [one["atom"] for one in found["near"][0]["atoms"]] == cosines.indices.tolist()
    page = visit(f"#/atom?run=plain&site=layer_3&atom={atom}")
    card = page.get_by_role("region", name="Elsewhere")
    card.get_by_role("link", name=re.compile("refined, layer_3")).click()
    until(page, f"document.querySelector('h1').textContent.startsWith('Atom {keys.index(key)} ')")


def test_an_atom_is_saved_as_a_picture_and_help_is_accessible(visit, served, tmp_path):
    labels = served.explorer.runs.dictionary("plain", "layer_3").itda.labels
    hostile = next(i for i, label in enumerate(labels) if SCRIPT[:8] in label.before[-60:])
    page = visit(f"#/atom?run=plain&site=layer_3&atom={hostile}", bypass_csp=True)
    for kind in ("SVG", "PNG"):
        with page.expect_download() as saved:
            page.get_by_role("button", name=f"Save as {kind}").click()
        assert saved.value.suggested_filename == f"plain-layer_3-atom-{hostile}.{kind.lower()}"
        saved.value.save_as(tmp_path / kind)
    svg = (tmp_path / "SVG").read_text(encoding="utf-8")
    assert "<script" not in svg
    assert f"Atom {hostile}" in svg
    width, height = struct.unpack(">II", (tmp_path / "PNG").read_bytes()[16:24])
    assert width == 1800
    assert height > 300
    page.get_by_role("button", name="Help").click()
    assert page.get_by_role("dialog").get_by_text("Replication", exact=True).is_visible()
    assert faults(page) == []
    page.get_by_role("button", name="Close").click()
    assert page.get_by_role("dialog").count() == 0


def test_compare_says_whose_its_numbers_are(visit, served):
    both = served.ask("labels", a="plain", b="refined", site_a="layer_3", site_b="layer_3")["both"]
    page = visit("#/compare?a=plain&b=refined&site_a=layer_3&site_b=layer_3")
    page.wait_for_selector(".lists .rows .row .other a")
    assert page.get_by_text("are those of a: plain, layer_3.").is_visible()
    others = page.locator(".lists .rows .other a").all_inner_texts()
    assert [int(text.replace(",", "")) for text in others[:5]] == [pair[1] for pair in both[:5]]
    page.locator("[data-part=only_b]").click()
    until(page, "document.querySelector('[data-part=only_b]').getAttribute('aria-pressed') === 'true'")
    assert page.get_by_text("are those of b: refined, layer_3.").is_visible()


def test_what_a_first_search_needs_is_read_ahead_and_the_first_page_is_worked_out_once(served):
    explorer, where = served.explorer, {"run": "refined", "site": "layer_3"}
    explorer.read_ahead()
    first = next(iter(explorer.runs.folders))
    site = list(explorer.runs.sites(first))
    assert "texts" in vars(explorer.runs.dictionary(first, str(site[len(site) // 2])))
    told = explorer.answer("start", where)
    kept = explorer.runs.dictionary("refined", "layer_3").first_page
    assert (
        [each["atom"] for each in told["best"]]
        == kept["best"]
        == list(worth_seeing(explorer.runs.dictionary("refined", "layer_3")))
    )
    assert explorer.answer("start", where) == told
