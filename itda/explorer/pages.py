"""The answers behind the explorer's pages: from the strings of a query to plain values for JSON.

The server and the exported page ask for the same answers. Nothing here knows of HTTP or HTML.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from itda.core.batch import Site
from itda.core.levels import TwoLevels, two_levels
from itda.core.memory import NO_LIMITS, PursuitLimits
from itda.errors import ItdaError, MissingError, SettingError
from itda.explorer.atoms import atom_list, atom_page
from itda.explorer.code_index import CodeIndex
from itda.explorer.columns import packed_columns, rows_asked, text_rows
from itda.explorer.contexts import indexed_window
from itda.explorer.corpus_search import search_corpus
from itda.explorer.diffs import DiffPages
from itda.explorer.elsewhere import elsewhere
from itda.explorer.fingerprints import FingerprintPages
from itda.explorer.landing import landing
from itda.explorer.next_tokens import average_logits, promoted
from itda.explorer.notes import NotePages
from itda.explorer.overview import overview
from itda.explorer.prompts import beside, one_atom, prompt_values
from itda.explorer.queries import Query, given, number
from itda.explorer.readouts import read, readout_of, readouts_of
from itda.explorer.run_cache import Cache, IndexedDictionary, RunCache, by_key
from itda.explorer.search import Search
from itda.explorer.steering import SendValues, SteeringPages
from itda.sources.models.transformers import LanguageModel
from itda.sources.prompt import read_windows
from itda.sources.tokenizing.partial_characters import partial_bytes

MOST_CHARACTERS = 20_000
"""Characters of a text to decompose, at most; the model's context is another limit."""

Loader = Callable[[Path], LanguageModel]
"""A function that loads the language model of a run folder."""
Comparer = Callable[[Path, Path], Mapping[str, Any]]
"""A function that compares two run folders and returns plain values for JSON."""


