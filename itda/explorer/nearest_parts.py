"""The nearest activations of each atom, found part by part as an index is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64
from safetensors import safe_open
from torch import Tensor

from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.nearest import Nearest
from itda.core.nearest_search import Candidates, NearestSearch
from itda.core.site import Site
from itda.explorer.code_index_writer import PartRecord, unpacked


@dataclass(frozen=True, eq=False)
class NearPart:
    """Those activations of a part that are, of all up to its end, among the nearest of an atom: one a row."""

    near_atom: Int32[np.ndarray, " rows"]
    near_token: Int32[np.ndarray, " same"]
    """The number of the token in the part."""
    near_cosine: Float64[np.ndarray, " one"]

    def arrays(self, site: Site) -> dict[str, np.ndarray]:
        """Return the columns by their names in the part's file."""
        return {f"{site}/{name}": value for name, value in vars(self).items()}


COLUMNS = ("near_atom", "near_token", "near_cosine")


class NearestInParts:
    """The search for the nearest activations at one site. It goes on where the parts on disk end."""

    def __init__(self, site: Site, dictionary: ITDA, before: Sequence[PartRecord] = ()) -> None:
        self._search = NearestSearch(dictionary)
        found: list[Candidates] = []
        documents: list[str] = []
        seen = 0
        for part in before:
            with safe_open(part.file, "np") as file:
                atom, token, cosine = (file.get_tensor(f"{site}/{name}") for name in COLUMNS)
                window = _window_of(file.get_tensor("window_tokens"), token)
                names = unpacked(file.get_tensor("document_names"), file.get_tensor("document_name"))
                documents += [names[i] for i in file.get_tensor("window_document")[window].tolist()]
            none = np.zeros(len(atom), np.int64)  # documents are known by their names
            found.append(Candidates(atom.astype(np.int64), token + np.int64(seen), cosine, none))
            seen += part.tokens
        if found:
            self._search.go_on(Candidates.concatenate(found), documents, seen)

    def add(self, activations: Tensor, labels: Labels) -> NearPart:
        """Take the activations of the next part; return what it brings. Raises `ActivationError`."""
        first = self._search.seen
        self._search.add(activations, labels.document.tolist())
        found = self._search.candidates(first)
        return NearPart(found.atom.astype(np.int32), (found.index - first).astype(np.int32), found.cosine)

    def result(self, parts: Sequence[PartRecord]) -> Nearest:
        """Return the nearest activations of all parts, with their labels from the files of the parts."""
        return self._search.result(lambda places: labels_in(parts, places))


def labels_in(parts: Sequence[PartRecord], places: Int64[np.ndarray, " places"]) -> Labels:
    """Return the labels of some tokens of the parts together, in ascending order."""
    found, first = [Labels.of()], 0
    for part in parts:
        own = places[(places >= first) & (places < first + part.tokens)] - first
        if len(own):
            found.append(_labels(part, own))
        first += part.tokens
    return Labels.concatenate(found)


def _labels(part: PartRecord, tokens: Int64[np.ndarray, " tokens"]) -> Labels:
    names = "window_tokens", "window_bytes", "window_document", "window_start", "position", "begin", "end", "token_id"
    with safe_open(part.file, "np") as file:
        a = {name: file.get_tensor(name) for name in (*names, "text", "document_names", "document_name")}
    documents = unpacked(a["document_names"], a["document_name"])
    window = _window_of(a["window_tokens"], tokens)
    ends = np.cumsum(a["window_bytes"])
    windows, document = np.empty(len(tokens), object), np.empty(len(tokens), object)
    start, chars = a["window_start"][window], np.empty((2, len(tokens)), np.int64)
    for row, (w, token) in enumerate(zip(window.tolist(), tokens.tolist(), strict=True)):
        text = a["text"][ends[w] - a["window_bytes"][w] : ends[w]].tobytes()
        windows[row], document[row] = text.decode(), documents[a["window_document"][w]]
        # Bytes before the token, and up to its end, as characters.
        chars[:, row] = [len(text[: a[name][token]].decode()) for name in ("begin", "end")]
    numbers = {name: a[name][tokens].astype(np.int64) for name in ("position", "token_id")}
    return Labels(
        document=document,
        window=windows,
        char_start=start + chars[0],
        char_end=start + chars[1],
        window_start=start,
        **numbers,
    )


def _window_of(window_tokens: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the window of each token, from the number of tokens of each window."""
    return np.searchsorted(np.cumsum(window_tokens), tokens, side="right")
