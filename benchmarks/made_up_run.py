"""A run folder with an index, of any size, made up in seconds: for tests and timings of what reads it.

Atoms are random directions, tokens are drawn from a made-up vocabulary with all sorts of odd characters, the atoms of a
code half by Zipf's law and half evenly, coefficients from an exponential law, a third of them negative.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from itda import ITDA, Labels, Site
from itda.core.nearest import Nearest
from itda.core.readout_features import FeatureEncoder
from itda.core.replication import Replication
from itda.explorer.code_index import INDEX_FORMAT, gathered, sample
from itda.explorer.code_index_writer import PARTIAL, CodePart, TextPart, emptied, merge, parts_of, publish, write_part
from itda.files import FORMAT_VERSION, RUN_FORMAT, sha256_of, write_json
from itda.store.dictionaries import write_dictionary

PART = 2**16
"""Tokens of the index that are made at once."""
PER_DOCUMENT = 8
"""Windows of a document."""
ODD = ("\n", " ", '"', "\\", "é", "日本", "🙂", "\u2028", "\0", "</script>", "", "\ud7ff", "\x7f")
PARTIAL_ID, PARTIAL_BYTES = 6, "F0 9F"
"""A token of the vocabulary that is not whole characters: it has the text of the smiley."""


def make_run(
    folder: Path,
    *,
    sites: tuple[Site, ...] = (Site(3),),
    atoms: int = 24,
    tokens: int = 1_000,
    d_model: int = 16,
    k: int = 5,
    window: int = 31,
    rich: bool = True,
    seed: int = 0,
) -> None:
    """Write a run. `window` counts a window's tokens without the BOS; `rich` adds all that commands add."""
    folder.mkdir(parents=True)
    for number, site in enumerate(sites):
        own = folder / str(site)
        own.mkdir()
        write_dictionary(_dictionary(site, atoms, d_model, k, rich, np.random.default_rng([seed, number])), own)
    settings = {"mode": "best", "atoms": atoms, "part": "all", "revision": None, "bos": "auto"}
    settings |= {"dataset_split": "train", "dataset_config": None, "text_field": "text"}
    record = {"model": "tiny", "corpus": "words", "corpus_part": "all", "tokens": tokens, "window": window + 1}
    record |= {"seconds": 1.5, "revision": None, "dtype": "float32", "fingerprint": "made up", "batch_size": 8}
    record |= {"corpus_revision": None, "order": "corpus", "bos": "auto", "arithmetic": [2]}
    record |= {"format": RUN_FORMAT, "format_version": FORMAT_VERSION, "sites": [str(site) for site in sites]}
    write_json(folder / "run.json", record | {"settings": settings})
    write_index(folder, sites, atoms=atoms, tokens=tokens, k=k, window=window, seed=seed)


def _dictionary(site: Site, atoms: int, d_model: int, k: int, rich: bool, random: np.random.Generator) -> ITDA:
    def vectors() -> torch.Tensor:
        values = torch.from_numpy(random.standard_normal((atoms, d_model)).astype(np.float32))
        return values / values.norm(dim=1, keepdim=True)

    more: dict[str, Any] = {"provenance": {"model": "tiny", "corpus": "words"}, "offset": torch.ones(d_model)}
    if rich:
        share = torch.from_numpy(random.random((2, atoms)).astype(np.float32))
        more |= {"fidelity": 1 - share[0] / 10, "novelty": share[1], "replication": _replication(atoms, random)}
        more |= {"nearest": _nearest(atoms, random), "massive_norm": 500.0}
        more["feature_encoder"] = FeatureEncoder(vectors() * 0.999, 2.0, torch.zeros(d_model), tokens=100)
    return ITDA(vectors(), _labels(atoms, random), k=k, site=site, threshold=0.2, **more)


def _labels(number: int, random: np.random.Generator) -> Labels:
    words, places = vocabulary(), random.integers(0, 4000, (number, 9))
    before = ["".join(words[i] for i in row[:5]) for row in places]
    token = [words[row[5]] or "x" for row in places]
    after = ["".join(words[i] for i in row[6:]) for row in places]
    start = np.array([len(each) for each in before])
    return Labels(
        document=np.array([f"page/{i}.txt" for i in range(number)], dtype=object),
        position=np.arange(number),
        char_start=start,
        char_end=start + np.array([len(each) for each in token]),
        token_id=places[:, 5],
        window=np.array([a + b + c for a, b, c in zip(before, token, after, strict=True)], dtype=object),
        window_start=np.zeros(number, np.int64),
    )


