"""The index of a run: codes over a corpus by token and by atom, in files that are mapped into memory, not loaded.

    RUN/index/index.json             what made it, its sites, and the tokens that are not whole characters
              text.safetensors       the windows' texts and where each token lies in them: `TokenText`
              layer_2.safetensors    the codes of a site by token, and its uses by atom: `CodeIndex`

docs/run_folder.md lists the tensors; `indexing` writes them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64, Integer, Shaped, UInt8
from safetensors import SafetensorError, safe_open

from itda.core.batch import Site
from itda.errors import MissingError, StoreError
from itda.files import read_json

INDEX_FORMAT = "itda-index"
FOLDER, RECORD, TEXT = "index", "index.json", "text.safetensors"

TEXT_TENSORS = {
    "text": "uint8",
    "window_text": "int64",
    "window_token": "int64",
    "window_document": "int32",
    "position": "int32",
    "begin": "int32",
    "end": "int32",
    "token_id": "int32",
    "document_names": "uint8",
    "document_name": "int64",
}
CODE_TENSORS = {
    "start": "int64",
    "atom": "int32",
    "coefficient": "float32",
    "error": "float32",
    "atom_start": "int64",
    "token": "int32",
    "atom_coefficient": "float32",
    "strongest": "float32",
    "steps": "int32",
}
LATER_TENSORS = {"massive": "int32", "massive_medians": "float32"}
"""Tensors that an index lacks which is older than the rule of massive activations: it has no massive token."""

SAMPLES, SAMPLE_BYTES = 64, 4096
"""Places of a file that `sample` reads, and the bytes that it reads at each."""


def sample(path: Path) -> str:
    """Return the SHA-256 of a file's size and of 64 pages evenly spread over it: quick however large the file is."""
    digest, size = hashlib.sha256(), path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for place in np.linspace(0, max(0, size - SAMPLE_BYTES), SAMPLES).astype(np.int64).tolist():
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


