"""Names, notes, stars and lists in the pages: kept in the run, seen in the terminal, harmless whatever they say."""

import json

import pytest
from conftest import listed, until  # pyright: ignore[reportAttributeAccessIssue]
from strange_corpus import ENDED, IMAGE

from itda.cli import main
from itda.errors import SettingError
from itda.explorer import notes as pages
from itda.files import NOTES_FILE
from itda.store.notes import read_notes

WHERE = {"run": "plain", "site": "layer_3"}
ATOM = "#/atom?run=plain&site=layer_3&atom=20"
STATUS = "document.querySelector('.own-notes [role=status]').textContent"


@pytest.fixture(autouse=True)
def without_notes(request):
    yield
    for run in request.getfixturevalue("served").runs:
        (run / NOTES_FILE).unlink(missing_ok=True)


def note(served, atom: int, **changes):
    return served.ask("note", **WHERE, atom=str(atom), changes=json.dumps(changes))


def test_a_star_a_name_a_note_and_a_list_are_kept_and_undone(visit, served, capsys):
    page = visit(ATOM)
    page.get_by_role("button", name="☆ star").click()
    until(page, f"{STATUS} === 'Saved in the run.'")
    for label, text in (("Name", f"days {IMAGE}"), ("Note", f"two\nlines {ENDED}"), ("Add to a list", "time")):
        page.get_by_label(label, exact=True).fill(text)
        page.keyboard.press("Control+Enter")
        page.keyboard.press("Tab")
        until(page, f"{STATUS} === 'Saved in the run.'")
    until(page, "document.querySelectorAll('.own-list').length === 1")
    found = read_notes(served.runs[0]).atoms["layer_3", 20]
    assert (found.name, found.note, found.star, found.lists) == (
        f"days {IMAGE}",
        f"two\nlines {ENDED}",
        True,
        ("time",),
    )
    assert page.locator("h1 .atom-name").inner_text().strip() == f"★ days {IMAGE}"
    page = visit("#/atoms?run=plain&site=layer_3&mine=list:time")
    listed(page)
    assert page.locator(".rows .open").all_inner_texts() == ["20"]
    assert page.locator(".rows .atom-name").inner_text() == f"days {IMAGE}"
    page.get_by_label("Yours").select_option("")
    page.get_by_label("Where").select_option("note")
    page.get_by_label("Search").fill("LINES")
    listed(page)
    assert page.locator(".rows .open").all_inner_texts() == ["20"]
    assert page.locator(".found-in .hit").inner_text() == "lines"
    page.get_by_text("Notes (1)").click()
    page.get_by_role("button", name="Undo the last change").click()
    until(page, "document.querySelector('.notes-menu [role=status]').textContent === 'Undone.'")
    assert read_notes(served.runs[0]).atoms["layer_3", 20].lists == ()
    main(["info", str(served.runs[0])])
    out = capsys.readouterr().out
    assert "Your notes: 1 atoms, 1 with a name, 1 with a note, 1 starred" in " ".join(out.split())
    assert "layer_3 20 «days" in out
    main(["info", str(served.runs[0]), "--json"])
    assert json.loads(capsys.readouterr().out)["notes"]["named"] == 1


def test_two_browsers_at_once_lose_nothing(visit, served, tabs):
    tabs.allowed = 1  # the browser notes the refused change
    first, second = visit(ATOM), visit(ATOM)
    for page, text in ((first, "one"), (second, "two")):
        page.get_by_label("Note", exact=True).fill(text)
        page.keyboard.press("Tab")
        until(page, f"/Saved|elsewhere/.test({STATUS})")
    assert "changed elsewhere meanwhile, to 'one'" in second.locator(".own-notes [role=status]").inner_text()
    assert second.get_by_label("Note", exact=True).input_value() == "two"  # what was typed is not lost
    assert read_notes(served.runs[0]).atoms["layer_3", 20].note == "one"
    second.get_by_role("button", name="☆ star").click()
    until(second, f"{STATUS} === 'Saved in the run.'")
    assert read_notes(served.runs[0]).atoms["layer_3", 20].note == "one"


def test_notes_go_to_another_run_by_their_labels_and_a_second_time_changes_nothing(visit, served, tmp_path):
    for atom in (3, 20):
        note(served, atom, name=f"number {atom}", lists={"some": True})
    page = visit("#/atoms?run=plain&site=layer_3")
    page.get_by_text("Notes (2)").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export as JSON").click()
    file = tmp_path / "notes.json"
    saved.value.save_as(file)
    exported = json.loads(file.read_text())
    exported["atoms"].append({"site": "layer_3", "atom": 0, "label": ["nowhere", 0, 1], "star": True})
    exported["atoms"].append({"site": "layer_9", "atom": 0, "label": ["nowhere", 0, 1], "star": True})
    before = (served.runs[0] / NOTES_FILE).read_text()
    found = served.ask("import_notes", **WHERE, notes=json.dumps(exported))
    assert (found["imported"], found["skipped"]) == (2, 2)
    assert (served.runs[0] / NOTES_FILE).read_text() == before
    (served.runs[0] / NOTES_FILE).unlink()
    page.get_by_label("A file of notes to import").set_input_files(file)
    until(page, "document.querySelector('.notes-menu [role=status]').textContent.startsWith('2 imported')")
    listed(page)
    assert {atom: each.name for (_, atom), each in read_notes(served.runs[0]).atoms.items()} == {
        3: "number 3",
        20: "number 20",
    }
    for bad in ("[]", '{"format": "other"}', '{"format": "itda-notes", "format_version": 1, "atoms": [{}]}'):
        with pytest.raises(SettingError):
            served.ask("import_notes", **WHERE, notes=bad)


def test_the_list_is_saved_as_a_table_without_formulas(visit, served, tmp_path):
    note(served, 3, name="=1+1")
    page = visit("#/atoms?run=plain&site=layer_3&mine=any")
    listed(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as CSV").click()
    saved.value.save_as(tmp_path / "atoms.csv")
    import csv

    head, row = list(csv.reader((tmp_path / "atoms.csv").read_text(encoding="utf-8-sig").splitlines(keepends=True)))
    values = dict(zip(head, row, strict=True))
    assert (values["atom"], values["name"]) == ("3", "'=1+1")
    assert int(values["uses"]) == served.ask("atoms", **WHERE)["uses"][3]


def test_notes_follow_the_label_when_the_dictionary_is_another(served):
    note(served, 3, name="three")
    file = served.runs[0] / NOTES_FILE
    entry = json.loads(file.read_text())
    labels = served.explorer.runs.dictionary("plain", "layer_3").itda.labels
    file.write_text(json.dumps(entry | {"label": list(labels[7].key)}) + "\n")
    assert list(served.ask("notes", **WHERE)["atoms"]) == ["7"]
    file.write_text(json.dumps(entry | {"label": ["gone", 0, 1]}) + "\n")
    assert served.ask("notes", **WHERE)["atoms"] == {}
    assert served.ask("notes", **WHERE)["lost"] == 1


def test_a_folder_that_may_not_be_written_says_so(visit, served, monkeypatch):
    monkeypatch.setattr(pages.os, "access", lambda *_: False)
    page = visit(ATOM)
    assert page.get_by_text("Notes cannot be kept here").is_visible()
    assert page.get_by_role("button", name="☆ star").is_disabled()
