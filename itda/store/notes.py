"""What a reader wrote of a run's atoms: names, notes, stars and lists, kept in the run as `notes.jsonl`.

Each change is a line of its own and none is ever written over, so two readers at once lose nothing, and a change can be
undone. A line names the atom and its label; `docs/run_folder.md` has the format.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from itda.errors import SettingError
from itda.files import NOTES_FILE, explained, lines_file

MOST = {"name": 200, "note": 10_000}
"""Characters of a name and of a note, at most."""
MOST_OF_LIST, MOST_LISTS = 100, 50
"""Characters of a list's name, and lists that one change may name, at most."""

Key = tuple[str, int, int]
"""The identity of a label: document, position, end of the token. As in `itda.core.labels`, which needs tensors."""
AtomKey = tuple[str, int]
"""A site and the number of an atom."""


@dataclass(frozen=True)
class AtomNotes:
    """What is written of one atom."""

    name: str = ""
    note: str = ""
    star: bool = False
    lists: tuple[str, ...] = ()
    label: Key | None = None
    """The key of the atom's label when it was written of: another dictionary may have another atom of its number."""

    @property
    def empty(self) -> bool:
        """True if nothing is written."""
        return not (self.name or self.note or self.star or self.lists)


@dataclass(frozen=True)
class Notes:
    """All that is written of a run's atoms.

    >>> Notes().summary
    {'atoms': 0, 'named': 0, 'noted': 0, 'starred': 0, 'lists': {}}
    """

    atoms: Mapping[AtomKey, AtomNotes] = field(default_factory=dict)
    """What is written, by site and atom; atoms of which nothing is written are not there."""
    last: Mapping[str, Any] | None = None
    """The last change, for an undo; None if there is none."""

    def of(self, site: str) -> dict[int, AtomNotes]:
        """Return what is written of the atoms of a site."""
        return {atom: each for (other, atom), each in self.atoms.items() if other == site}

    @property
    def summary(self) -> dict[str, Any]:
        """The counts that `itda info` shows."""
        every = list(self.atoms.values())
        lists = sorted({name for each in every for name in each.lists})
        return {
            "atoms": len(every),
            "named": sum(bool(each.name) for each in every),
            "noted": sum(bool(each.note) for each in every),
            "starred": sum(each.star for each in every),
            "lists": {name: sum(name in each.lists for each in every) for name in lists},
        }


