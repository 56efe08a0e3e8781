"""The views in a real browser, through the roles and names that a person meets."""

import json
import math
import re
import urllib.parse

import numpy as np
import pytest
import torch
from conftest import listed, until  # pyright: ignore[reportAttributeAccessIssue]
from strange_corpus import ENDED, IMAGE, SCRIPT

from itda.core.batch import Site
from itda.core.levels import two_levels
from itda.errors import MissingError, SettingError
from itda.explorer.columns import number_columns
from itda.explorer.columns import packed as packing
from itda.recipes.runs import open_run
from itda.sources.models.transformers import LanguageModel
from itda.sources.prompt import read_prompt

HERE = "run=plain&site=layer_3"
TEXT = "import os\nfor name in os.listdir(folder):\n    print(name)"
VIEWS = {
    "start": "#/start?run=refined&site=layer_3",
    "corpus": f"#/corpus?{HERE}&q=the",
    "overview": "#/overview?run=plain",
    "atoms": f"#/atoms?{HERE}",
    "atom": f"#/atom?{HERE}&atom=20",
    "prompt": f"#/prompt?{HERE}&text={urllib.parse.quote(TEXT)}",
    "features": f"#/prompt?run=refined&site=layer_3&readout=features&text={urllib.parse.quote(TEXT)}",
    "window": f"#/prompt?{HERE}&token=100",
    "compare": "#/compare?a=plain&b=refined",
}


