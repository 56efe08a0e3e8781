"""The answers about what a reader wrote of atoms: reading it, changing it, undoing, exporting and importing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from itda.core.labels import Key
from itda.errors import MissingError, SettingError
from itda.explorer.queries import Query, given, number
from itda.explorer.run_cache import IndexedDictionary, RunCache
from itda.files import NOTES_FILE
from itda.store.notes import AtomNotes, Notes, add_notes, change_notes, checked_changes, read_notes, undo_notes

FORMAT, FORMAT_VERSION = "itda-notes", 1
MOST_ENTRIES = 2_000
"""Atoms that one import may have."""


class NotePages:
    """Answers the questions about the notes of some runs, and writes them."""

    writes = frozenset({"note", "undo_note", "import_notes"})
    """Names of the answers that change a run's notes."""

    def __init__(self, runs: RunCache) -> None:
        self._runs = runs
        self.answers: dict[str, Callable[[Query], Mapping[str, Any]]] = {
            "notes": self._notes,
            "note": self._change,
            "undo_note": self._undo,
            "export_notes": self._export,
            "import_notes": self._import,
        }

    def texts(self, query: Query) -> dict[int, str]:
        """Return what is written of the atoms of a site, as texts to search in: the name and the note."""
        return {
            atom: "\n".join(part for part in (each.name, each.note, *each.lists) if part)
            for atom, each in self._own(given(query, "run"), given(query, "site")).items()
        }

    def _dictionary(self, query: Query) -> IndexedDictionary:
        return self._runs.dictionary(given(query, "run"), given(query, "site"))

    def _own(self, run: str, site: str, notes: Notes | None = None) -> dict[int, AtomNotes]:
        """Return what is written of a site's atoms, by the numbers that the atoms have now."""
        written = (notes or read_notes(self._runs.folder(run))).of(site)
        return _of_now(written, self._runs.dictionary(run, site)) if written else {}

    def _notes(self, query: Query, notes: Notes | None = None) -> Mapping[str, Any]:
        run, site = given(query, "run"), given(query, "site")
        folder = self._runs.folder(run)
        notes = notes or read_notes(folder)
        own = self._own(run, site, notes)
        return {
            "atoms": {str(atom): _values(each) for atom, each in sorted(own.items())},
            "lists": sorted({name for each in notes.atoms.values() for name in each.lists}),
            "last": _last(notes),
            "lost": len(notes.of(site)) - len(own),
            "readonly": read_only(folder),
        }

    def _change(self, query: Query) -> Mapping[str, Any]:
        dictionary = self._dictionary(query)
        atom = number(query, "atom", len(dictionary.itda), "atoms")
        changes, was = _object(query, "changes"), _object(query, "was") if query.get("was") else {}
        key = dictionary.itda.labels[atom].key
        # A note written under another number, in a dictionary made since, is moved to the atom's own.
        run, site = given(query, "run"), given(query, "site")
        return self._notes(query, change_notes(self._runs.folder(run), site, atom, key, changes, was))

    def _undo(self, query: Query) -> Mapping[str, Any]:
        return self._notes(query, undo_notes(self._runs.folder(given(query, "run")), given(query, "id")))

    def _export(self, query: Query) -> Mapping[str, Any]:
        run = given(query, "run")
        notes = read_notes(self._runs.folder(run))
        atoms = [
            {"site": site, "atom": atom, "label": list(each.label or ()), **_values(each)}
            for (site, atom), each in sorted(notes.atoms.items())
        ]
        record = self._runs.record(run)
        about = {"run": run, "model": record["model"], "corpus": record["corpus"]}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **about, "atoms": atoms}

    def _import(self, query: Query) -> Mapping[str, Any]:
        run, values = given(query, "run"), _object(query, "notes")
        if values.get("format") != FORMAT or values.get("format_version") != FORMAT_VERSION:
            raise SettingError("the file has no notes of itda: choose a file that the explorer exported")
        entries = values.get("atoms")
        if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
            raise SettingError(
                f"the file has no list of up to {MOST_ENTRIES:,} atoms: choose a file that the explorer exported"
            )
        found = [each for entry in entries if (each := self._entry(run, entry)) is not None]
        notes = add_notes(self._runs.folder(run), found)
        return {**self._notes(query, notes), "imported": len(found), "skipped": len(entries) - len(found)}

    def _entry(self, run: str, entry: Any) -> tuple[str, int, Key, AtomNotes] | None:
        """Return an exported entry with the atom that has its label here; None for one that no atom here has."""
        try:
            site, key = str(entry["site"]), (str(entry["label"][0]), int(entry["label"][1]), int(entry["label"][2]))
            changes = {name: entry[name] for name in ("name", "note", "star") if name in entry}
            if entry.get("lists"):
                changes["lists"] = dict.fromkeys(entry["lists"], True)
            new = checked_changes(changes)
            atom = _numbers(self._runs.dictionary(run, site)).get(key)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SettingError(
                "an atom of the file lacks its site or label: choose a file that the explorer exported"
            ) from error
        except MissingError:
            return None
        if atom is None:
            return None
        lists = tuple(new.pop("lists", {}))
        return site, atom, key, AtomNotes(**new, lists=lists, label=key)


def read_only(folder: Path) -> str | None:
    """Return a sentence that says why notes cannot be kept in a run's folder; None if they can."""
    file = folder / NOTES_FILE
    if os.access(file if file.exists() else folder, os.W_OK):
        return None
    return "Notes cannot be kept here: the run's folder may not be written to."


def _of_now(written: Mapping[int, AtomNotes], dictionary: IndexedDictionary) -> dict[int, AtomNotes]:
    """Return notes by the atoms that have their labels now; those whose label no atom has are left out."""
    labels, found, moved = dictionary.itda.labels, {}, {}
    for atom, each in written.items():
        if atom < len(labels) and labels[atom].key == each.label:
            found[atom] = each
        elif each.label is not None:
            moved[each.label] = each
    if moved:
        numbers = _numbers(dictionary)
        found |= {numbers[key]: each for key, each in moved.items() if key in numbers and numbers[key] not in found}
    return found


def _numbers(dictionary: IndexedDictionary) -> dict[Key, int]:
    return {key: atom for atom, key in enumerate(dictionary.itda.labels.keys())}


def _values(each: AtomNotes) -> dict[str, Any]:
    return {"name": each.name, "note": each.note, "star": each.star, "lists": list(each.lists)}


def _last(notes: Notes) -> dict[str, Any] | None:
    if notes.last is None:
        return None
    what = ", ".join(notes.last["set"])
    return {"id": notes.last["id"], "site": notes.last["site"], "atom": notes.last["atom"], "what": what}


def _object(query: Query, name: str) -> dict[str, Any]:
    try:
        value = json.loads(given(query, name))
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{name} is not JSON: send an object") from error
    if not isinstance(value, dict):
        raise SettingError(f"{name} is not a JSON object: send one, such as {{}}")
    return value