class _Mapped:
    """The arrays of a safetensors file, mapped into memory.

    Raises `StoreError` if the file is missing or damaged, or its arrays are not those `expected`: dtypes by name.
    """

    def __init__(self, path: Path, remedy: str, expected: Mapping[str, str]) -> None:
        self.path, self.remedy = path, remedy
        try:
            self._stamp = self._now()
            with safe_open(path, "pt") as file:
                self.arrays: dict[str, np.ndarray] = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, TypeError) as error:
            raise StoreError(f"{path} is damaged or incomplete: {remedy}") from error
        found = {name: str(array.dtype) for name, array in self.arrays.items()}
        if {name: dtype for name, dtype in found.items() if name not in LATER_TENSORS} != dict(expected) or any(
            found.get(name, dtype) != dtype for name, dtype in LATER_TENSORS.items()
        ):
            raise StoreError(f"{path} is not a file of an index: {remedy}")

    def _now(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raises `StoreError` if the file has changed: reading mapped bytes that are gone would end the process."""
        try:
            same = self._now() == self._stamp
        except OSError:
            same = False
        if not same:
            raise StoreError(f"{self.path} has changed or is gone: open it again, or {self.remedy}")

    def require(self, fits: bool) -> None:
        """Raises `StoreError` if `fits` is False: the arrays of the file do not fit together."""
        if not fits:
            raise StoreError(f"{self.path} is damaged (its parts do not fit together): {self.remedy}")


class TokenText:
    """The indexed tokens and their windows of text."""

    def __init__(self, file: _Mapped, partial_ids: Mapping[int, str]) -> None:
        self._file, a = file, file.arrays
        self.partial_ids = partial_ids
        """The bytes, such as `F0 9F`, of those tokens of the vocabulary that are not whole characters, by token id."""
        self.token_id: Int32[np.ndarray, " tokens"] = a["token_id"]
        self.tokens = len(self.token_id)
        file.require(all(array.ndim == 1 for array in a.values()))
        file.require(all(len(a[name]) == self.tokens for name in ("position", "begin", "end")))
        file.require(len(a["window_token"]) == len(a["window_text"]) == len(a["window_document"]) + 1)
        file.require(_rows(a["window_token"], self.tokens) and _rows(a["window_text"], len(a["text"])))
        file.require(_rows(a["document_name"], len(a["document_names"])))

    def check(self) -> None:
        """Raises `StoreError` if the file has changed since it was opened."""
        self._file.check()

    def token_strings(self, start: int, stop: int) -> list[str]:
        """Return the strings of the tokens from `start` up to `stop`. Raises `MissingError` beyond the last token."""
        self.check()
        _within(start, stop, self.tokens)
        a = self._file.arrays
        base = a["window_text"][self._windows(np.arange(start, stop))]
        begins, ends = (base + a["begin"][start:stop]).tolist(), (base + a["end"][start:stop]).tolist()
        return [
            a["text"][begin:end].tobytes().decode(errors="replace") for begin, end in zip(begins, ends, strict=True)
        ]

    def token_strings_around(self, token: int, before: int, after: int) -> list[str]:
        """Return the strings of a token and its neighbours, up to `before` and `after` many, within its window."""
        first, last = self.window(token)
        return self.token_strings(max(first, token - before), min(last, token + after + 1))

    def packed_strings(
        self, tokens: Integer[np.ndarray, " some"]
    ) -> tuple[UInt8[np.ndarray, " bytes"], Int64[np.ndarray, " rows"]]:
        """Return the strings of some tokens as UTF-8, one after the other, and where each begins, with the last end.

        Raises `MissingError` for a token that is not there.
        """
        self.check_tokens(tokens)
        a = self._file.arrays
        base = a["window_text"][self._windows(tokens)]
        return gathered(a["text"], base + a["begin"][tokens], base + a["end"][tokens])

    def windows_of(self, tokens: Integer[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """Return the number of the window of each of some tokens. Raises `MissingError`."""
        self.check_tokens(tokens)
        return self._windows(tokens)

    @property
    def window_starts(self) -> Int64[np.ndarray, " rows"]:
        """The first token of each window, and the number of all tokens."""
        self.check()
        return self._file.arrays["window_token"].copy()

    def window_range(self, window: int) -> tuple[int, int]:
        """Return the first token of a window, and one past the last."""
        first, last = self._file.arrays["window_token"][window : window + 2].tolist()
        return first, last

    def begins(self, start: int, stop: int) -> Int32[np.ndarray, " tokens"]:
        """Return where some tokens begin in the text of their window, in bytes. Raises `MissingError`."""
        self.check()
        _within(start, stop, self.tokens)
        return self._file.arrays["begin"][start:stop].copy()

    def windows_as_strings(self) -> pa.LargeStringArray:
        """Return the texts of all windows as they lie in the mapped file, without a copy."""
        self.check()
        a = self._file.arrays
        buffers = [None, pa.py_buffer(a["window_text"]), pa.py_buffer(a["text"])]
        return pa.Array.from_buffers(pa.large_string(), len(a["window_text"]) - 1, buffers)

    @property
    def window_documents(self) -> Int32[np.ndarray, " windows"]:
        """The document of each window, as a row of `document_names`."""
        self.check()
        return self._file.arrays["window_document"].copy()

    @property
    def document_names(self) -> list[str]:
        """The ids of all documents."""
        self.check()
        a = self._file.arrays
        begins = a["document_name"].tolist()
        return [
            a["document_names"][begin:end].tobytes().decode(errors="replace")
            for begin, end in itertools.pairwise(begins)
        ]

    def positions(self, start: int, stop: int) -> Int32[np.ndarray, " tokens"]:
        """Return the number in its document of each token from `start` up to `stop`. Raises `MissingError`."""
        self.check()
        _within(start, stop, self.tokens)
        return self._file.arrays["position"][start:stop].copy()

    def partial(self, token: int) -> str | None:
        """Return the bytes of a token that is not whole characters, such as `F0 9F`, or None."""
        self.check()
        _within(token, token + 1, self.tokens)
        return self.partial_ids.get(int(self.token_id[token]))

    def partials(self, start: int, stop: int) -> dict[int, str]:
        """Return the bytes of those tokens from `start` up to `stop` that are not whole characters, by token."""
        if not self.partial_ids:
            return {}
        self.check()
        _within(start, stop, self.tokens)
        ids = enumerate(self.token_id[start:stop].tolist(), start)
        return {token: self.partial_ids[number] for token, number in ids if number in self.partial_ids}

    def window(self, token: int) -> tuple[int, int]:
        """Return the first token of the window that a token is in, and one past the last."""
        row, a = self._window(token), self._file.arrays
        return int(a["window_token"][row]), int(a["window_token"][row + 1])

    def document(self, token: int) -> str:
        """Return the id of the document that a token is in."""
        row, a = self._window(token), self._file.arrays
        number = int(a["window_document"][row])
        begin, end = a["document_name"][number : number + 2].tolist()
        return a["document_names"][begin:end].tobytes().decode(errors="replace")

    def position(self, token: int) -> int:
        """Return the number of a token in its document, from 0."""
        self._window(token)
        return int(self._file.arrays["position"][token])

    def _window(self, token: int) -> int:
        self.check()
        _within(token, token + 1, self.tokens)
        return int(self._windows(np.array([token]))[0])

    def check_tokens(self, tokens: Integer[np.ndarray, " n"]) -> None:
        """Raises `MissingError` if one of some tokens is not there, `StoreError` if the file has changed."""
        self.check()
        if len(tokens):
            _within(int(tokens.min()), int(tokens.max()) + 1, self.tokens)

    def _windows(self, tokens: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        return np.searchsorted(self._file.arrays["window_token"], tokens, side="right") - 1


@dataclass(frozen=True, eq=False)
class CodeIndex:
    """The codes of one site over a corpus, by token and by atom. The arrays that it returns are copies."""

    record: Mapping[str, Any]
    """The contents of index.json."""
    text: TokenText
    tokens: int
    atoms: int
    k: int
    _file: _Mapped

    @staticmethod
    def open(run: Path, site: Site) -> CodeIndex:
        """Map the index of a site. Raises `StoreError` if there is none, or it is damaged or of another dictionary."""
        folder, remedy = run / FOLDER, f"run `itda index {run}` again"
        if not (folder / RECORD).exists():
            raise StoreError(f"{run} has no index: make one with `itda index {run}`")
        record = read_json(folder / RECORD, INDEX_FORMAT)
        try:
            made = record["sites"].get(str(site))
            if made is None:
                raise StoreError(f"the index of {run} lacks {site}: make one with `itda index {run}`")
            tokens, atoms, k, known = record["tokens"], made["atoms"], made["k"], made["sample"]
            partial_ids = {int(token): in_hex for token, in_hex in record["pieces"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{folder / RECORD} is damaged or incomplete: {remedy}") from error
        try:
            same = sample(run / str(site) / "atoms.safetensors") == known
        except OSError:
            same = False
        if not same:
            raise StoreError(f"the index of {run} is of another dictionary than {site} of the run is now: {remedy}")
        text = TokenText(_Mapped(folder / TEXT, remedy, TEXT_TENSORS), partial_ids)
        file = _Mapped(folder / f"{site}.safetensors", remedy, CODE_TENSORS)
        a = file.arrays
        file.require(all(array.ndim == (2 if name == "steps" else 1) for name, array in a.items()))
        file.require(text.tokens == tokens == len(a["error"]) == len(a["start"]) - 1)
        file.require(a["steps"].shape == (atoms, k) and len(a["atom_start"]) == atoms + 1)
        file.require(len(a["strongest"]) == atoms)
        number = len(a["atom"])
        used = len(a["token"])  # fewer where there are massive tokens: these are no uses
        file.require(len(a["coefficient"]) == number and len(a["atom_coefficient"]) == used <= number)
        file.require(_rows(a["start"], number) and _rows(a["atom_start"], used))
        massive = a.get("massive", np.zeros(0, np.int32))
        file.require(len(massive) == len(a.get("massive_medians", ())))
        file.require(bool(((massive >= 0) & (massive < tokens)).all()))
        file.require(number - used == int((a["start"][massive + 1] - a["start"][massive]).sum()))
        return CodeIndex(record, text, tokens, atoms, k, file)

    def check(self) -> None:
        """Raises `StoreError` if the files have changed since they were opened."""
        self._file.check()
        self.text.check()

    @cached_property
    def counts(self) -> Int64[np.ndarray, " atoms"]:
        """The number of uses of each atom."""
        self.check()
        return np.diff(self._file.arrays["atom_start"])

    @cached_property
    def strongest(self) -> Float32[np.ndarray, " atoms"]:
        """The largest coefficient of each atom; 0 for one without a use."""
        self.check()
        return self._file.arrays["strongest"].copy()

    @cached_property
    def first_picks(self) -> Int32[np.ndarray, " atoms"]:
        """How often each atom is the first of a code."""
        self.check()
        return self._file.arrays["steps"][:, 0].copy()

    @cached_property
    def massive(self) -> Int32[np.ndarray, " massive"]:
        """The tokens whose activations are massive, in order: they count as uses of no atom and in no average."""
        self.check()
        return self._file.arrays.get("massive", np.zeros(0, np.int32)).copy()

    @cached_property
    def ordinary(self) -> int:
        """The number of tokens that are not massive."""
        return self.tokens - len(self.massive)

    def medians(self, start: int, stop: int) -> dict[int, float]:
        """Return, by token, the norms of the massive tokens from `start` up to `stop`, in medians.

        Raises `MissingError` beyond the last token.
        """
        self.check()
        _within(start, stop, self.tokens)
        own = slice(*np.searchsorted(self.massive, [start, stop]).tolist())
        found = self._file.arrays.get("massive_medians", np.zeros(0, np.float32))[own]
        return dict(zip(self.massive[own].tolist(), found.tolist(), strict=True))

    def ordinary_errors(self) -> Float32[np.ndarray, " tokens"]:
        """Return the errors of the tokens that are not massive."""
        return np.delete(self.errors(0, self.tokens), self.massive)

    def codes(self, token: int) -> tuple[Int32[np.ndarray, " codes"], Float32[np.ndarray, " codes"]]:
        """Return the atoms of a token and their coefficients, in pick order. Raises `MissingError` if there is none."""
        _, atoms, coefficients = self.codes_between(token, token + 1)
        return atoms, coefficients

    def codes_between(
        self, start: int, stop: int
    ) -> tuple[Int64[np.ndarray, " rows"], Int32[np.ndarray, " codes"], Float32[np.ndarray, " codes"]]:
        """Return the codes of the tokens from `start` up to `stop`: row starts and the last end, atoms, coefficients.

        Raises `MissingError` beyond the last token.
        """
        self.check()
        _within(start, stop, self.tokens)
        a = self._file.arrays
        rows = a["start"][start : stop + 1]
        own = slice(int(rows[0]), int(rows[-1]))
        return rows - rows[0], a["atom"][own].copy(), a["coefficient"][own].copy()

    def errors(self, start: int, stop: int) -> Float32[np.ndarray, " tokens"]:
        """Return the errors of the tokens from `start` up to `stop`, massive ones too.

        Raises `MissingError` beyond the last token.
        """
        self.check()
        _within(start, stop, self.tokens)
        return self._file.arrays["error"][start:stop].copy()

    def uses(self, atom: int) -> tuple[Int32[np.ndarray, " uses"], Float32[np.ndarray, " uses"]]:
        """Return the tokens that use an atom and its coefficients there, the largest first; equal ones in token order.

        Massive tokens are left out. Raises `MissingError` if there is no such atom.
        """
        self.check()
        self._has(atom)
        a = self._file.arrays
        own = slice(*a["atom_start"][atom : atom + 2].tolist())
        return a["token"][own].copy(), a["atom_coefficient"][own].copy()

    def uses_between(
        self, first: int, last: int
    ) -> tuple[Int64[np.ndarray, " rows"], Int32[np.ndarray, " uses"], Float32[np.ndarray, " uses"]]:
        """Return the uses of the atoms from `first` up to `last`: row starts and the last end, tokens, coefficients.

        Each row is as `uses` returns it. Raises `MissingError` beyond the last atom.
        """
        self.check()
        if first < last:
            self._has(first)
            self._has(last - 1)
        a = self._file.arrays
        rows = a["atom_start"][first : last + 1]
        own = slice(int(rows[0]), int(rows[-1]))
        return rows - rows[0], a["token"][own].copy(), a["atom_coefficient"][own].copy()

    def codes_of(
        self, tokens: Integer[np.ndarray, " some"]
    ) -> tuple[Int64[np.ndarray, " rows"], Int32[np.ndarray, " codes"], Float32[np.ndarray, " codes"]]:
        """Return the codes of some tokens, in any order: row starts and the last end, atoms, coefficients.

        Raises `MissingError` for a token that is not there.
        """
        self.check()
        self.text.check_tokens(tokens)
        a = self._file.arrays
        atoms, starts = gathered(a["atom"], a["start"][tokens], a["start"][tokens + 1])
        coefficients, _ = gathered(a["coefficient"], a["start"][tokens], a["start"][tokens + 1])
        return starts, atoms, coefficients

    def steps(self, atom: int) -> Int32[np.ndarray, " k"]:
        """Return how often an atom has each place in a code. Raises `MissingError` if there is no such atom."""
        self.check()
        self._has(atom)
        return self._file.arrays["steps"][atom].copy()

    def _has(self, atom: int) -> None:
        if not 0 <= atom < self.atoms:
            raise MissingError(f"no atom {atom} in the index: it has {self.atoms}, use 0 to {self.atoms - 1}")


def gathered(
    values: Shaped[np.ndarray, " all"], begins: Integer[np.ndarray, " n"], ends: Integer[np.ndarray, " n"]
) -> tuple[Shaped[np.ndarray, " some"], Int64[np.ndarray, " rows"]]:
    """Return slices of an array, one after the other, and where each begins, with the last end.

    >>> gathered(np.array([5, 6, 7, 8]), np.array([2, 0]), np.array([4, 1]))[0].tolist()
    [7, 8, 5]
    """
    starts = np.zeros(len(begins) + 1, np.int64)
    np.cumsum(ends - begins, out=starts[1:])
    places = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], ends - begins)
    return values[places], starts


def _rows(start: np.ndarray, end: int) -> bool:
    """Return True if these can be the starts of rows that end at `end`, by the first and the last of them."""
    return len(start) > 0 and int(start[0]) == 0 and int(start[-1]) == end


def _within(start: int, stop: int, tokens: int) -> None:
    if not 0 <= start <= stop <= tokens:
        shown = f"token {start}" if stop == start + 1 else f"tokens {start} to {stop}"
        raise MissingError(f"no {shown} in the index: it has {tokens}, use 0 to {tokens - 1}")