def shown_ids(page) -> list[int]:
    if page.locator(".list-view").count():
        listed(page)
    return [int(text.replace(",", "")) for text in page.locator(".rows .row .open").all_inner_texts()]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_opens_from_its_address_and_is_no_wider_than_the_screen(visit, view, width):
    page = visit(VIEWS[view], width=width)
    page.wait_for_load_state("networkidle")
    assert page.locator("h1").count() == 1
    assert page.title().endswith("· itda")
    assert page.locator("nav a[aria-current=page]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_atoms_are_searched_by_text_token_and_document_and_the_address_has_it(visit, served):
    columns = served.ask("atoms", run="plain", site="layer_3")
    everywhere = [b + t + a for b, t, a in zip(columns["before"], columns["token"], columns["after"], strict=True)]
    names = [columns["documents"][i] for i in columns["document"]]
    page = visit(VIEWS["atoms"])
    for where, texts, query in (
        ("text", everywhere, "RETURN"),
        ("token", columns["token"], "the"),
        ("document", names, "code"),
    ):
        expected = [i for i, text in enumerate(texts) if query.lower() in text.lower()]
        page.get_by_label("Where").select_option(where)
        page.get_by_label("Search").fill(query)
        assert expected
        listed(page)
        assert set(shown_ids(page)) <= set(expected)
        assert page.get_by_role("status").first.inner_text().startswith(f"{len(expected)} of ")
    again = visit(page.url.removeprefix(served.address))
    assert shown_ids(again) == shown_ids(page)
    page.get_by_label("Search").fill("nothing has this text")
    listed(page)
    assert page.get_by_text("No atom matches").is_visible()


def test_atoms_are_filtered_by_use_and_fidelity(visit, served):
    columns = number_columns(served.explorer.runs.dictionary("refined", "layer_3"))
    page = visit("#/atoms?run=refined&site=layer_3")
    page.get_by_label("Uses from").fill("20")
    listed(page)
    expected = {i for i, uses in enumerate(columns["uses"]) if uses >= 20}
    assert set(shown_ids(page)) <= expected
    assert page.get_by_role("status").first.inner_text().startswith(f"{len(expected)} of ")
    middle = float(np.sort(columns["fidelity"])[len(columns["fidelity"]) // 2])
    page.get_by_label("Fidelity from").fill(str(middle))
    listed(page)
    expected = {i for i in expected if columns["fidelity"][i] >= middle}
    assert page.get_by_role("status").first.inner_text().startswith(f"{len(expected)} of ")


@pytest.mark.parametrize(
    "key", ["atom", "uses", "strongest", "fidelity", "novelty", "replication", "effect_continuation"]
)
def test_each_column_sorts_both_ways(visit, served, key):
    dictionary = served.explorer.runs.dictionary("refined", "layer_3")
    values = list(range(len(dictionary.itda))) if key == "atom" else number_columns(dictionary)[key].tolist()
    values = [-math.inf if math.isnan(value) else value for value in values]  # what is not known comes after the least
    page = visit("#/atoms?run=refined&site=layer_3&sort=" + ("uses" if key == "atom" else "atom"))
    for _ in range(2):
        page.locator(f"button[data-sort={key}]").click()
        listed(page)
        way = page.locator(f'.head .{key}[role="columnheader"]').get_attribute("aria-sort")
        order = sorted(range(len(values)), key=lambda i: ((-1 if way == "descending" else 1) * values[i], i))
        assert shown_ids(page)[:10] == order[:10]
    assert "sort=" + key in page.url


def test_an_atom_that_does_not_replicate_says_so_and_is_greyed(visit, served):
    columns = served.ask("atoms", run="refined", site="layer_3")
    kinds = {kind: columns["replicates"].index(kind) for kind in (True, False)}
    for kind, atom in kinds.items():
        found = served.ask("atom", run="refined", site="layer_3", atom=str(atom))["replication"]
        page = visit(f"#/atom?run=refined&site=layer_3&atom={atom}")
        said = page.locator("p.summary", has_text="made from other documents").inner_text()
        assert said.startswith("Replicates: " if kind else "Does not replicate: ")
        assert f"of 2 dictionaries made from other documents, {round(2 * found['share'])} ha" in said
        assert ("do not take it for a finding" in said) != kind
        assert page.locator(".atom-head.unreplicated").count() == (0 if kind else 1)
    page = visit("#/atoms?run=refined&site=layer_3&sort=atom&order=up")
    first = page.locator(".rows .row")
    shown = shown_ids(page)
    greyed = ["unreplicated" in (row.get_attribute("class") or "") for row in first.all()]
    assert greyed == [not columns["replicates"][atom] for atom in shown]
    page.get_by_label("Replication from").fill("0.5")
    listed(page)
    expected = sum(share >= 0.5 for share in columns["replication"])
    assert page.get_by_role("status").first.inner_text().startswith(f"{expected} of ")
    assert visit("#/atom?run=plain&site=layer_3&atom=20").get_by_text("made from other documents, ").count() == 0


def test_an_atom_shows_what_it_was_measured_to_do(visit, served):
    page = visit("#/atom?run=refined&site=layer_3&atom=20")
    found = served.ask("atom", run="refined", site="layer_3", atom="20")["effects"]
    effect = found["measures"]["added_promoted"]["effect"]
    assert effect is not None
    row = page.locator("table.measured tr", has_text="added: promoted tokens")
    shown = row.locator("td").first.inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(effect, rel=1e-2, abs=1e-2)
    assert row.locator("td").nth(2).inner_text() == (
        "yes" if found["measures"]["added_promoted"]["p"] <= 0.05 else "no"
    )
    assert visit("#/atom?run=plain&site=layer_3&atom=20").locator("table.measured").count() == 0


def test_no_atom_that_does_not_replicate_is_offered_as_a_finding(visit, served):
    """Lists have them last and in grey, and say how many; a prompt and the nearest atoms have them in grey."""
    columns = served.ask("atoms", run="refined", site="layer_3")
    replicates, uses = columns["replicates"], columns["uses"]
    number = replicates.count(False)
    assert 0 < number < len(replicates)
    page = visit("#/atoms?run=refined&site=layer_3")
    order = sorted(range(len(uses)), key=lambda i: (not replicates[i], -uses[i], i))
    assert shown_ids(page)[:20] == order[:20]
    assert f"; {number} in grey do not replicate" in page.get_by_role("status").first.inner_text()
    page = visit("#/compare?a=refined&b=plain&site_a=layer_3&site_b=layer_3")
    for part in ("both", "only_a"):
        found = served.ask("labels", a="refined", b="plain", site_a="layer_3", site_b="layer_3")[part]
        ids = [each[0] for each in found] if part == "both" else found
        kinds = [replicates[atom] for atom in ids]
        assert kinds == sorted(kinds, reverse=True)
        page.locator(f"[data-part={part}]").click()
        until(page, f"document.querySelector('[data-part={part}]').getAttribute('aria-pressed') === 'true'")
        line = page.locator(".lists p.muted", has_text="They come last")
        assert line.inner_text().startswith(f"{len(ids)} atoms; {kinds.count(False)} in grey")
    page = visit("#/prompt?run=refined&site=layer_3&t=3&text=" + urllib.parse.quote(TEXT))
    rows = page.get_by_role("region", name="The chosen token").locator("tbody tr")
    page.wait_for_selector(".token")
    atoms = [int(text.replace("?", "").replace(",", "")) for text in rows.locator("td.id").all_inner_texts()]
    greyed = [each.get_attribute("class") == "unreplicated" for each in rows.all()]
    assert greyed == [not replicates[atom] for atom in atoms]
    assert page.get_by_text("does not replicate, so do not take it for a finding").count() == any(greyed)
    near = served.ask("atom", run="refined", site="layer_3", atom="3")["nearest"]
    assert [each["unreplicated"] for each in near] == [not replicates[each["atom"]] for each in near]
    page = visit("#/atom?run=refined&site=layer_3&atom=3")
    greyed = [each.get_attribute("class") == "unreplicated" for each in page.locator("ol.nearest > li").all()]
    assert greyed == [each["unreplicated"] for each in near]


def test_the_overview_says_how_many_atoms_replicate_or_how_to_find_out(visit, served):
    site = served.ask("overview", run="refined")["sites"][1]
    page = visit("#/overview?run=refined")
    place = page.locator("table.sites thead th").all_inner_texts().index("Replicates")
    shown = page.locator("table.sites tbody tr").nth(1).locator("th, td").nth(place).inner_text()
    assert float(shown.rstrip("%")) / 100 == pytest.approx(site["replication"]["in_half"], abs=1e-3)
    assert page.get_by_text("itda replicate").count() == 0
    assert visit(VIEWS["overview"]).get_by_text("itda replicate RUN").is_visible()


@pytest.mark.parametrize("run", ["plain", "refined"])
def test_the_nearest_activations_of_other_documents_that_the_index_found_are_listed(visit, served, run):
    found = served.ask("atom", run=run, site="layer_3", atom="3")["activations"]
    dictionary = open_run(served.runs[("plain", "refined").index(run)]).dictionary(Site(3))
    assert 0 < len(found) <= 8
    assert dictionary.labels[3].document not in {each["document"] for each in found}
    page = visit(f"#/atom?run={run}&site=layer_3&atom=3")
    card = page.locator("section.card", has_text="Nearest activations in other documents")
    assert card.locator(".coefficient").all_inner_texts() == [f"{each['cosine']:.3f}" for each in found]
    marked = card.locator("mark").all_inner_texts()
    assert len(marked) == len(found)


def test_a_hundred_thousand_atoms_have_few_rows_in_the_page(visit):
    number = 100_000
    packed = {"uses": packing(np.arange(number)[::-1])}
    columns = {"atoms": number, "packed": packed, "replicates": None, "tokens": 1_000_000, "trouble": None}
    page = visit(VIEWS["overview"])

    def rows(route):
        atoms = [int(each) for each in re.search(r"atoms=([\d%C]+)", route.request.url)[1].split("%2C")]
        texts = {name: [f"{name} {atom}" for atom in atoms] for name in ("before", "token", "after", "document")}
        route.fulfill(json={"atoms": atoms, **texts, "bytes": [None] * len(atoms), "match": None})

    page.route("**/api/columns*", lambda route: route.fulfill(json=columns))
    page.route("**/api/rows*", rows)
    page.route("**/api/search*", lambda route: route.fulfill(json={"atoms": list(range(0, number, 2))}))
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Atoms").click()
    page.wait_for_selector(".rows .row")
    assert page.get_by_role("table").get_attribute("aria-rowcount") == str(number + 1)
    assert page.locator(".rows .row").count() < 60
    page.locator("button[data-sort=atom]").click()
    listed(page)
    page.locator(".rows .open").first.focus()
    page.keyboard.press("End")
    until(page, "document.activeElement.textContent === '99,999'")
    assert page.locator(".rows .row").count() < 60
    until(page, "document.activeElement.closest('.row').textContent.includes('token 99999')")
    page.get_by_label("Search").fill("return")
    until(page, "document.querySelector('.status').textContent.startsWith('50,000 of 100,000')", 3.0)


def test_the_page_of_an_atom_says_what_the_index_says(visit, served):
    data = served.ask("atom", run="plain", site="layer_3", atom="20")
    page = visit(VIEWS["atom"])
    assert page.get_by_role("heading", level=1).inner_text().startswith("Atom 20")
    own = page.get_by_role("region", name="Its own prompt")
    assert own.locator("mark").text_content().strip("␣⏎") == data["label"]["token"].strip(" \n")
    uses = data["uses"]
    assert f"Used by {uses['uses']:,} of {uses['tokens']:,} tokens" in page.locator(".summary").inner_text()
    examples = page.locator(".uses ol.examples > li")
    assert examples.count() == sum(len(group["examples"]) for group in uses["groups"])
    first = uses["groups"][0]["examples"][0]
    coefficient = examples.first.locator(".coefficient").inner_text()
    assert float(coefficient.replace("−", "-").replace(",", "")) == pytest.approx(first["coefficient"], rel=1e-2)
    bands = sum(group["kind"] == "band" and bool(group["examples"]) for group in uses["groups"])
    assert page.locator(".band").count() == bands > 0
    assert page.get_by_role("img", name=re.compile("Histogram of the coefficients")).is_visible()
    assert page.get_by_role("img", name=re.compile("pick order")).is_visible()
    examples.first.get_by_role("link").click()
    page.wait_for_selector('.token[aria-pressed="true"]')
    window = served.ask("window", run="plain", site="layer_3", token=str(first["token"]))
    assert page.locator('.token[aria-pressed="true"]').get_attribute("data-token") == str(window["at"])


def test_next_tokens_come_and_can_be_seen_alone(visit, served):
    page = visit(VIEWS["atom"])
    data = served.ask("logits", run="plain", site="layer_3", atom="20")
    promoted = page.get_by_role("table", name="Promoted").get_by_role("row")
    page.wait_for_selector(".effects")
    assert promoted.count() == len(data["relative"]["promoted"])
    before = promoted.first.get_by_role("cell").inner_text()
    page.get_by_label("alone").check()
    after = page.get_by_role("table", name="Promoted").get_by_role("row").first.get_by_role("cell").inner_text()
    assert before != after == f"{data['plain']['promoted'][0][1]:.2f}".replace("-", "−")


def test_neighbours_and_nearest_atoms_are_links(visit, served):
    page = visit(VIEWS["atom"])
    page.get_by_role("link", name="next →").click()
    until(page, "document.querySelector('h1').textContent.startsWith('Atom 21')")
    page.keyboard.press("[")
    until(page, "document.querySelector('h1').textContent.startsWith('Atom 20')")
    near = served.ask("atom", run="plain", site="layer_3", atom="20")["nearest"][0]["atom"]
    page.locator(".nearest a").first.click()
    until(page, f"document.querySelector('h1').textContent.startsWith('Atom {near:,} ')")


def test_a_prompt_is_read_by_the_readout_that_is_chosen_and_the_address_has_it(visit, served):
    run, site = open_run(served.runs[1]), Site(3)
    _, found = read_prompt(LanguageModel.load("tiny"), TEXT, [site], run.record["window"], 8)
    dictionary = run.dictionary(site)
    expected = {
        "features": dictionary.features(found[site]),
        "similarity": dictionary.similarity(found[site], top=dictionary.k),
        "levels": two_levels(dictionary).encode(found[site]),
    }
    numbers = {"features": "Score", "similarity": "Cosine", "levels": "Coefficient"}
    page = visit(f"#/prompt?run=refined&site=layer_3&text={urllib.parse.quote(TEXT)}&t=5")
    page.wait_for_selector(".token")
    for name, code in expected.items():
        page.get_by_label("Readout").select_option(name)
        until(page, f"location.hash.includes('readout={name}')")
        until(page, "document.querySelector('.result').getAttribute('aria-busy') === 'false'")
        table = page.get_by_role("region", name="The chosen token")
        assert table.locator("th").first.inner_text() == numbers[name]
        number = int(code.count[5])
        assert number > 0
        ids = [int(text.replace(",", "").lstrip("?")) for text in table.locator("td.id").all_inner_texts()]
        order = by_size(code, 5) if name == "levels" else range(number)
        assert ids == [code.indices[5, place].item() for place in order]
        shown = [float(text.replace("−", "-").replace(",", "")) for text in table.locator(".number").all_inner_texts()]
        assert shown == pytest.approx([code.coefficients[5, place].item() for place in order], rel=1e-2)
        assert page.locator('.token[aria-pressed="true"]').get_attribute("data-token") == "5"  # it stays chosen
    again = visit(page.url.removeprefix(served.address))
    again.wait_for_selector(".token")
    assert again.get_by_label("Readout").input_value() == "levels"
    again.get_by_label("Readout").select_option("code")
    until(again, "!location.hash.includes('readout')")


def by_size(code, row) -> list[int]:
    """The places of a row's atoms, the largest coefficient first."""
    sizes = code.coefficients[row, : int(code.count[row])].abs().tolist()
    return sorted(range(len(sizes)), key=lambda place: (-float(f"{sizes[place]:.5g}"), place))


def test_features_are_offered_where_they_were_fitted_and_else_a_line_says_how(visit, served):
    page = visit(VIEWS["prompt"])
    option = page.locator("option[value=features]")
    assert option.get_attribute("disabled") is not None
    assert page.get_by_text("itda features plain").is_visible()
    page = visit(VIEWS["features"])
    assert page.locator("option[value=features]").get_attribute("disabled") is None
    assert page.get_by_text("Features are not fitted").count() == 0
    with pytest.raises(MissingError, match=r"features are not fitted here: fit them with `itda features .*plain`"):
        served.ask("decompose", run="plain", site="layer_3", text="a", readout="features")
    with pytest.raises(SettingError, match="no readout 'cosine': use one of code, levels, similarity, features"):
        served.ask("decompose", run="plain", site="layer_3", text="a", readout="cosine")


def test_a_typed_prompt_is_taken_apart_as_by_the_library(visit, served):
    page = visit(f"#/prompt?{HERE}")
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.wait_for_selector(".token")
    run, site = open_run(served.runs[0]), Site(3)
    labels, found = read_prompt(LanguageModel.load("tiny"), TEXT, [site], run.record["window"], 8)
    code, error = run.dictionary(site).decompose(found[site])
    tokens = page.locator(".token")
    assert tokens.count() == len(labels)
    explained = re.search(r", ([\d.]+)% explained", tokens.nth(3).get_attribute("aria-label"))
    assert float(explained[1]) == pytest.approx(100 * (1 - float(error[3])), abs=0.06)
    tokens.nth(3).click()
    page.keyboard.press("ArrowRight")
    assert page.locator(".token:focus").get_attribute("data-token") == "4"
    atoms = page.get_by_role("region", name="The chosen token").locator("tbody .id").all_inner_texts()
    order = by_size(code, 4)
    assert [int(text.replace(",", "")) for text in atoms] == code.indices[4, order].tolist()
    picked = page.get_by_role("region", name="The chosen token").locator("tbody .pick-cell").all_inner_texts()
    assert [int(text) for text in picked] == [place + 1 for place in order]
    assert "t=4" in page.url
    assert urllib.parse.quote_plus(TEXT) in page.url


def test_an_atom_shows_where_it_is_used_and_back_returns_to_the_token(visit, served):
    page = visit(VIEWS["prompt"] + "&t=2")
    page.wait_for_selector(".token")
    data = served.ask("decompose", run="plain", site="layer_3", text=TEXT)
    atom = data["codes"][2][0][0]
    page.get_by_role("button", name=f"Show where atom {atom} is used").first.click()
    tinted = page.locator(".token.positive, .token.negative").evaluate_all(
        "all => all.map(e => Number(e.dataset.token))"
    )
    assert tinted == [i for i, (ids, _) in enumerate(data["codes"]) if atom in ids]
    page.locator("tbody .id a").first.click()
    until(page, "document.querySelector('h1').textContent.startsWith('Atom')")
    page.go_back()
    page.wait_for_selector('.token[data-token="2"][aria-pressed="true"]')
    assert page.get_by_role("textbox", name="Text").input_value() == TEXT


def test_a_text_too_long_is_told_in_a_sentence(visit, tabs):
    tabs.allowed = 1  # the browser notes the refused request
    page = visit(f"#/prompt?{HERE}")
    page.get_by_role("textbox", name="Text").fill("word " * 5000)
    page.wait_for_selector("[role=alert]:not([hidden])")
    assert re.search(r"the text has [\d,]+ (characters|tokens).*shorten it", page.get_by_role("alert").inner_text())
    page.get_by_role("textbox", name="Text").fill("  \n ")
    page.wait_for_selector("[role=alert]", state="hidden")
    assert page.locator(".token").count() == 0


def test_the_heat_map_has_the_values_of_the_comparison_and_its_lists_add_up(visit, served):
    data = served.ask("compare", a="plain", b="refined")
    page = visit(VIEWS["compare"])
    cells = page.locator(".heat-cell").all_inner_texts()
    assert [float(cell) for cell in cells] == [round(v, 2) for row in data["matrices"]["weighted"] for v in row]
    page.get_by_role("button", name=re.compile("layer_1 of a and layer_3 of b")).click()
    labels = served.ask("labels", a="plain", b="refined", site_a="layer_1", site_b="layer_3")
    counts = {}
    for name, key in (("In both", "both"), ("Only in a", "only_a"), ("Only in b", "only_b")):
        page.get_by_role("button", name=re.compile(name)).click()
        page.wait_for_selector(f'[data-part="{key}"][aria-pressed="true"]')
        text = page.locator(f'[data-part="{key}"]').inner_text()
        counts[key] = int(re.search(r"\(([\d,]+)\)", text)[1].replace(",", ""))
        first = labels[key][0][0] if key == "both" else labels[key][0]
        assert shown_ids(page)[0] == first
    assert counts == labels["counts"]
    assert counts["both"] + counts["only_a"] == served.ask("atoms", run="plain", site="layer_1")["atoms"]
    assert "site_a=layer_1" in page.url


def test_the_overview_has_settings_measures_and_charts(visit, served):
    page = visit(VIEWS["overview"])
    metrics = json.loads((served.runs[0] / "layer_3" / "metrics.json").read_text())
    row = page.get_by_role("row", name=re.compile("layer_3"))
    assert f"{metrics['fvu']:.3f}" in row.inner_text()
    assert f"{metrics['ce_loss_score']:.3f}" in row.inner_text()
    assert "at most 8 atoms per token, by mp" in page.locator("dl").inner_text()
    for name in ("Growth: layer_1", "Uses by rank", "Histogram of the share explained in layer_3"):
        assert page.get_by_role("img", name=re.compile(name)).is_visible()


@pytest.mark.parametrize("text", [SCRIPT, IMAGE, ENDED])
def test_hostile_text_of_the_corpus_is_text(visit, served, text):
    labels = open_run(served.runs[0]).dictionary(Site(3)).labels
    atoms = [atom for atom, label in enumerate(labels) if text in label.before + label.token + label.after]
    assert atoms
    for atom in atoms[:3]:
        page = visit(f"#/atom?{HERE}&atom={atom}")
        assert text in page.locator(".passage").text_content().replace("␣", " ")
        page.wait_for_load_state("networkidle")
    page = visit(f"#/atoms?{HERE}&q={urllib.parse.quote(text[:20])}")
    page.wait_for_selector(".rows .row")


def test_the_marked_token_of_a_long_prompt_is_in_sight_without_scrolling(visit, served):
    labels = open_run(served.runs[0]).dictionary(Site(3)).labels
    atom = max(range(len(labels)), key=lambda number: len(labels[number].before))
    page = visit(f"#/atom?{HERE}&atom={atom}", width=390)
    frame = "document.querySelector('.passage')"
    assert page.evaluate(f"{frame}.scrollHeight > 2 * {frame}.clientHeight")
    rectangles = f"[{frame}, {frame}.querySelector('mark')].map((each) => each.getBoundingClientRect())"
    until(page, f"(([a, b]) => a.top <= b.top && b.bottom <= a.bottom)({rectangles})", 5)


def test_a_hostile_prompt_is_text(visit):
    page = visit(f"#/prompt?{HERE}&text={urllib.parse.quote(IMAGE + SCRIPT + ENDED)}")
    page.wait_for_selector(".token")
    assert "script" in page.locator(".strip").text_content()


def test_signs_stand_for_what_cannot_be_seen(visit):
    text = "a\n\tb\u200bc\u202ed 🙂 مرحبا"
    page = visit(f"#/prompt?{HERE}&text={urllib.parse.quote(text)}")
    page.wait_for_selector(".token")
    shown = page.locator(".strip").text_content()
    assert "⏎" in shown
    assert "⇥" in shown
    assert "\u202e" not in shown
    assert "\u200b" not in shown
    assert re.search(r"⟨(200B|E2 80)", shown)
    assert "⟨F0 9F" in shown or "⟨F0⟩" in shown or "🙂" in shown


def test_prompts_run_in_their_own_direction(visit, served):
    columns = served.ask("atoms", run="plain", site="layer_3")
    arabic = [i for i, name in enumerate(columns["document"]) if "arabic" in columns["documents"][name]]
    page = visit(f"#/atom?{HERE}&atom={arabic[-1]}")
    assert page.locator(".passage").get_attribute("dir") == "rtl"
    page = visit(f"#/atom?{HERE}&atom=0")
    assert page.locator("p.passage").count() == 1


def test_float_codes_are_those_of_the_dictionary(served):
    """The window of an indexed token has the code that the dictionary gives for the model's activation there."""
    data = served.ask("window", run="plain", site="layer_3", token="50")
    index = served.explorer.runs.dictionary("plain", "layer_3").index
    atoms, coefficients = index.codes(50)
    ids, values = data["codes"][data["at"]]
    assert ids == atoms.tolist()
    assert torch.allclose(torch.tensor(values), torch.from_numpy(coefficients), rtol=1e-4)
