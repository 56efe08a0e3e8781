"""The answers about fingerprints: which there are, how alike their sites are, which tokens are new to one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from itda.core.site import Site
from itda.errors import ItdaError, MissingError
from itda.explorer.novel_tokens import NovelPair, Texts, novel_lists, texts_of, token_page
from itda.explorer.queries import Query, given, number
from itda.explorer.run_cache import Cache
from itda.sources.corpora.document import Document
from itda.store.fingerprints import Fingerprint

Alike = Callable[[str, str], Mapping[str, Any]]
"""A function that compares two fingerprints, by name, and returns plain values for JSON."""
Documents = Callable[[str], Iterable[Document]]
"""A function that opens the corpus of a fingerprint, by name. Raises an `ItdaError` where it is not what it was."""


class FingerprintPages:
    """Answers the queries of the pages about some fingerprints, which have names. Thread-safe."""

    def __init__(self, fingerprints: Mapping[str, Fingerprint], alike: Alike, documents: Documents) -> None:
        self.fingerprints = fingerprints
        self._alike, self._documents = alike, documents
        self._cache = Cache()
        self.answers: dict[str, Callable[[Query], Mapping[str, Any]]] = {
            "alike": self._compared,
            "novel": self._novel,
            "novelty": self._token,
        }

    def listed(self) -> list[dict[str, Any]]:
        """Return what each fingerprint is of; of the path of a model's folder, the last part."""
        return [
            {
                "name": name,
                "model": _short(str(made.about.get("model"))),
                "corpus": made.about.get("corpus"),
                "tokens": len(made),
                "sites": [str(site) for site in made.sites],
                "rungs": list(made.settings.rungs),
            }
            for name, made in self.fingerprints.items()
        ]

    def prepare(self) -> None:
        """Read the texts of the first one's corpus, before somebody asks for them."""
        self._texts(next(iter(self.fingerprints)))

    def _named(self, query: Query, name: str) -> str:
        asked = given(query, name)
        if asked not in self.fingerprints:
            raise MissingError(f"no fingerprint {asked!r} here: use one of {', '.join(self.fingerprints)}")
        return asked

    def _compared(self, query: Query) -> Mapping[str, Any]:
        a, b = (self._named(query, name) for name in ("a", "b"))
        return self._cache.get(("alike", a, b), [], lambda: self._alike(a, b))

    def _pair(self, query: Query) -> NovelPair:
        """Return the two that a query names."""
        a, b = (self._named(query, name) for name in ("a", "b"))
        self._compared(query)  # refuses two that cannot be compared
        left, right = self.fingerprints[a], self.fingerprints[b]
        return self._cache.get(("pair", a, b), [], lambda: NovelPair.of(left, right))

    def _novel(self, query: Query) -> Mapping[str, Any]:
        pair, rung = self._pair(query), None
        if given(query, "rung") != "all":
            rung = number(query, "rung", len(pair.a.settings.rungs), "rungs")
        sites = self._site(query, "a"), self._site(query, "b")
        texts, trouble = self._texts(given(query, "a"))
        return novel_lists(pair, sites, rung, texts) | {"trouble": trouble}

    def _site(self, query: Query, side: str) -> Site:
        name, asked = given(query, side), given(query, f"site_{side}")
        sites = self.fingerprints[name].sites
        found = Site.parse(asked)
        if found not in sites:
            raise MissingError(f"{name} has no {found}: use one of {', '.join(map(str, sites))}")
        return found

    def _token(self, query: Query) -> Mapping[str, Any]:
        pair = self._pair(query)
        token = number(query, "token", len(pair), "tokens that both read")
        texts, trouble = self._texts(given(query, "a"))
        return token_page(pair, token, texts) | {"trouble": trouble}

    def _texts(self, name: str) -> tuple[Texts | None, str | None]:
        """Return the texts of the corpus of a fingerprint, or None and a sentence that says why they are not there."""
        corpus = self.fingerprints[name].about.get("fingerprint")
        same = [each for each, made in self.fingerprints.items() if made.about.get("fingerprint") == corpus]

        def read() -> Texts:
            error: ItdaError | None = None
            for each in same:  # one may know where the corpus is, another not
                try:
                    return texts_of(self._documents(each), [self.fingerprints[one] for one in same])
                except ItdaError as found:
                    error = error or found
            assert error is not None
            raise error

        try:
            return self._cache.get(("texts", corpus), [], read), None
        except ItdaError as error:
            return None, str(error)


def _short(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name for each fingerprint: that of its file, with a number behind it where two have the same.

    >>> names_of([Path("one/a.itda"), Path("two/a.itda"), Path("user/name")])
    ['a', 'a-2', 'user/name']
    """
    names: list[str] = []
    for path in paths:
        name = plain = path.stem if path.suffix == ".itda" else str(path)
        again = 2
        while name in names:
            name, again = f"{plain}-{again}", again + 1
        names.append(name)
    return names
