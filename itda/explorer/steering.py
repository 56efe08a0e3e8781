"""The answers behind the steering panel: a prompt that the model goes on with, untouched, steered and by a control.

The texts come token by token, by transformers' own `generate`; beside them there is how the next token after the prompt
changes. Controls, units and texts are those of `itda steer`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from itda.core.site import Site
from itda.core.typical import Typical
from itda.errors import MissingError, SettingError
from itda.explorer.code_index import CodeIndex
from itda.explorer.contexts import rounded
from itda.explorer.queries import Query, given, number
from itda.explorer.run_cache import Cache, IndexedDictionary, RunCache
from itda.sources.models.generation import prompt_ids
from itda.sources.models.transformers import LanguageModel
from itda.steering.asking import Asked
from itda.steering.beside import Settings, Writer, length_of, written
from itda.steering.next_token import NextToken
from itda.steering.steering import Steering, check_steerable, steerable
from itda.steering.units import label_windows, typical_of_labels

MOST_CHARACTERS, MOST_TOKENS, MOST_STRENGTH = 8_000, 200, 1_000
"""Characters of a prompt, tokens of a reply, and typical coefficients of either sign, at most."""
CONTROLS = 8
WAYS = ("untouched", "steered", "control")

SendValues = Callable[[Mapping[str, Any]], None]
Call = Callable[[], None]
ModelOf = Callable[[str], tuple[LanguageModel, Mapping[int, str]]]
"""Returns the language model of a run, and the bytes of its tokens that are not whole characters, by token id."""


@dataclass(frozen=True)
class Reply:
    """What is asked of the panel, its numbers checked."""

    prompt: str
    strength: float
    tokens: int
    seed: int | None
    ways: tuple[str, ...]

    @staticmethod
    def of(query: Query) -> Reply:
        """Take the strings of a query. Raises `SettingError` for one that is not what it should be.

        >>> Reply.of({"prompt": "import", "strength": "-2.5"})
        Reply(prompt='import', strength=-2.5, tokens=40, seed=None, ways=('untouched', 'steered'))
        """
        prompt = query.get("prompt", "")
        if not prompt.strip():
            raise SettingError("there is no prompt: type the beginning of a text")
        if len(prompt) > MOST_CHARACTERS:
            raise SettingError(f"the prompt has {len(prompt):,} characters: shorten it to {MOST_CHARACTERS:,}")
        ways = tuple(query.get("ways", "untouched,steered").split(","))
        if not set(ways) <= set(WAYS):
            raise SettingError(f"ways is {query['ways'][:40]!r}: name some of {', '.join(WAYS)}")
        tokens = _whole(query.get("tokens") or "40", "the length", 1, MOST_TOKENS)
        seed = _whole(query["seed"], "the seed", 0, 2**53) if query.get("seed") else None
        return Reply(prompt, _strength(query), tokens, seed, ways)


class SteeringPages:
    """Answers the queries of the panel about some runs. Thread-safe."""

    def __init__(self, runs: RunCache, model_of: ModelOf) -> None:
        self._runs, self._model_of = runs, model_of
        self._typical = Cache()

    def about(self, query: Query) -> Mapping[str, Any]:
        """Return the panel's limits. Raises an `ItdaError` where nothing can be steered, with the reason."""
        lm, dictionary, _, _ = self._there(query)
        return {
            "model": lm.name,
            "context": lm.context,
            "most_tokens": MOST_TOKENS,
            "most_strength": MOST_STRENGTH,
            "controls": min(CONTROLS, len(dictionary.itda) - 1),
        }

    def prepare(self, query: Query) -> None:
        """Find the unit of strength at a site, so that the first text comes soon. Raises an `ItdaError`."""
        lm, dictionary, site, _ = self._there(query)
        self._typical_of(lm, dictionary, site, given(query, "run"))

    def write(self, query: Query, send: SendValues, left: threading.Event) -> None:
        """Send what the model makes of a prompt, in each way that is asked for, until it is whole or `left` is set.

        Raises an `ItdaError`.
        """
        asked = Reply.of(query)
        lm, dictionary, site, byte_strings = self._there(query)
        atom = number(query, "atom", len(dictionary.itda), "atoms")
        _check_length(lm, asked, dictionary)
        typical = self._typical_of(lm, dictionary, site, given(query, "run"))
        _Panel(lm, dictionary, site, asked, atom, typical, byte_strings, send, left).write()

    def _there(self, query: Query) -> tuple[LanguageModel, IndexedDictionary, Site, Mapping[int, str]]:
        """Return what a query names. Raises an `ItdaError` for what is not there, or cannot be steered."""
        run, site = given(query, "run"), given(query, "site")
        dictionary = self._runs.dictionary(run, site)
        model, byte_strings = self._model_of(run)
        lm = steerable(model)
        if not lm.is_causal:
            raise MissingError(
                f"{lm.name} does not predict the next token, so there is no text to steer: "
                "steer a causal language model"
            )
        if len(dictionary.itda) < 2:
            raise MissingError(
                "the dictionary has one atom, so there is no other for a control: "
                "steer by an atom of a larger dictionary"
            )
        check_steerable(lm, dictionary.itda)
        if dictionary.index is None and not label_windows(dictionary.itda.labels, 1):
            raise MissingError(
                "the atoms' labels have no texts in which to measure the unit of strength: "
                f"first run `itda index {run}`"
            )
        return lm, dictionary, Site.parse(site), byte_strings

    def _typical_of(self, lm: LanguageModel, dictionary: IndexedDictionary, site: Site, run: str) -> Typical:
        index = dictionary.index
        if index is not None:
            return self._typical.get((run, site), [dictionary], lambda: typical_of_index(index))
        return self._typical.get((run, site), [dictionary], lambda: typical_of_labels(lm, dictionary.itda, site))


