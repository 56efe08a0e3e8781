"""The answers about diffs: what changed, an atom of the difference with its shaded texts, and a text that is typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from itda.core.site import Site
from itda.errors import MissingError, SettingError
from itda.explorer.diff_texts import places_of
from itda.explorer.queries import Query, given, number
from itda.store.diffs import Diff

MOST_CHARACTERS = 20_000
"""Characters of a text that is typed, at most; it ends at the models' window too."""

ReadText = Callable[[str, Site, str], Mapping[str, Any]]
"""A function that lets both models of a diff, by name, read a text; returns it as `itda.explorer.diff_texts.shaded`."""


class DiffPages:
    """Answers the queries of the pages about some diffs, which have names. Thread-safe if `read` is.

    `summaries` are those of `itda.diffing.summary`, by name too; `read` None is for pages that read no texts.
    """

    def __init__(
        self, diffs: Mapping[str, Diff], summaries: Mapping[str, Mapping[str, Any]], read: ReadText | None = None
    ) -> None:
        self.diffs, self._summaries, self._read = diffs, summaries, read
        self.answers: dict[str, Callable[[Query], Mapping[str, Any]]] = {
            "diff": lambda query: self._summaries[self._named(query)],
            "diff_atom": self._atom,
            "diff_text": self._text,
        }

    def listed(self) -> list[dict[str, Any]]:
        """Return what each diff is of, and whether texts can be read."""
        return [
            {
                "name": name,
                "base": found["base"],
                "changed": found["changed"],
                "sites": [site["site"] for site in found["sites"]],
                "live": self._read is not None and any(site["difference"] for site in found["sites"]),
            }
            for name, found in self._summaries.items()
        ]

    def listed_atoms(self, name: str) -> list[tuple[str, int]]:
        """Return the site and the number of each atom that the page of a diff lists."""
        return [(atom["site"], atom["atom"]) for atom in self._summaries[name]["atoms"]]

    def _named(self, query: Query) -> str:
        asked = given(query, "diff")
        if asked not in self.diffs:
            raise MissingError(f"no diff {asked!r} here: use one of {', '.join(self.diffs)}")
        return asked

    def _site(self, query: Query) -> tuple[Diff, Site]:
        """Return the diff and the site that a query names."""
        name = self._named(query)
        diff, site = self.diffs[name], Site.parse(given(query, "site"))
        if site not in diff.sites:
            raise MissingError(f"{name} has no {site}: use one of {', '.join(map(str, diff.sites))}")
        if diff[site]["difference"] is None:
            raise MissingError(
                f"the models of {name} share no basis, so there are no atoms of their difference: "
                "see the tables of the layers instead"
            )
        return diff, site

    def _atom(self, query: Query) -> Mapping[str, Any]:
        """Return an atom that the diff keeps a text of, as in its values, with its texts shaded."""
        diff, site = self._site(query)
        kept = diff[site]["difference"]
        wanted = number(query, "atom", kept["atoms_in_all"], "atoms")
        found = next((atom for atom in kept["atoms"] if atom["atom"] == wanted), None)
        if found is None:
            raise MissingError(
                f"atom {wanted} of {site} is not among the {len(kept['atoms'])} that are kept with texts"
            )
        listed = self._summaries[self._named(query)]["atoms"]
        place = next((each for each in listed if (each["site"], each["atom"]) == (str(site), wanted)), None)
        known = place or {**found, "rank": None, "finding": None, "times": None, "share": None, "site": str(site)}
        return {**known, "texts": places_of(diff, site, found)}

    def _text(self, query: Query) -> Mapping[str, Any]:
        diff, site = self._site(query)
        text = query.get("text", "")
        if len(text) > MOST_CHARACTERS:
            raise SettingError(f"the text has {len(text):,} characters: shorten it to {MOST_CHARACTERS:,}")
        if self._read is None:
            raise MissingError("the models are not loaded here: start `itda explore` without --no-model")
        found = self._read(self._named(query), site, text)
        used = {atom for code in found["codes"] for atom, _ in code}
        return {**found, "atoms": {str(atom): _short(diff, site, atom) for atom in sorted(used)}}


def _short(diff: Diff, site: Site, atom: int) -> dict[str, Any]:
    """Return the text of an atom, and whether it has a page: of those without, the text where it was new."""
    kept = next((each for each in diff[site]["difference"]["atoms"] if each["atom"] == atom), None)
    if kept is not None:
        return {"text": [kept["before"][-80:], kept["token"], kept["after"][:40]], "page": True}
    label = diff.dictionaries[site].labels.at(atom)
    return {"text": [label.before[-80:], label.token, label.after[:40]], "page": False}
