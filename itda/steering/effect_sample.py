"""The texts in which effects of atoms are measured: short windows of a corpus, with the codes of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.core.typical import Typical
from itda.errors import CorpusError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Window, Windower

LENGTH, SHORTEST = 32, 8
"""Tokens of a window; the place in it, from 0, of the first token at which anything is changed."""
PER_DOCUMENT = 16
"""Windows of a document, at most: consecutive ones, from a random one on."""
BATCH = 16
"""Windows that run together."""
MATES = 2
"""Controls of an ablation: other atoms of the same code."""

Told = Callable[[int], object]
"""Called with a number of things that are done."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Windows of text, and the codes of those of their tokens at which something may be changed."""

    windows: tuple[Int64[Tensor, " tokens"], ...]
    """The tokens of each window, special ones in front included."""
    documents: np.ndarray
    """The document of each window."""
    window: Int64[np.ndarray, " rows"]
    at: Int64[np.ndarray, " rows"]
    """For each token: its window, and its place there."""
    code: SparseCode
    """The codes of the tokens, [rows, k]."""
    typical: Typical

    def energy(self) -> Float64[np.ndarray, " atoms"]:
        """Return the sum of each atom's squared coefficients."""
        there = _within(self.code)
        atoms, squares = self.code.indices[there].numpy(), self.code.coefficients[there].double().square().numpy()
        return np.bincount(atoms, weights=squares, minlength=len(self.typical.uses))


@dataclass(frozen=True, eq=False)
class Ablations:
    """Single entries of the sample's codes to ablate, ordered by window."""

    row: Int64[np.ndarray, " entries"]
    """The token of the sample."""
    slot: Int64[np.ndarray, " entries"]
    """The place of the atom in the token's code."""
    atom: Int64[np.ndarray, " entries"]
    context: Int64[np.ndarray, " entries"]
    """The number of the context among those of the atom."""
    mates: Int64[np.ndarray, "entries mates"]
    """The places, in the same code, of the atoms with most nearly as much of its energy."""


def sample_of(
    lm: LanguageModel, dictionary: ITDA, site: Site, corpus: Corpus, tokens: int, seed: int, told: Told
) -> Sample:
    """Read windows of shuffled documents until there are so many tokens, massive ones left out, or no more documents.

    Raises `CorpusError` if there is no token.
    """
    windower, found, seen = _windower(lm, dictionary), [], 0
    ids: list[Tensor] = []
    documents: list[str] = []
    for windows in _batches(_drawn(windower, corpus, seed)):
        group = windower.group(windows, BATCH)
        x = lm.activations(group, [site])[site].float().cpu()
        ends = [group.prefix + len(each.token_ids) for each in windows]
        place, end = torch.arange(x.shape[1]), torch.tensor([*ends, *[0] * (BATCH - len(windows))])
        mask = group.is_activation & (place >= group.prefix + SHORTEST) & (place < end[:, None])
        mask[mask.clone()] = ~dictionary.is_massive(x[mask])
        found.append((dictionary.encode(x[mask]), mask.nonzero() + torch.tensor([len(ids), 0])))
        ids += [row[:end] for row, end in zip(group.input_ids, ends, strict=False)]
        documents += [each.document for each in windows]
        told(min(int(mask.sum()), tokens - seen))
        seen += int(mask.sum())
        if seen >= tokens:
            break
    if not seen:
        raise CorpusError(f"{corpus.name} has no text of over {SHORTEST} tokens: name another corpus with --corpus")
    code = _joined([each for each, _ in found])
    places = torch.cat([each for _, each in found]).numpy()
    typical = Typical.of_code(code, len(dictionary), f"{seen:,} tokens of the corpus")
    return Sample(tuple(ids), np.array(documents, dtype=object), places[:, 0], places[:, 1], code, typical)


def _windower(lm: LanguageModel, dictionary: ITDA) -> Windower:
    """Return what cuts documents into windows of `LENGTH` tokens beside special ones; shorter for a short context."""
    bos: Bos = dictionary.provenance.get("bos", "auto")
    room = lm.context if lm.context is not None else 2 * LENGTH
    trial = lm.windower(min(2 * LENGTH, room), bos)
    return lm.windower(min(LENGTH + len(trial.prefix) + len(trial.suffix), room), bos)