def typical_of_index(index: CodeIndex) -> Typical:
    """Return the typical coefficients of a dictionary's atoms in the corpus that was indexed."""
    return Typical(index.counts, lambda atom: index.uses(atom)[1], f"{index.ordinary:,} tokens of the run's index")


class _Panel:
    """One reply of the panel."""

    def __init__(
        self,
        lm: LanguageModel,
        dictionary: IndexedDictionary,
        site: Site,
        asked: Reply,
        atom: int,
        typical: Typical,
        byte_strings: Mapping[int, str],
        send: SendValues,
        left: threading.Event,
    ) -> None:
        self.lm, self.dictionary, self.asked, self.byte_strings, self.send = lm, dictionary, asked, byte_strings, send
        self.stop = _Stop(left)
        controls = min(CONTROLS, len(dictionary.itda) - 1)
        bos = dictionary.itda.provenance.get("bos", "auto")
        self.settings = Settings(asked.tokens, asked.seed, bos=bos, controls=controls)
        way = Asked.of(atom=atom, strength=asked.strength)
        self.steering = way.steering(lm, dictionary.itda, site, lambda: typical)
        self.writer = Writer(lm, site, asked.prompt, self.settings, typical)
        self.control_atoms = [row[0] for row in self.writer.controls(dictionary.itda, way)]
        self.controls = [
            self.writer.control(self.steering, dictionary.itda, way, [each]) for each in self.control_atoms
        ]
        self.unit, self.source = typical.of(atom), typical.source

    def write(self) -> None:
        """Send what is known at once, then the texts as they come and the changes of the next token."""
        control = self.control_atoms[0]
        self.send(
            {
                "unit": rounded(self.unit),
                "source": self.source,
                "push": rounded(length_of(self.steering)),
                "norm": rounded(self.writer.norm),
                "control": {"atom": control, "label": list(self.dictionary.shown[control])},
            }
        )
        steerings = {"untouched": None, "steered": self.steering, "control": self.controls[0]}
        # The steered one first, which is what is waited for. Those with a seed go one after the other in any case.
        ways = [way for way in ("steered", "control", "untouched") if way in self.asked.ways]
        calls: list[Call] = [partial(self._text, way, steerings[way]) for way in ways]
        if self.asked.seed is not None:
            calls = [partial(_in_turn, calls)]
        if "steered" in self.asked.ways:
            calls.append(self._changes)
        _at_once(calls, self.stop.failed)

    def _text(self, way: str, steering: Steering | None) -> None:
        streamer = _Pieces(self.lm, lambda values: self._send({"way": way, **values}))
        more = {"streamer": streamer, "stopping_criteria": transformers.StoppingCriteriaList([self.stop])}
        if steering is None:
            text = written(self.lm, self.asked.prompt, self.settings, **more)
        else:
            with steering:
                text = written(self.lm, self.asked.prompt, self.settings, **more)
        self._send({"way": way, "text": text, "tokens": len(streamer.ids), "whole": True})

    def _changes(self) -> None:
        """Send how steering changes the next token, beside the first control and the KLs of all."""
        found = {
            "steered": self.writer.change(self.steering, str),
            "control": self.writer.change(self.controls[0], str),
        }
        kls = [found["control"].kl]
        for control in self.controls[1:]:
            if self.stop.now:
                return
            kls.append(self.writer.kl(control))
        values = {way: self._values(change) for way, change in found.items()}
        self._send({"next_token": {**values, "kls": [rounded(kl) for kl in kls]}})

    def _values(self, change: NextToken) -> dict[str, Any]:
        """Return a change as JSON values; its tokens are ids in strings."""
        values = asdict(change)
        for name in ("promoted", "suppressed"):
            values[name] = [
                {**each, "token": str(self.lm.tokenizer.decode([int(each["token"])])), "bytes": self._bytes(each)}
                for each in values[name]
            ]
        return values

    def _bytes(self, token: Mapping[str, Any]) -> str | None:
        return self.byte_strings.get(int(token["token"]))

    def _send(self, values: Mapping[str, Any]) -> None:
        if not self.stop.now:
            self.send(values)


