"""A run that stays in memory: its dictionaries, its tokens and its log, until somebody saves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.core.dictionary import ITDA
from itda.core.memory import NO_LIMITS, PursuitLimits
from itda.core.site import Site
from itda.core.tokens import Tokens
from itda.core.training.state import TrainingState
from itda.errors import ModelError
from itda.files import new_folder, write_json, write_whole
from itda.recipes.run_in_progress import Keeper
from itda.recipes.runs import Run, open_run, unsaid
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.store.checkpoints import Checkpoint
from itda.store.dictionaries import write_dictionary, write_tokens

NOWHERE = Path("in memory")
"""Stands for the folder of a run that has none."""


@dataclass(frozen=True, repr=False)
class RunInMemory(Run):
    """A run that no folder holds."""

    made: Mapping[Site, ITDA] = field(default_factory=dict)
    read: Tokens | None = None
    lines: tuple[str, ...] = ()
    """The lines of its log."""
    own_model: ActivationModel | None = None
    """The language model, if it was given and not named."""
    own_corpus: Corpus | None = None
    """The corpus, whole, if it was given and not named."""

    def dictionary(self, site: Site, limits: PursuitLimits = NO_LIMITS) -> ITDA:
        """Return the dictionary of one site, whose pursuits keep to the limits."""
        return replace(self.made[site], limits=limits)

    def tokens(self) -> Tokens:
        """Return the tokens that the run read."""
        assert self.read is not None
        return self.read

    def any_model(self, options: settings.ModelOptions, say: Callable[[str], object] = unsaid) -> ActivationModel:
        """Return the language model: the one that was given, or the one that was named, loaded again."""
        return self.own_model if self.own_model is not None else self.model(options, say)

    def whole_corpus(self, options: settings.CorpusOptions) -> Corpus:
        """Return all documents of the corpus, in its own order."""
        return self.own_corpus if self.own_corpus is not None else super().whole_corpus(options)

    def save(self, folder: str | Path) -> Run:
        """Write the run to a new folder, as `itda train` does, and return it opened. Raises `StoreError`.

        Commands find its model and corpus again if these were named, not given as objects.
        """
        with new_folder(Path(folder)) as partial:
            for site, dictionary in self.made.items():
                (partial / str(site)).mkdir()
                write_dictionary(dictionary, partial / str(site))
            write_tokens(self.tokens(), partial / "tokens.parquet")
            write_whole(partial / "log.jsonl", "".join(self.lines))
            write_json(partial / "run.json", self.record)
        return open_run(Path(folder))


class PlaceInMemory:
    """Stands in for the folder of a run that is made in memory: no checkpoint is ever written."""

    has_checkpoint = False
    remedy = "another call"

    def __init__(
        self, options: settings.Train, model: ActivationModel | None = None, corpus: Corpus | None = None
    ) -> None:
        self.options, self._model, self._corpus = options, model, corpus
        self._lines: list[str] = []

    @property
    def pinned(self) -> settings.Train:
        """Return the settings."""
        return self.options

    def keeper(self) -> Keeper:
        """Return a keeper that never asks for a checkpoint and leaves Ctrl-C alone."""
        return Keeper(inf, listens=False)

    def room(self) -> nullcontext[None]:
        """Do nothing: no disk is written to."""
        return nullcontext()

    def check(self, about: Mapping[str, Any]) -> None:
        """Do nothing: there is no earlier part of the run that could have been made otherwise."""

    def latest(self) -> Checkpoint | None:
        """Return None: it begins at the beginning."""
        return None

    def write(self, record: Mapping[str, Any], training_states: Mapping[str, TrainingState]) -> None:  # noqa: ARG002
        """Raises `ModelError`: nobody asks for this."""
        raise ModelError("a run in memory has no checkpoints: give an out folder")

    @contextmanager
    def log(self, seen: int) -> Iterator[Callable[[str], Any]]:  # noqa: ARG002 - the same for all places
        """Keep the lines of the log."""
        yield self._lines.append

    def finish(self, record: Mapping[str, Any], made: Mapping[Site, ITDA], tokens: Tokens) -> Run:
        """Return what was made, as a run in memory."""
        sites = {site: NOWHERE / str(site) for site in made}
        return RunInMemory(NOWHERE, record, sites, made, tokens, tuple(self._lines), self._model, self._corpus)