def chosen_tokens(sample: Sample, number: int, seed: int) -> Int64[np.ndarray, " contexts"]:
    """Return tokens of the sample, each of another window, in random order. Raises `CorpusError` for fewer than two."""
    random = np.random.default_rng([seed, 1])
    order = random.permutation(len(sample.window))
    _, first = np.unique(sample.window[order], return_index=True)
    chosen = order[np.sort(first)][:number]
    if len(chosen) < 2:
        raise CorpusError("the corpus has fewer than two texts to measure effects in: name another one with --corpus")
    return chosen


def apart(sample: Sample, dictionary: ITDA, rows: Int64[np.ndarray, " rows"]) -> Bool[np.ndarray, "atoms rows"]:
    """Return True where a token's document is another than that of the atom's label."""
    labels, read = _documents(sample, dictionary)
    return labels[:, None] != read[sample.window[rows]]


def chosen_ablations(sample: Sample, dictionary: ITDA, contexts: int, seed: int) -> Ablations:
    """Draw for each atom up to so many tokens whose code has it, in other documents than its label's."""
    there = _within(sample.code).numpy()
    row, slot = there.nonzero()
    atom = sample.code.indices.numpy()[row, slot]
    own, read = _documents(sample, dictionary)
    # A code of one atom has none to compare it with.
    fit = (own[atom] != read[sample.window[row]]) & (there.sum(axis=1)[row] > MATES)
    row, slot, atom = row[fit], slot[fit], atom[fit]
    order = np.lexsort((np.random.default_rng([seed, 2]).random(len(row)), atom))
    row, slot, atom = row[order], slot[order], atom[order]
    starts = np.searchsorted(atom, np.arange(len(dictionary)))
    context = np.arange(len(atom)) - starts[atom]
    taken = np.flatnonzero(context < contexts)
    taken = taken[np.lexsort((slot[taken], row[taken]))]  # by window and token: rows are ordered so
    row, slot = row[taken], slot[taken]
    return Ablations(row, slot, atom[taken], context[taken], _mates(sample.code, row, slot))


def _documents(sample: Sample, dictionary: ITDA) -> tuple[Int64[np.ndarray, " atoms"], Int64[np.ndarray, " windows"]]:
    """Return the number of each label's document, and of each window's."""
    labels, read = dictionary.labels.document.tolist(), sample.documents.tolist()
    number = {name: i for i, name in enumerate(dict.fromkeys([*read, *labels]))}
    return np.array([number[each] for each in labels]), np.array([number[each] for each in read])


def _mates(
    code: SparseCode, row: Int64[np.ndarray, " entries"], slot: Int64[np.ndarray, " entries"]
) -> Int64[np.ndarray, "entries mates"]:
    there, size = _within(code).numpy(), code.coefficients.abs().double().numpy()
    with np.errstate(divide="ignore"):
        size = np.log(np.where(there, size, np.nan))
    found = np.empty((len(row), MATES), np.int64)
    for start in range(0, len(row), 4096):
        some = slice(start, start + 4096)
        distance = np.abs(size[row[some]] - size[row[some], slot[some]][:, None])
        distance[np.isnan(distance)] = np.inf
        distance[np.arange(len(distance)), slot[some]] = np.inf
        found[some] = np.argsort(distance, axis=1, kind="stable")[:, :MATES]
    return found


def _drawn(windower: Windower, corpus: Corpus, seed: int) -> Iterator[Window]:
    """Yield windows of documents in a random order."""
    random = np.random.default_rng([seed, 0])
    for document in corpus.shuffled(seed):
        several = [each for each in islice(windower.cut(document), 4 * PER_DOCUMENT) if len(each.token_ids) > SHORTEST]
        first = int(random.integers(0, max(1, len(several) - PER_DOCUMENT + 1)))
        yield from several[first : first + PER_DOCUMENT]


def _batches(windows: Iterator[Window]) -> Iterator[list[Window]]:
    while batch := list(islice(windows, BATCH)):
        yield batch


def _within(code: SparseCode) -> Bool[Tensor, "rows k"]:
    return torch.arange(code.k) < code.count[:, None]


def _joined(codes: list[SparseCode]) -> SparseCode:
    return SparseCode(
        *(torch.cat([getattr(each, name).cpu() for each in codes]) for name in ("indices", "coefficients", "count"))
    )
