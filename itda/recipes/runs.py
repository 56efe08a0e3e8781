"""Tools of all recipes: run folders, models and corpora by their settings, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from itda import config as settings
from itda.core.dictionary import ITDA
from itda.core.memory import NO_LIMITS, PursuitLimits
from itda.core.site import Site
from itda.core.tokens import Tokens
from itda.errors import CorpusError, SettingError
from itda.recipes.run_model import find_model
from itda.sources.corpora.corpus import Corpus, open_corpus
from itda.sources.corpora.text_files import NEWEST, Rules
from itda.sources.models.base import ActivationModel
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import Bos
from itda.store.dictionaries import load_dictionary, read_tokens
from itda.store.hub import local_run
from itda.store.records import RunRecord, chosen_site, open_record


@runtime_checkable
class Progress(Protocol):
    """A progress bar: tqdm has this shape."""

    def update(self, n: int, /) -> Any:
        """Count n more tokens as done."""
        ...

    def set_postfix_str(self, s: str, /) -> Any:
        """Show a remark."""
        ...


SHOW_EVERY_S = 0.2

Bar = Callable[[str, int], AbstractContextManager[Progress]]
"""A progress bar for a task with a name and a number of tokens."""


Say = Callable[[str], object]
"""A function that takes one line that the user should know, and that is no failure."""


Documents = Literal["read", "unread"]
"""Documents of a run's corpus: those that it was made from, in its order, or the part that it was not made from."""


def unsaid(_line: str) -> None:
    """Ignore a remark."""


class _Silent:
    def update(self, n: int, /) -> None:
        pass

    def set_postfix_str(self, s: str, /) -> None:
        pass


def no_bar(_name: str, _tokens: int) -> AbstractContextManager[Progress]:
    """Return a progress bar that shows nothing."""
    return nullcontext(_Silent())