def read_notes(run: Path) -> Notes:
    """Read the notes of a run; none if there is no file, or it cannot be read."""
    try:
        text = (run / NOTES_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Notes()
    return _folded(text.split("\n"))


def change_notes(
    run: Path, site: str, atom: int, label: Key, changes: Mapping[str, Any], was: Mapping[str, Any]
) -> Notes:
    """Write a change of an atom's notes, and return all notes.

    `changes` may have a `name`, a `note`, a `star`, and `lists` with True or False by name. `was` has the name or note
    that the writer saw. Raises `SettingError` for what is too long or no change, or if the name or note is another by
    now, and `StoreError` if the run cannot be written.
    """
    checked = checked_changes(changes)

    def make(notes: Notes) -> Mapping[str, Any]:
        now = notes.atoms.get((site, atom), AtomNotes())
        for name in ("name", "note"):
            if name in checked and name in was and getattr(now, name) not in (was[name], checked[name]):
                raise SettingError(
                    f"the {name} was changed elsewhere meanwhile, to {getattr(now, name)!r}: save again to keep yours"
                )
        return {"site": site, "atom": atom, "label": list(label), "set": checked}

    return _appended(run, [make])


def add_notes(run: Path, entries: Sequence[tuple[str, int, Key, AtomNotes]]) -> Notes:
    """Add what was written elsewhere, by site, atom and label, to a run's notes; nothing that is there is lost.

    A name that differs goes into the note, notes that differ are joined. Raises `StoreError`.
    """

    def maker(site: str, atom: int, label: Key, new: AtomNotes) -> Callable[[Notes], Mapping[str, Any] | None]:
        def make(notes: Notes) -> Mapping[str, Any] | None:
            changes = _joined(notes.atoms.get((site, atom), AtomNotes()), new)
            return {"site": site, "atom": atom, "label": list(label), "set": changes} if changes else None

        return make

    return _appended(run, [maker(*entry) for entry in entries])


def undo_notes(run: Path, change: str) -> Notes:
    """Take the last change back; `change` is its id, as the writer saw it. Raises `SettingError`, `StoreError`."""

    def make(notes: Notes) -> Mapping[str, Any]:
        if notes.last is None:
            raise SettingError("there is nothing to undo: no change was made")
        if notes.last["id"] != change:
            raise SettingError("another change was made meanwhile: look at it, and undo again")
        return {"undo": change}

    return _appended(run, [make])


def checked_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of an atom's notes. Raises `SettingError` if they are none, or too long.

    >>> checked_changes({"name": " days "})
    {'name': 'days'}
    """
    found: dict[str, Any] = {}
    for name, most in MOST.items():
        if name in changes:
            text = changes[name]
            if not isinstance(text, str) or len(text) > most:
                raise SettingError(f"a {name} is a text of up to {most:,} characters: shorten it")
            found[name] = text.strip()
    if "star" in changes:
        if not isinstance(changes["star"], bool):
            raise SettingError("a star is true or false: give one of them")
        found["star"] = changes["star"]
    if "lists" in changes:
        found["lists"] = _checked_lists(changes["lists"])
    if not found or set(changes) - set(found):
        raise SettingError("a change has a name, a note, a star or lists: give one of them")
    return found


def _checked_lists(lists: Any) -> dict[str, bool]:
    fits = isinstance(lists, Mapping) and 0 < len(lists) <= MOST_LISTS
    if not fits or not all(isinstance(name, str) and isinstance(on, bool) for name, on in lists.items()):
        raise SettingError("lists are names with true or false: give some")
    found = {name.strip(): on for name, on in lists.items()}
    if any(not name or len(name) > MOST_OF_LIST for name in found):
        raise SettingError(f"a list has a name of up to {MOST_OF_LIST} characters: give one")
    return found


def _joined(old: AtomNotes, new: AtomNotes) -> dict[str, Any]:
    """Return the changes that add what is new to what is there."""
    changes: dict[str, Any] = {}
    added = [new.note] if new.note and new.note not in old.note else []
    if new.name and not old.name:
        changes["name"] = new.name
    elif new.name not in ("", old.name) and new.name not in old.note:
        added.insert(0, new.name)
    if added:
        changes["note"] = "\n".join([*([old.note] if old.note else []), *added])[: MOST["note"]]
    if new.star and not old.star:
        changes["star"] = True
    if lists := {name: True for name in new.lists if name not in old.lists}:
        changes["lists"] = lists
    return changes


def _appended(run: Path, makers: Sequence[Callable[[Notes], Mapping[str, Any] | None]]) -> Notes:
    """Append a line for each maker that returns one, given the notes as they are then; return all notes."""
    with (
        explained(f"write {run / NOTES_FILE}", "notes are kept in the run's folder: make it writable"),
        lines_file(run / NOTES_FILE) as (lines, append),
    ):
        for make in makers:
            if made := make(_folded(lines)):
                stamp = datetime.now(UTC).isoformat(timespec="seconds")
                lines.append(json.dumps({"id": uuid.uuid4().hex, "time": stamp, **made}))
                append(lines[-1])
        return _folded(lines)


def _folded(lines: Sequence[str]) -> Notes:
    """Return what all changes together come to. A line that is cut short, or no change, is passed over."""
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    undone: set[str] = set()
    for entry in reversed(entries):  # an undo may be undone in its turn
        if "undo" in entry and entry["id"] not in undone:
            undone.add(str(entry["undo"]))
    found: dict[AtomKey, AtomNotes] = {}
    last = None
    for entry in entries:
        if "set" not in entry or entry["id"] in undone:
            continue
        last, key = entry, (entry["site"], entry["atom"])
        found[key] = _changed(found.get(key, AtomNotes()), entry)
    return Notes({key: each for key, each in found.items() if not each.empty}, last)


def _changed(old: AtomNotes, entry: Mapping[str, Any]) -> AtomNotes:
    new, lists = entry["set"], dict.fromkeys(old.lists, True)
    for name, on in new.get("lists", {}).items():
        if on:
            lists[name] = True
        else:
            lists.pop(name, None)
    label = entry["label"]
    return AtomNotes(
        name=new.get("name", old.name),
        note=new.get("note", old.note),
        star=new.get("star", old.star),
        lists=tuple(lists),
        label=(label[0], label[1], label[2]),
    )


def _entry(line: str) -> dict[str, Any] | None:
    """Return the change that a line has, or None."""
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict) or not isinstance(entry["id"], str):
            return None
        if "undo" in entry:
            return entry
        checked_changes(entry["set"])
        fits = isinstance(entry["site"], str) and isinstance(entry["atom"], int) and len(entry["label"]) == 3
    except (ValueError, KeyError, TypeError, SettingError, RecursionError):
        return None
    return entry if fits else None
