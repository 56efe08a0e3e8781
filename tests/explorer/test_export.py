"""The exported page: opened from its file, with nothing to ask anybody."""

import json
import re

import pytest
from conftest import listed, settle, until  # pyright: ignore[reportAttributeAccessIssue]
from strange_corpus import IMAGE
from test_accessible import faults, rest

from itda import config as settings
from itda.cli import main
from itda.core.site import Site
from itda.explorer.export import EXPORT, MODULES, STATIC
from itda.recipes.explore import export

PROMPTS = ("import os", f"</script>{IMAGE}")


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "page.html"
    size = export(settings.Explore(runs=runs, export=file, prompts=PROMPTS, top=40, layer=Site(3), quiet=True))
    assert size == file.stat().st_size
    return file


def test_a_page_from_a_file_works_and_asks_nobody(tabs, exported):
    page = tabs.open(exported.as_uri())
    page.get_by_role("heading", name="atoms worth seeing").wait_for()
    until(page, "document.querySelectorAll('.best > ol > li').length === 10")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Atoms").click()
    listed(page)
    until(page, "document.querySelector('.status').textContent.startsWith('40 atoms of')")
    page.get_by_label("Search").fill("the")
    until(page, "location.hash.includes('q=the')")
    until(page, "document.querySelector('.status').textContent.includes(' of 40 atoms')")
    listed(page)
    page.locator(".rows .open").first.click()
    until(page, "document.querySelector('h1').textContent.startsWith('Atom')")
    page.wait_for_selector("ol.examples > li")
    until(page, "document.querySelectorAll('.effects tr').length > 10")
    steering = page.get_by_role("region", name="Steer by this atom")
    assert "This page stands alone: open the run with `itda explore` to steer" in steering.inner_text()
    assert steering.get_by_role("button").count() == 0
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Prompt").click()
    page.wait_for_selector(".token")
    page.get_by_label("Prompt").select_option(index=1)
    until(page, "document.querySelector('.strip').textContent.includes('onerror')")
    wanted = [("plain", "features", False), ("plain", "similarity", True), ("refined", "features", True)]
    for run, name, is_carried in wanted:
        page.get_by_role("combobox", name="Run", exact=True).select_option(run)
        until(page, f"location.hash.includes('run={run}')")
        page.wait_for_selector(".token")
        is_shut = "false" if is_carried else "true"  # once the run's view is there
        until(page, f"document.querySelector('option[value={name}]').disabled === {is_shut}")
        if is_carried:
            page.get_by_label("Readout").select_option(name)
            number = {"features": "Score", "similarity": "Cosine"}[name]
            until(page, f"document.querySelector('.codes th').textContent === '{number}'")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Compare").click()  # from the second run too
    page.wait_for_selector(".heat-cell")
    page.wait_for_selector(".lists .rows .row")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Atoms").click()
    page.get_by_role("combobox", name="Run", exact=True).select_option("plain")
    until(page, "location.hash.includes('run=plain')")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Compare").click()
    page.wait_for_selector(".heat-cell")
    page.wait_for_selector(".lists .rows .row")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Overview").click()
    page.wait_for_selector("dl")
    page.go_back()
    page.wait_for_selector(".heat-cell")
    assert {url.partition("#")[0] for url in tabs.requests} <= {exported.as_uri(), "data:,"}


def test_the_page_is_accessible_and_readable_in_the_dark(tabs, exported):
    page = tabs.open(exported.as_uri(), color_scheme="dark", bypass_csp=True)
    rest(page)
    assert faults(page) == []


def test_without_scripts_the_atoms_can_be_read(tabs, exported):
    page = tabs.open(exported.as_uri(), java_script_enabled=False)
    sections = page.locator("noscript section")
    assert sections.count() == 80
    assert sections.first.locator("mark").count() >= 1
    data = re.search(r'id="data">(.*?)</script>', exported.read_text(encoding="utf-8"))
    assert data is not None
    answers = json.loads(data[1])["answers"]
    found = [each["replication"] for name, each in answers.items() if name.startswith("atom?") and each["replication"]]
    unreplicated = sum(not each["replicates"] for each in found)
    assert len(found) == 40
    assert page.locator("noscript section", has_text="It does not replicate").count() == unreplicated
    tabs.allowed = 1  # nothing can be evaluated there


def test_what_the_page_does_not_carry_is_told(tabs, exported):
    page = tabs.open(exported.as_uri() + "#/prompt?run=plain&site=layer_3&token=3")
    assert "does not carry that" in page.get_by_role("alert").inner_text()
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Atoms").click()
    settle(page)
    page.wait_for_selector(".rows .row")


def test_the_corpus_and_elsewhere_are_said_to_be_missing_where_they_would_be(tabs, exported):
    page = tabs.open(exported.as_uri() + "#/start?run=plain&site=layer_3")
    assert "not in this page" in page.get_by_role("region", name="Where to go").inner_text()
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Corpus").click()
    page.get_by_text("does not carry the corpus").wait_for()
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Atoms").click()
    page.locator(".rows .row a").first.click()
    page.get_by_text("does not carry where else the atom is").wait_for()


def test_text_cannot_end_the_data_or_the_script(exported):
    text = exported.read_text(encoding="utf-8")
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 2
    assert "<img" not in text


def test_modules_are_all_there_in_an_order_that_works_and_export_no_name_twice():
    assert {f"{name}.js" for name in MODULES} == {file.name for file in STATIC.glob("*.js")}
    names: list[str] = []
    for place, name in enumerate(MODULES):
        text = (STATIC / f"{name}.js").read_text(encoding="utf-8")
        needed = re.findall(r"from \"\./([a-z]+)\.js\";", text)
        assert len(needed) == len(re.findall("^import ", text, re.MULTILINE))
        assert set(needed) <= set(MODULES[:place])
        names += EXPORT.findall(text)
    assert len(names) == len(set(names))


def test_the_front_end_asks_the_network_for_nothing_and_parses_no_markup():
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), file.name
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file.name
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--atoms", "99999"], "no atom 99999"),
        (["--atoms", "one"], "write it as 3,17,25"),
        (["--top", "0"], "carry at least 1 atom"),
        (["--layer", "2"], "has no layer 2"),
        (["--prompts", "word " * 9000], "shorten it"),
    ],
)
def test_bad_wishes_are_one_line_and_leave_no_file(runs, tmp_path, capsys, options, sentence):
    target = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["explore", str(runs[0]), "--export", str(target), "--quiet", *options])
    assert ended.value.code == 2
    message = capsys.readouterr().err.strip()
    assert sentence in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_chosen_atoms_are_carried(runs, tmp_path, capsys):
    main(["explore", str(runs[0]), "--export", str(tmp_path / "page.html"), "--atoms", "3,5", "--no-model", "--quiet"])
    assert "file://" in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<section><h2>Atom") == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["explore", str(tmp_path)])
    assert ended.value.code == 2
    assert "run.json" in capsys.readouterr().err