def now_and_then(show: Callable[[str], object]) -> Callable[[str], object]:
    """Return a function that shows its argument, at most five times a second."""
    shown = 0.0

    def maybe(remark: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= SHOW_EVERY_S:
            shown = time.monotonic()
            show(remark)

    return maybe


@dataclass(frozen=True, repr=False)
class Run(RunRecord):
    """A run folder, opened, with what needs tensors."""

    @property
    def bos(self) -> Bos:
        """The setting `--bos`: which token stands in front of each window."""
        return bos_of(self.record)

    def dictionary(self, site: Site, limits: PursuitLimits = NO_LIMITS) -> ITDA:
        """Return the dictionary of one site, whose pursuits keep to the limits. Raises `StoreError`."""
        return replace(load_dictionary(self.sites[site]), limits=limits)

    def dictionaries(self, limits: PursuitLimits, sites: Iterable[Site] | None = None) -> dict[Site, ITDA]:
        """Return the dictionaries of some sites, by default all, which share the limits. Raises `StoreError`."""
        chosen = list(self.sites if sites is None else sites)
        return {site: self.dictionary(site, limits.shared_by(len(chosen))) for site in chosen}

    def __getitem__(self, site: str | int | Site) -> ITDA:
        """Return the dictionary of a site: by its name (`layer_3`, `3.mlp_out`), by its layer, or as a `Site`."""
        return self.dictionary(chosen_site(self, Site.of(site)))

    def tokens(self) -> Tokens:
        """Return the tokens that the run read. Raises `StoreError` for a run that does not say."""
        return read_tokens(self.folder)

    def model(self, options: settings.ModelOptions, say: Callable[[str], object] = unsaid) -> LanguageModel:
        """Return the language model that the run was made from. `say` is told of one that has changed.

        Raises `ModelError` if it is not there, or not what it was and `options` do not say that this may be.
        """
        where = find_model(self.folder, self.record, options, say)
        return load_model(where.name, where.options, where.revision)

    def any_model(self, options: settings.ModelOptions, say: Callable[[str], object] = unsaid) -> ActivationModel:
        """Return the language model of the run, of whatever kind it is: one that was given stays what it is."""
        return self.model(options, say)

    def whole_corpus(self, options: settings.CorpusOptions) -> Corpus:
        """Return all documents of the corpus that the run was made from, in its own order. Raises `CorpusError`."""
        return _reopened_corpus(self, options)


def limits_of(options: settings.PursuitOptions) -> PursuitLimits:
    """Return what the settings allow pursuits to use; what they leave open, the process decides."""
    return PursuitLimits(options.memory, True if options.fast else None)


def bos_of(record: Mapping[str, Any]) -> Bos:
    """Return the setting `--bos` of a run; runs from before there was one were made with auto."""
    return record["settings"].get("bos", "auto")


def open_run(folder: Path) -> Run:
    """Open a run folder, or a run on the Hub. Raises `StoreError` if it is missing, foreign or not whole."""
    made = open_record(local_run(folder))
    return Run(made.folder, made.record, made.sites)


def check_unchanged(corpus: Corpus, run: Run, remedy: str) -> None:
    """Raises `CorpusError`, with the remedy, unless the corpus of a run is what it was when the run was made."""
    if corpus.fingerprint != run.record["fingerprint"]:
        raise CorpusError(
            f"{run.record['corpus']} has changed since the run was made (another Python, or changed files): {remedy}"
        )


def corpus_of(
    run: Run, spec: str | None, options: settings.CorpusOptions, documents: Documents, say: Say = unsaid
) -> Corpus:
    """Open the corpus that the user names, or else the run's own, of which only the `documents` asked for.

    Raises `CorpusError` if the run's own is not there, or not what it was; `SettingError` if none of it is unread.
    """
    if spec is not None:
        return open_spec(spec, options, say)
    stored = run.record["settings"]
    if documents == "unread":
        if stored["part"] == "all":
            raise SettingError("the run was trained on all of its corpus: name another one with --corpus")
        # A run may be made of the held-out part too, from activations that were harvested of it.
        return run.whole_corpus(options).split("train" if stored["part"] == "heldout" else "heldout")
    corpus = run.whole_corpus(options).split(stored["part"])
    return corpus.shuffled(stored["seed"]) if stored["order"] == "shuffled" else corpus


def _reopened_corpus(run: Run, options: settings.CorpusOptions) -> Corpus:
    """Open a run's own corpus again: all documents, in its own order, read by the rules of that time."""
    corpus = reopened_corpus(run.record, str(run.folder), options)
    check_unchanged(corpus, run, "name a corpus with --corpus")
    return corpus


def reopened_corpus(record: Mapping[str, Any], of: str, options: settings.CorpusOptions) -> Corpus:
    """Open the corpus that a record names: all documents, in its own order, read by the rules of that time.

    `of` is what the record is of, for the message. Raises `CorpusError`; whether it has changed is not looked at.
    """
    stored, spec = record.get("settings", {}), record["corpus"]
    names = ("text_field", "dataset_config", "dataset_split", "dataset_revision")
    again = replace(options, **{name: stored[name] for name in names if name in stored})
    again = replace(again, dataset_revision=record["corpus_revision"] or again.dataset_revision)
    given = getattr(options, "corpus_path", None)
    if given is None and Path(spec).is_absolute() and not Path(spec).exists():
        raise CorpusError(
            f"the corpus of {of} was in {spec}, and is not there now: put it back, or name its place with --corpus-path"
        )
    return open_spec(given or spec, again, rules=record.get("corpus_rules", 1))


def open_spec(spec: str, options: settings.CorpusOptions, say: Say = unsaid, *, rules: Rules = NEWEST) -> Corpus:
    """The corpus that `spec` names, read as the settings say; `say` is told its notes. Raises `CorpusError`."""
    corpus = open_corpus(
        spec,
        text_field=options.text_field,
        config=options.dataset_config,
        split=options.dataset_split,
        revision=options.dataset_revision,
        rules=rules,
    )
    for note in corpus.notes:
        say(note)
    return corpus


def load_model(name: str, options: settings.ModelOptions, revision: str | None) -> LanguageModel:
    """A model by its name, loaded as the settings say. Raises `ModelError`."""
    return LanguageModel.load(
        name,
        revision=revision,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a measure that is not a number is null, as are the ends of an interval."""

    def one(value: Any) -> Any:
        if isinstance(value, float) and value != value:
            return None
        if isinstance(value, dict):
            return finite(value)
        return [one(each) for each in value] if isinstance(value, list | tuple) else value

    return {name: one(value) for name, value in values.items()}