def _replication(atoms: int, random: np.random.Generator) -> Replication:
    cosines = random.random((atoms, 3)).astype(np.float32)
    counts = np.full(atoms, 4, np.int32)
    return Replication(cosines, counts // 2, counts, np.full((3, 2), 0.5, np.float32), chance=0.25)


def _nearest(atoms: int, random: np.random.Generator) -> Nearest:
    labels = _labels(4 * atoms, random)[np.arange(4 * atoms).reshape(atoms, 4)]
    cosines = np.sort(random.random((atoms, 4)).astype(np.float32))[:, ::-1].copy()
    return Nearest(labels, cosines, random.integers(0, 5, atoms))


def vocabulary() -> list[str]:
    """The text of each token id: most begin with a space."""
    random = np.random.default_rng(7)
    letters = random.integers(97, 123, (4000, 9)).astype(np.uint8)
    lengths = random.integers(1, 10, 4000)
    words = [" " + row[:length].tobytes().decode() for row, length in zip(letters, lengths, strict=True)]
    words[: len(ODD)] = ODD
    return words


def write_index(
    folder: Path, sites: tuple[Site, ...], *, atoms: int, tokens: int, k: int, window: int, seed: int = 0
) -> None:
    """Write the index of a run: windows of `window` tokens, the last one of a document shorter."""
    emptied(folder / PARTIAL)
    for number, start in enumerate(range(0, tokens, PART)):
        random = np.random.default_rng([seed, number])
        size = min(PART, tokens - start)
        codes = {site: codes_of(size, atoms, k, random) for site in sites}
        write_part(folder / PARTIAL, number, 0.5, _text(size, window, number, random), codes)
    whole = folder / PARTIAL / "whole"
    merge(parts_of(folder / PARTIAL), whole, dict.fromkeys(sites, (atoms, k)))
    found = {site: folder / str(site) / "atoms.safetensors" for site in sites}
    about = {"format": INDEX_FORMAT, "format_version": FORMAT_VERSION, "tokens": tokens, "corpus": "words"}
    about |= {"corpus_part": "all", "window": window + 1, "batch_size": 8, "model": "tiny", "revision": None}
    about |= {"pieces": {str(PARTIAL_ID): PARTIAL_BYTES}, "fingerprint": "made up", "tokens_asked": tokens}
    about["sites"] = {
        str(site): {"atoms": atoms, "k": k, "sample": sample(file), "dictionary": sha256_of(file)}
        for site, file in found.items()
    }
    write_json(whole / "index.json", about)
    publish(folder, whole)


def codes_of(tokens: int, atoms: int, k: int, random: np.random.Generator) -> CodePart:
    """Make codes of up to k different atoms; the last atom is never used, and few tokens are massive."""
    ranks = np.minimum(random.zipf(1.2, size=(tokens, 2 * k)), max(2, atoms) - 1) - 1
    anyone = random.integers(0, max(1, atoms - 1), ranks.shape)  # half of them, so that every atom has uses
    drawn = np.where(random.random(ranks.shape) < 0.5, anyone, ranks % max(1, atoms - 1))
    # Sorted to see which are the same; from another atom on in each row, as only the first k are taken.
    turn = random.integers(0, max(1, atoms - 1), (tokens, 1))
    ordered = np.sort((drawn - turn) % max(1, atoms - 1), axis=1)
    new = np.concatenate([np.ones((tokens, 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    count = np.minimum(new.sum(axis=1), random.integers(max(1, k - 2), k + 1, tokens))
    own = new & (new.cumsum(axis=1) <= count[:, None])
    ordered = (ordered + turn) % max(1, atoms - 1)
    size = random.exponential(size=int(own.sum())) * 20 * random.choice([1, 1, -1], int(own.sum()))
    error = random.beta(2, 8, size=tokens).astype(np.float32)
    massive = np.where(random.random(tokens) < 0.002, np.float32(12.5), np.float32(0)).astype(np.float32)
    return CodePart(count.astype(np.int32), ordered[own].astype(np.int32), size.astype(np.float32), error, massive)


def _text(tokens: int, window: int, part: int, random: np.random.Generator) -> TextPart:
    """Make windows; every eighth of them is a third as long and ends its document."""
    lengths = np.where(np.arange(2 + 2 * tokens // window) % PER_DOCUMENT == PER_DOCUMENT - 1, window // 3 + 1, window)
    number = int(np.searchsorted(lengths.cumsum(), tokens)) + 1
    lengths = lengths[:number].copy()
    lengths[-1] -= lengths.sum() - tokens
    words = [word.encode() for word in vocabulary()]
    ids = np.minimum(random.zipf(1.3, size=tokens), len(words)) - 1
    data, starts = np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)])
    text, ends = gathered(data, starts[ids], starts[ids + 1])
    first = np.repeat(ends[:-1][np.concatenate([[0], lengths.cumsum()[:-1]])], lengths)
    window_ends = ends[lengths.cumsum()]
    document = np.arange(number) // PER_DOCUMENT
    names = [f"page/{part}-{i}.txt" for i in range(int(document[-1]) + 1)]
    starts_of = np.concatenate([[0], lengths.cumsum()])
    position = np.arange(tokens) - np.repeat(starts_of[:-1][document * PER_DOCUMENT], lengths)
    columns = (position, ends[:-1] - first, ends[1:] - first, ids)
    return TextPart(
        names,
        text,
        np.diff(window_ends, prepend=0),
        lengths,
        document.astype(np.int32),
        np.zeros(number, np.int64),
        *(c.astype(np.int32) for c in columns),
    )
