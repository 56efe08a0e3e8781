"""The effects of all atoms of a dictionary on the next token, each beside its controls, without generating text.

Targets of an atom are its **continuation**, the token that follows the atom's own in its own label, and its
**promoted** tokens, the five that its direction, put through the final norm and the unembedding, favours most over the
average atom. What counts is the change of the log of the targets' summed probability, in texts of other documents than
the label's.

*Added*: each atom is added to the activation of the last token of each of some contexts, as far as all the others:
`strength` typical coefficients of the dictionary. Controls of an atom are those that are used about as often. So one
pass for each atom and context serves for all.

*Ablated*: the atom's share is taken from activations whose code has it. The control in the same context: the shares of
the two other atoms of the same code that have most nearly as much of its energy are taken instead, one at a time.
Whether the difference is the atom's own, is judged by those of other atoms on the same targets, each at tokens whose
code has it: those with about as much energy in all.

The error rate is verified by *shams*: each atom with the targets of another, drawn at random, for its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from itda.core.dictionary import ITDA
from itda.core.effects import LEVEL, AtomEffects, EffectSettings, TargetEffects
from itda.core.exceeding import control_windows, either, exceeding
from itda.core.site import Site
from itda.errors import ModelError, SettingError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.pushed import ROWS, PushedText
from itda.sources.models.transformers import LanguageModel
from itda.sources.unembedding import direct_logits
from itda.steering.effect_sample import Ablations, Sample, Told, apart, chosen_ablations, chosen_tokens, sample_of
from itda.steering.effect_sums import AblatedSums, AddedSums, Pairs, Sums

PROMOTED = 5
"""Promoted tokens of an atom."""
CONTROLS, LEAST_CONTROLS = 79, 39
"""Controls of an atom: of 80 effects the four largest have a p of at most 0.05, the two largest 0.025. Fewer if the
dictionary is smaller, but not fewer than so many."""
TARGETS = ("continuation", "promoted")


State = Mapping[str, np.ndarray]
"""Sums so far, with `done`: how many of the passes are done."""


class Measuring:
    """The measurement of one dictionary, which may be stopped between two texts and go on from its `state`."""

    def __init__(
        self,
        lm: LanguageModel,
        dictionary: ITDA,
        site: Site,
        corpus: Corpus,
        asked: EffectSettings,
        told: Told = lambda _tokens: None,
    ) -> None:
        """Read the sample; `told` is called with a number of its tokens. Raises an `ItdaError` for bad input."""
        if not lm.is_causal:
            raise ModelError(f"{lm.name} does not predict the next token: use a causal language model")
        if len(dictionary) <= LEAST_CONTROLS:
            raise SettingError(
                f"{len(dictionary)} atoms are too few for controls: use a dictionary of at least {LEAST_CONTROLS + 1}"
            )
        self.lm, self.dictionary, self.site, self.asked = lm, dictionary.to("cpu"), site, asked
        self.sample: Sample = sample_of(lm, self.dictionary, site, corpus, asked.tokens, asked.seed, told)
        self.push = asked.strength * self.sample.typical.whole
        self.tokens = chosen_tokens(self.sample, asked.contexts, asked.seed)
        self.ablations: Ablations = chosen_ablations(self.sample, self.dictionary, asked.contexts, asked.seed)
        own = [_continuations(lm, self.dictionary), _promoted(lm, self.dictionary)]
        self._own = own
        shams = [each[_others(len(self.dictionary), asked.seed)] for each in own]
        number = min(CONTROLS, len(self.dictionary) - 1)
        often, much = (control_windows(each, number) for each in (self.sample.typical.uses, self.sample.energy()))
        kept = apart(self.sample, self.dictionary, self.tokens)
        self.added = AddedSums([*own, *shams], Pairs.with_controls(often), kept)
        self.ablated = AblatedSums([*own, *shams], Pairs.with_controls(much), asked.contexts)
        self._bounds = np.flatnonzero(np.diff(self.sample.window[self.ablations.row], prepend=-1))
        self.whole = not self._text(int(self.tokens[0]), whole=False).trial()
        """True if each vector costs a whole pass, as this kind of model cannot go on from keys and values."""
        self.done = 0
        self.made = 0
        """How many passes of single tokens were made so far."""

    @property
    def texts(self) -> int:
        """How often a text is read: once for each context, and once for each window with something to ablate."""
        return len(self.tokens) + len(self._bounds)

    def run(self) -> Iterator[int]:
        """Go on to the end; yields after each text, with the number of passes of single tokens that it took."""
        while self.done < self.texts:
            step = self.done
            made = self._add(step) if step < len(self.tokens) else self._ablate(step - len(self.tokens))
            self.done, self.made = self.done + 1, self.made + made
            yield made

    @property
    def passes(self) -> int:
        """About how many passes of single tokens are to be made: those of ablation share some."""
        return len(self.tokens) * len(self.dictionary) + 2 * len(self.ablations.row)

    def state(self) -> State:
        """Return the sums so far."""
        parts = (("added", self.added), ("ablated", self.ablated))
        arrays = {f"{name}_{each}": getattr(sums, each) for name, sums in parts for each in Sums.ARRAYS}
        return {"done": np.array(self.done), "made": np.array(self.made), **arrays}

    def resume(self, state: State) -> None:
        """Go on from the state of a measurement of the same dictionary in the same way."""
        for name, sums in (("added", self.added), ("ablated", self.ablated)):
            for each in Sums.ARRAYS:
                getattr(sums, each)[:] = state[f"{name}_{each}"]
        self.done, self.made = int(state["done"]), int(state["made"])

    def _text(self, row: int, *, whole: bool) -> PushedText:
        """Read the window that a token of the sample is in."""
        window = int(self.sample.window[row])
        return PushedText(self.lm, self.site, self.sample.windows[window], whole=whole)

    def _add(self, context: int) -> int:
        row = self.tokens[context]
        at = int(self.sample.at[row])
        text = PushedText(self.lm, self.site, self.sample.windows[self.sample.window[row]][: at + 1], whole=self.whole)
        clean = text.clean[at].cpu()
        for start in range(0, len(self.dictionary), ROWS):
            atoms = np.arange(start, min(start + ROWS, len(self.dictionary)))
            vectors = self.push * self.dictionary.atoms[start : start + len(atoms)]
            self.added.add(atoms, text.log_p(torch.full((len(atoms),), at), vectors).cpu(), clean)
        self.added.close(context)
        return len(self.dictionary)

    def _ablate(self, place: int) -> int:
        bounds = [*self._bounds.tolist(), len(self.ablations.row)]
        entries = np.arange(bounds[place], bounds[place + 1])
        text = self._text(int(self.ablations.row[entries[0]]), whole=self.whole)
        clean, made = text.clean.cpu(), 0
        for some in _by_token(self.ablations.row[entries]):
            made += self._ablate_some(text, clean, entries[some])
        return made

    def _ablate_some(
        self, text: PushedText, clean: Float32[Tensor, "tokens vocabulary"], entries: Int64[np.ndarray, " entries"]
    ) -> int:
        found, code = self.ablations, self.sample.code
        row, atom = found.row[entries], found.atom[entries]
        slots = np.concatenate([found.slot[entries, None], found.mates[entries]], axis=1)
        # An atom of a token may be one entry's own and a mate of others: it is ablated once.
        wanted, where = np.unique(row[:, None] * code.k + slots, return_inverse=True)
        where = where.reshape(slots.shape)
        of, slot = torch.from_numpy(wanted // code.k), torch.from_numpy(wanted % code.k)
        shares = code.coefficients[of, slot][:, None] * self.dictionary.atoms[code.indices[of, slot]]
        at = torch.from_numpy(self.sample.at[of.numpy()])
        log_p = torch.cat([text.log_p(*part) for part in zip(at.split(ROWS), (-shares).split(ROWS), strict=True)])
        self.ablated.add(
            atom, found.context[entries], log_p.cpu(), where[:, 0], where[:, 1:], clean, self.sample.at[row]
        )
        return len(wanted)

    def found(self, about: Mapping[str, Any] | None = None) -> AtomEffects:
        """Return the effects, once all is done; `about` is kept with them."""
        measures: dict[str, TargetEffects] = {}
        wrong: dict[str, float] = {}
        for name, sums in (("added", self.added), ("ablated", self.ablated)):
            shams = []
            for kind, target in enumerate(TARGETS):
                measures[f"{name}_{target}"] = sums.effects(kind, self.asked.seed)
                shams.append(sums.effects(kind + len(TARGETS), self.asked.seed).p)
                wrong[f"{name}_{target}"] = exceeding(shams[-1], LEVEL)
            wrong[name] = exceeding(either(*shams), LEVEL)
        tokenizer: Any = self.lm.tokenizer
        following = [str(tokenizer.decode([i])) if i >= 0 else None for i in self._own[0][:, 0].tolist()]
        promoted = [tuple(str(tokenizer.decode([i])) for i in row) for row in self._own[1].tolist()]
        settled = {
            **(about or {}),
            "strength": float(self.asked.strength),
            "push": float(self.push),
            "contexts": self.asked.contexts,
            "sample": len(self.sample.window),
            "seed": self.asked.seed,
            "controls": self.added.pairs.shape[1] - 1,
            "level": LEVEL,
            "whole_passes": self.whole,
            "false_positives": {name: None if share != share else share for name, share in wrong.items()},
        }
        return AtomEffects(
            measures,
            uses=np.asarray(self.sample.typical.uses).astype(np.int32),
            added=self.added.contexts(TARGETS.index("promoted")),
            ablated=self.ablated.contexts(TARGETS.index("promoted")),
            continuation=tuple(following),
            promoted=tuple(promoted),
            about=settled,
        )


def atom_effects(
    lm: LanguageModel,
    dictionary: ITDA,
    site: Site,
    corpus: Corpus,
    asked: EffectSettings = EffectSettings(),  # noqa: B008 - immutable
    told: Told = lambda _passes: None,
) -> AtomEffects:
    """Measure the effects of all atoms in texts of a corpus; `told` is called with numbers of passes that are done.

    Raises `SettingError` for too few atoms, `CorpusError` for too little text, `ModelError` for a model that predicts
    nothing.
    """
    measuring = Measuring(lm, dictionary, site, corpus, asked)
    for passes in measuring.run():
        told(passes)
    return measuring.found()


def _others(atoms: int, seed: int) -> Int64[Tensor, " atoms"]:
    """Return another atom for each, drawn at random: no atom is its own."""
    order = torch.from_numpy(np.random.default_rng([seed, 3]).permutation(atoms))
    found = torch.empty(atoms, dtype=torch.long)
    found[order] = order.roll(1)
    return found


def _by_token(rows: Int64[np.ndarray, " entries"]) -> Iterator[slice]:
    """Yield the entries of some tokens at a time, of about `ROWS` in all: those of a token stay together."""
    bounds = [*np.flatnonzero(np.diff(rows, prepend=-1)).tolist(), len(rows)]
    start = 0
    for here, following in pairwise(bounds):
        if following - start > ROWS // 2 and here > start:
            yield slice(start, here)
            start = here
    yield slice(start, len(rows))


def _continuations(lm: LanguageModel, dictionary: ITDA) -> Int64[Tensor, "atoms one"]:
    """Return the token that follows each label's own in its window; -1 where there is none."""
    labels, known = dictionary.labels, {}
    found = torch.full((len(labels), 1), -1)
    for atom in range(len(labels)):
        window, end = labels.window[atom], int(labels.char_end[atom] - labels.window_start[atom])
        if labels[atom].whole:
            continue
        if window not in known:
            made: Any = lm.tokenizer(window, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            known[window] = dict(zip((s for s, _ in made["offset_mapping"]), made["input_ids"], strict=True))
        found[atom, 0] = known[window].get(end, -1)
    return found


def _promoted(lm: LanguageModel, dictionary: ITDA) -> Int64[Tensor, "atoms promoted"]:
    """Return the tokens whose logits an atom raises most over the average atom, by its direction alone."""
    logits = torch.cat([direct_logits(lm, part) for part in dictionary.atoms.float().split(ROWS)])
    logits = logits - logits.mean(dim=1, keepdim=True)
    return (logits - logits.mean(dim=0)).topk(min(PROMOTED, logits.shape[1]), dim=1).indices