class _Stop:
    """Ends generation after the present token once a page is left, or another text has failed."""

    def __init__(self, left: threading.Event) -> None:
        self.left, self.failed = left, threading.Event()

    @property
    def now(self) -> bool:
        return self.left.is_set() or self.failed.is_set()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - transformers' own arguments
        return torch.full((len(input_ids),), self.now, dtype=torch.bool, device=input_ids.device)


class _Pieces:
    """What `generate` hands its tokens to: sends the text so far after each, unless it ends within a character."""

    def __init__(self, lm: LanguageModel, send: SendValues) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._send, self._begun = lm.tokenizer, send, False

    def put(self, value: Tensor) -> None:
        """Take the next token; the first call has the prompt."""
        if not self._begun:
            self._begun = True
            return
        self.ids += value.flatten().tolist()
        text = str(self._tokenizer.decode(self.ids, skip_special_tokens=True))
        if not text.endswith("\ufffd"):
            self._send({"text": text, "tokens": len(self.ids)})

    def end(self) -> None:
        """Do nothing: the whole text is sent by another."""


def _in_turn(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _at_once(calls: Sequence[Call], failed: threading.Event) -> None:
    """Make some calls at once, each in a thread, the last in this one. Raises the first error, after all have ended."""
    errors: list[BaseException] = []

    def run(call: Call) -> None:
        try:
            call()
        except BaseException as error:
            failed.set()
            errors.append(error)

    # Daemons: a pass that takes minutes must not keep a process alive that is asked to stop.
    threads = [threading.Thread(target=run, args=(call,), name="itda writes", daemon=True) for call in calls[:-1]]
    for thread in threads:
        thread.start()
    run(calls[-1])
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _check_length(lm: LanguageModel, asked: Reply, dictionary: IndexedDictionary) -> None:
    """Raises `SettingError` for a prompt and a reply that are too long together, before anything is computed."""
    tokens = len(prompt_ids(lm, asked.prompt, bos=dictionary.itda.provenance.get("bos", "auto")))
    if lm.context is not None and tokens + asked.tokens > lm.context:
        raise SettingError(
            f"a prompt of {tokens} tokens and {asked.tokens} new ones, but {lm.name} reads at most {lm.context}: "
            "shorten one"
        )


def _whole(text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and least <= int(text) <= most):
        raise SettingError(f"{what} is {text[:40]!r}: give a whole number from {least} to {most:,}")
    return int(text)


def _strength(query: Query) -> float:
    text = given(query, "strength")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= MOST_STRENGTH:
        raise SettingError(f"the strength is {text[:40]!r}: give a number from -{MOST_STRENGTH:,} to {MOST_STRENGTH:,}")
    return value
