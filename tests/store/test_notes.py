"""Notes of atoms: what is written is there, whoever writes at the same time, and a change can be taken back."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.errors import SettingError, StoreError
from itda.files import NOTES_FILE
from itda.store.notes import AtomNotes, add_notes, change_notes, read_notes, undo_notes

LABEL = ("document", 3, 9)
TEXTS = st.text(max_size=12).map(str.strip)
CHANGES = st.one_of(
    st.fixed_dictionaries({"name": TEXTS}),
    st.fixed_dictionaries({"note": TEXTS}),
    st.fixed_dictionaries({"star": st.booleans()}),
    st.dictionaries(st.sampled_from(["a", "b"]), st.booleans(), min_size=1).map(lambda lists: {"lists": lists}),
)


def changed(run: Path, atom: int = 1, was: dict | None = None, **changes):
    return change_notes(run, "layer_3", atom, LABEL, changes, was or {})


@settings(max_examples=25)
@given(changes=st.lists(st.tuples(st.integers(0, 2), CHANGES), max_size=8))
def test_the_file_holds_what_the_changes_come_to_and_each_undo_takes_one_back(tmp_path_factory, changes):
    run = tmp_path_factory.mktemp("run")
    before = [read_notes(run).atoms]
    expected: dict[int, dict] = {}
    for atom, change in changes:
        notes = changed(run, atom, **change)
        now = expected.setdefault(atom, {"name": "", "note": "", "star": False, "lists": {}})
        now |= {name: value for name, value in change.items() if name != "lists"}
        now["lists"] = {name: True for name, on in {**now["lists"], **change.get("lists", {})}.items() if on}
        before.append(notes.atoms)
        assert read_notes(run).atoms == notes.atoms
        found = notes.atoms.get(("layer_3", atom), AtomNotes())
        assert (found.name, found.note, found.star, set(found.lists)) == (*list(now.values())[:3], set(now["lists"]))
    for earlier in reversed(before[:-1]):
        last = read_notes(run).last
        assert last is not None
        assert undo_notes(run, last["id"]).atoms == earlier
    assert read_notes(run).last is None


def test_many_writers_at_once_lose_nothing(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: changed(tmp_path, i % 4, lists={f"list {i}": True}), range(40)))
    notes = read_notes(tmp_path)
    assert sorted(name for each in notes.atoms.values() for name in each.lists) == sorted(
        f"list {i}" for i in range(40)
    )
    assert len((tmp_path / NOTES_FILE).read_text().splitlines()) == 40


def test_a_name_that_was_changed_meanwhile_is_not_written_over_unseen(tmp_path):
    changed(tmp_path, name="mine")
    with pytest.raises(SettingError, match="the name was changed elsewhere meanwhile, to 'mine'"):
        changed(tmp_path, was={"name": ""}, name="theirs")
    changed(tmp_path, was={"name": "mine"}, name="theirs")
    assert read_notes(tmp_path).atoms["layer_3", 1].name == "theirs"
    with pytest.raises(SettingError, match="another change was made meanwhile"):
        undo_notes(tmp_path, "0")


def test_a_line_cut_short_or_foreign_spoils_no_other(tmp_path):
    changed(tmp_path, star=True)
    file = tmp_path / NOTES_FILE
    file.write_bytes(file.read_bytes() + b'[]\n{"id": 3}\n\xff\xfe\n{"id": "x", "set": {"star": 3}}\n{"id": "cut sh')
    assert changed(tmp_path, name="after").atoms["layer_3", 1] == AtomNotes("after", star=True, label=LABEL)
    assert json.loads(file.read_text(errors="replace").splitlines()[-1])["set"] == {"name": "after"}


def test_notes_from_elsewhere_are_added_and_nothing_is_lost(tmp_path):
    changed(tmp_path, name="mine", note="first", lists={"a": True})
    new = AtomNotes("theirs", "second", True, ("a", "b"), LABEL)
    for _ in range(2):  # a second time changes nothing
        notes = add_notes(tmp_path, [("layer_3", 1, LABEL, new), ("layer_3", 2, LABEL, new)])
    assert notes.atoms["layer_3", 1] == AtomNotes("mine", "first\ntheirs\nsecond", True, ("a", "b"), LABEL)
    assert notes.atoms["layer_3", 2] == new
    assert notes.summary == {"atoms": 2, "named": 2, "noted": 2, "starred": 2, "lists": {"a": 2, "b": 2}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"name": 3}, {"name": "x" * 201}, {"note": "x" * 10_001}, {"star": 1}, {"lists": []}, {"lists": {"": True}},
     {"lists": {"x" * 101: True}}, {"colour": "red"}],
)  # fmt: skip
def test_what_is_no_change_is_refused_and_leaves_no_file(tmp_path, changes):
    with pytest.raises(SettingError):
        changed(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / NOTES_FILE).mkdir()
    assert read_notes(tmp_path).atoms == {}
    with pytest.raises(StoreError, match=r"notes are kept in the run's folder: make it writable"):
        changed(tmp_path, star=True)
