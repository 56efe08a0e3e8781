"""A model that is steered within a block: hooks that change the activations of one site, and are gone afterwards."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.core.steering import Edit
from itda.errors import ModelError, SettingError
from itda.sources.models.base import IN_MEMORY, ActivationModel
from itda.sources.models.edited import Editing, check_fits
from itda.sources.models.hooks import standing
from itda.sources.models.pass_tokens import ALL, Tokens, forget
from itda.sources.models.transformers import LanguageModel


@dataclass(eq=False)
class Steering:
    """An edit of a model's activations at one site, in force for the passes of this thread within a `with` block.

    All threads may steer the same model at once, each in its own way. A thread that is started within the block is not
    steered, unless it runs in a copy of the context (`contextvars.copy_context().run`). Blocks within blocks act
    together, the outer one first. May be used again.

    >>> import itda, torch
    >>> lm = itda.load_model("tiny")
    >>> with Steering(lm, itda.Site(3), Edit.of(None, direction=100 * torch.ones(192))):
    ...     steered = lm.generate("import os", max_new_tokens=1)
    >>> steered == lm.generate("import os", max_new_tokens=1)
    False
    """

    model: LanguageModel
    site: Site
    edit: Edit
    tokens: Tokens = ALL
    unit: dict[int, float] = field(default_factory=dict)
    """The typical coefficient of each atom that is added or set: strength 1."""
    _open: dict[int, list[AbstractContextManager[None]]] = field(default_factory=dict, repr=False)
    """The blocks that are open, by thread."""

    def __post_init__(self) -> None:
        self._place = self.model.places([self.site])[self.site]
        self._editing = Editing(self.model.name, self.model.tokenizer, self.model.d_model, self.edit, self.tokens)

    def __repr__(self) -> str:
        return f"<Steering of {self.model.name} at {self.site}>"

    def __enter__(self) -> Steering:
        block = standing(*self._editing.hooks(self.model.model, self._place))
        block.__enter__()
        self._open.setdefault(threading.get_ident(), []).append(block)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        own = self._open[threading.get_ident()]
        block = own.pop()
        if not own:
            del self._open[threading.get_ident()]
        forget()
        block.__exit__(kind, error, traceback)


def steerable(model: ActivationModel) -> LanguageModel:
    """Return the same model, typed as one that can be steered. Raises `ModelError` if it is not in memory."""
    if isinstance(model, LanguageModel):
        return model
    raise ModelError(
        f"{model.name} runs where hooks of this process do not reach, so it cannot be steered: {IN_MEMORY}"
    )


def check_steerable(model: LanguageModel, dictionary: ITDA) -> None:
    """Raises `ModelError` for a dictionary of another width than the model's, or made with another vocabulary."""
    check_fits(model.name, model.d_model, model.tokenizer_hash, dictionary)


def site_to_steer(dictionary: ITDA | None, site: Site | str | int | None) -> Site:
    """Return the site that is named, by default the dictionary's. Raises `SettingError` if there is none."""
    if site is not None:
        return Site.of(site)
    if dictionary is None or dictionary.site is None:
        raise SettingError("there is no site to steer at: give one, as site=3 or site='3.mlp_out'")
    return dictionary.site