class Explorer:
    """Answers the queries of the explorer's pages about some runs, fingerprints and diffs.

    Thread-safe; a model is loaded when first needed. Raises `StoreError` for a folder that is not a run.
    """

    needs_model = frozenset({"decompose", "logits", "diff_text", "steering"})
    """Names of the answers that run the language model."""
    streams = frozenset({"steer"})
    """Names of the answers that come in pieces."""
    writes = NotePages.writes
    """Names of the answers that change something, which no other page's link may ask for."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        loader: Loader | None,
        compare: Comparer,
        batch_size: int = 1,
        limits: PursuitLimits = NO_LIMITS,
        fingerprints: FingerprintPages | None = None,
        diffs: DiffPages | None = None,
    ) -> None:
        if not folders and fingerprints is None and diffs is None:
            raise SettingError("no run to explore: name one or more run folders, fingerprints or diffs")
        self.fingerprints, self.diffs = fingerprints, diffs
        self.runs, self._loader = RunCache(folders, limits), loader
        self.notes = NotePages(self.runs)
        self._compare, self._batch_size = compare, batch_size
        self._models: dict[str, tuple[LanguageModel, dict[int, str]]] = {}
        """Models, each with the bytes in hexadecimal of its tokens that are not whole characters, by token id."""
        self._averages, self._levels = Cache(), Cache()
        self._lock = threading.Lock()
        # One pass uses all cores: two at once would take twice the memory and be no faster.
        self._running = threading.Lock()
        self._steering = SteeringPages(self.runs, self._model)
        self._answers: dict[str, Callable[[Query], Mapping[str, Any]]] = {
            "runs": self._runs,
            "overview": self._overview,
            "atoms": lambda query: atom_list(self._dictionary(query)),
            "start": lambda query: landing(self.runs, given(query, "run"), given(query, "site")),
            "elsewhere": self._elsewhere,
            "corpus": self._corpus,
            "columns": lambda query: packed_columns(self._dictionary(query)),
            "rows": self._rows,
            "search": self._search,
            "atom": self._atom,
            "logits": self._logits,
            "window": self._window,
            "decompose": self._decompose,
            "compare": self._compared,
            "labels": self._labels,
            "steering": self._steering.about,
            **self.notes.answers,
            **(fingerprints.answers if fingerprints is not None else {}),
            **(diffs.answers if diffs is not None else {}),
        }

    def answer(self, name: str, query: Query) -> dict[str, Any]:
        """Return the data of a page. Raises `MissingError` for what is not there, `ItdaError` for a bad query."""
        if name not in self._answers:
            raise MissingError(f"no page {name!r}: use one of {', '.join(self._answers)}")
        return dict(self._answers[name](query))

    def stream(self, name: str, query: Query, send: SendValues, left: threading.Event) -> None:
        """Send an answer that comes in pieces, until it is whole or `left` is set. Raises an `ItdaError`."""
        if name not in self.streams:
            raise MissingError(f"no page {name!r}: use one of {', '.join(self.streams)}")
        self._steering.write(query, send, left)

    def prepare(self) -> None:
        """Read what the first page shows, the middle dictionary of the first run, before somebody asks for it."""
        with suppress(ItdaError):  # the page itself will show the error
            if self.runs.folders:
                self.answer("start", self._first())
                self.answer("columns", self._first())

    def read_ahead(self) -> None:
        """Read what a first atom and first searches need, so that nobody waits for it."""
        with suppress(ItdaError):
            query = self._first()
            self.answer("atom", {**query, "atom": "0"})
            for more in ({}, {"in": "exact"}, {"regex": "1"}):
                self.answer("search", {**query, "q": "a", **more})
            self.answer("corpus", {**query, "q": "a"})

    def warm(self) -> None:
        """Load the model of the first run, compile, and run it once, so that the first prompt is quick."""
        with suppress(ItdaError):
            query = self._first()
            self.answer("decompose", {**query, "text": "a"})
            self.answer("logits", {**query, "atom": "0"})
            self._steering.prepare(query)

    def _first(self) -> Query:
        run = next(iter(self.runs.folders))
        sites = list(self.runs.sites(run))
        return {"run": run, "site": str(sites[len(sites) // 2])}

    def _runs(self, _query: Query) -> Mapping[str, Any]:
        runs = []
        for run, folder in self.runs.folders.items():
            try:
                record = self.runs.record(run)
                sites = [
                    {
                        "site": str(site),
                        "indexed": (folder / "index" / f"{site}.safetensors").exists(),
                        "readouts": readouts_of(own),
                    }
                    for site, own in self.runs.sites(run).items()
                ]
                runs.append({"run": run, "model": record["model"], "corpus": record["corpus"], "sites": sites})
            except ItdaError as error:
                runs.append({"run": run, "trouble": str(error), "sites": []})
        fingerprints = self.fingerprints.listed() if self.fingerprints is not None else []
        diffs = self.diffs.listed() if self.diffs is not None else []
        return {"runs": runs, "live": self._loader is not None, "fingerprints": fingerprints, "diffs": diffs}

    def _overview(self, query: Query) -> Mapping[str, Any]:
        run = given(query, "run")
        return overview(self.runs, run)

    def _dictionary(self, query: Query) -> IndexedDictionary:
        return self.runs.dictionary(given(query, "run"), given(query, "site"))

    def _atom_of(self, query: Query, dictionary: IndexedDictionary) -> int:
        return number(query, "atom", len(dictionary.itda), "atoms")

    def _atom(self, query: Query) -> Mapping[str, Any]:
        dictionary = self._dictionary(query)
        return atom_page(dictionary, self._atom_of(query, dictionary))

    def _rows(self, query: Query) -> Mapping[str, Any]:
        dictionary = self._dictionary(query)
        search = Search.of(query)
        notes = self.notes.texts(query) if search is not None and search.where == "note" else {}
        return text_rows(dictionary, rows_asked(query, len(dictionary.itda)), search, notes)

    def _search(self, query: Query) -> Mapping[str, Any]:
        dictionary, search = self._dictionary(query), Search.of(query)
        if search is None:
            raise SettingError("the question lacks q: add q=...")
        notes = self.notes.texts(query) if search.where == "note" else {}
        return {"atoms": dictionary.texts.rows(search, notes).tolist()}

    def _logits(self, query: Query) -> Mapping[str, Any]:
        atom = self._atom_of(query, self._dictionary(query))
        return self.logits(given(query, "run"), given(query, "site"), [atom])[0]

    def logits(self, run: str, site: str, atoms: Sequence[int]) -> list[dict[str, Any]]:
        """Return the answers to `logits` for several atoms, in few passes of the model.

        Raises `MissingError` for a model that does not predict the next token, or any `ItdaError` of loading it.
        """
        dictionary = self.runs.dictionary(run, site)
        model, byte_strings = self._model(run)
        if not model.is_causal:
            raise MissingError(
                f"{model.name} does not predict the next token, so its atoms promote none: "
                "explore a run of a causal language model for that"
            )
        with self._running:
            average = self._averages.get((run, site), [dictionary], lambda: average_logits(model, dictionary.itda))
            return promoted(model, dictionary.itda, atoms, average, byte_strings)

    def _elsewhere(self, query: Query) -> Mapping[str, Any]:
        atom = self._atom_of(query, self._dictionary(query))
        return elsewhere(self.runs, given(query, "run"), given(query, "site"), atom)

    def _corpus(self, query: Query) -> Mapping[str, Any]:
        dictionary, search = self._dictionary(query), Search.of(query)
        if search is None:
            raise SettingError("the question lacks q: add q=...")
        return search_corpus(dictionary, _index_of(dictionary), search)

    def _window(self, query: Query) -> Mapping[str, Any]:
        dictionary = self._dictionary(query)
        index = _index_of(dictionary)
        return indexed_window(dictionary, index, number(query, "token", index.tokens, "indexed tokens"))

    def _decompose(self, query: Query) -> Mapping[str, Any]:
        run, site, text = given(query, "run"), Site.parse(given(query, "site")), query.get("text", "")
        if len(text) > MOST_CHARACTERS:
            raise SettingError(f"the text has {len(text):,} characters: shorten it to {MOST_CHARACTERS:,}")
        dictionary, readout = self._dictionary(query), readout_of(query)
        model, byte_strings = self._model(run)
        record = self.runs.record(run)
        window, bos = record["window"], record["settings"].get("bos", "auto")
        wished = self._atom_of(query, dictionary) if query.get("atom") else None
        with self._running:
            levels = self._levels_of(run, site, dictionary) if readout == "levels" else None
            labels, found, starts = read_windows(model, text, [site], window, self._batch_size, bos)
            x = found[site]
            code, error = read(dictionary.itda, levels, x, readout, self.runs.folder(run))
            more = {"beside": beside(dictionary, x)} if readout == "code" else {}
            if wished is not None:
                more["chosen"] = one_atom(dictionary, x, wished)
        return {
            **prompt_values(dictionary, labels, x, code, error, byte_strings),
            "readout": readout,
            "windows": starts,
            **more,
        }

    def _levels_of(self, run: str, site: Site, dictionary: IndexedDictionary) -> TwoLevels:
        return self._levels.get((run, site), [dictionary], lambda: two_levels(dictionary.itda))

    def _model(self, run: str) -> tuple[LanguageModel, dict[int, str]]:
        if self._loader is None:
            raise MissingError("the model is not loaded here: start `itda explore` without --no-model")
        folder = self.runs.folder(run)
        record = self.runs.record(run)
        # Runs of one model share it, if they read it in one dtype.
        made = [record.get(name) for name in ("model", "revision", "model_fingerprint", "dtype")]
        key = json.dumps([*made, record["settings"].get("revision")])
        with self._lock:
            if key not in self._models:
                model = self._loader(folder)
                in_bytes = partial_bytes(model.tokenizer)
                self._models[key] = model, {token: each.hex(" ").upper() for token, each in in_bytes.items()}
            return self._models[key]

    def _compared(self, query: Query) -> Mapping[str, Any]:
        a, b = (self.runs.folder(given(query, name)) for name in ("a", "b"))
        return self._compare(a, b)

    def _labels(self, query: Query) -> Mapping[str, Any]:
        """Sort the atoms of two dictionaries by whether the other has their label; those needed most come first.

        Those that do not replicate come last.
        """
        a = self.runs.dictionary(given(query, "a"), given(query, "site_a"))
        b = self.runs.dictionary(given(query, "b"), given(query, "site_b"))
        by_end = self._tokenizer(query["a"]) != self._tokenizer(query["b"])
        left, right = by_key(a.itda.labels, by_end), by_key(b.itda.labels, by_end)
        needed_a, needed_b = _needed(a), _needed(b)
        lists = {
            "both": sorted(((left[k], right[k]) for k in left if k in right), key=lambda pair: needed_a[pair[0]]),
            "only_a": sorted((left[k] for k in left if k not in right), key=needed_a.__getitem__),
            "only_b": sorted((right[k] for k in right if k not in left), key=needed_b.__getitem__),
        }
        return {**lists, "counts": {name: len(each) for name, each in lists.items()}}

    def _tokenizer(self, run: str) -> object:
        record = self.runs.record(run)
        return record.get("tokenizer") or (record["model"], record["revision"])


def _index_of(dictionary: IndexedDictionary) -> CodeIndex:
    """Return the index of a dictionary. Raises `MissingError` if it has none."""
    if dictionary.index is None:
        raise MissingError(dictionary.index_trouble or "the run has no index: make one with `itda index`")
    return dictionary.index


def _needed(dictionary: IndexedDictionary) -> list[tuple[bool, int | float]]:
    """Return a sort key per atom: those needed most come first, or the oldest where novelty is not known.

    Atoms that do not replicate come after all others.
    """
    novelty, atoms = dictionary.itda.novelty, range(len(dictionary.itda))
    needed = (-novelty).tolist() if novelty is not None else list(atoms)
    return [(dictionary.no_finding(atom), needed[atom]) for atom in atoms]
